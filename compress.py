"""The whole chain: train, train sparse, prune, fine-tune, quantise, convert into spikes, compare.

  python3 compress.py                                             the sample set, about ten minutes on 2 cores
  python3 compress.py --percent 0.7 --a-bit 3
  python3 compress.py --cfg cfg/yolov3-tiny.cfg --weights yolov3-tiny.weights --data mine.data --epochs 50
  python3 compress.py --sweep percent=0.5,0.7,0.9 a-bit=2,4,8     every combination, and which are worth having

Every stage is one of the scripts, with its own checkpoint and record; the network before the cut teaches the one after
it (--KDstr). Run it again after an interruption: finished
stages are kept as long as their inputs are the same, and the one that was cut goes on. The end is one table,
runs/compress/record.json, and a page to send on beside it: report.html. A sweep runs chains side by side that share
their finished stages, in processes of its own (or through Ray, where requirements-sweep.txt is installed), and ends in
runs/sweep/: a table, and pictures of mAP against bytes and energy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import convert_snn
import quantize
import slim_prune
import train
from pipeline.pipeline import Stage, TeacherSpec, check_start, run_chain
from pipeline.sweep import add_sweep_flags, run_sweep, watch_parent
from pipeline.training.flags import strategy
from utils import cli
from utils.distillation.strategies import USUAL, terms_of
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = cli.parser(__doc__ or "")
    add = flags.add_argument
    add("--cfg", default=None, help=f"the network's structure (default: {cli.CFG}, or the one in --weights X.pt)")
    add("--weights", default="", help="start the first training from these; fresh heads where classes differ")
    add("-pt", "--pretrained", action="store_true", help="fresh heads also for --cfg alone; any part of --weights")
    add("--epochs", type=cli.positive, default=10, help="of the first training")
    add("--sparse-epochs", type=cli.positive, default=9, help="of the sparse training")
    add("--finetune-epochs", type=cli.positive, default=6, help="of the training after the cut")
    add("--KDstr", "--kd", dest="kd", type=strategy, default=USUAL, help="what the baseline teaches it; none: nothing")
    add("--s", type=cli.non_negative, default=0.001, help="strength of the sparsity penalty")
    add("--percent", type=cli.fraction, default=0.65, help="share of the channels to cut")
    add("--layer-keep", type=cli.fraction, default=0.1, help="smallest share of its channels a layer keeps")
    add("--w-bit", type=int, default=8, help="bits of the weights, 2 to 8")
    add("--a-bit", type=int, default=4, help="bits of the activations, 2 to 8")
    add("--until", choices=STAGES, default=None, help="end after this stage")
    add_sweep_flags(flags)
    return flags


STAGES = ("baseline", "sparse", "pruned", "finetuned", "quantised", "spiking")


def stages(args: argparse.Namespace) -> list[Stage]:
    """What is run, each stage on the network that the one before it left."""
    first = ["--epochs", args.epochs, *(["--cfg", args.cfg] if args.cfg else [])]
    first += ["--weights", args.weights] if args.weights else []
    first += ["-pt"] if args.weights or args.pretrained else []
    teacher = TeacherSpec("baseline", args.kd) if terms_of(args.kd) else None
    bits = ["--w-bit", args.w_bit, "--a-bit", args.a_bit]
    return [
        Stage("baseline", train, first, [Path(path) for path in (args.cfg, args.weights) if path]),
        Stage("sparse", train, ["-sr", "--prune", 1, "--s", args.s, "--epochs", args.sparse_epochs]),
        Stage("pruned", slim_prune, ["--percent", args.percent, "--layer-keep", args.layer_keep]),
        Stage("finetuned", train, ["--epochs", args.finetune_epochs], teacher=teacher),
        Stage("quantised", quantize, bits, named=bool(args.point)),
        Stage("spiking", convert_snn, [], named=bool(args.point)),
    ]


def run(args: argparse.Namespace) -> Record:
    """Run what is not done yet, then compare all stages; with ``--sweep`` so for every combination."""
    check_start(args)
    if args.sweep:
        return run_sweep(args, parser(), stages, Path(__file__))
    if args.point:
        watch_parent()
    return run_chain(args, stages(args))


if __name__ == "__main__":
    cli.main(run, parser())
