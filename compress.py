"""The whole chain: train, train sparse, prune, fine-tune, quantise, convert into spikes, compare.

  python3 compress.py                                             the sample set, about ten minutes on 2 cores
  python3 compress.py --percent 0.7 --a-bit 3
  python3 compress.py --strategy regular --act relu --style pow2 --qat          for hardware: multiples of 8, shifts
  python3 compress.py --cfg cfg/yolov3-tiny.cfg --weights yolov3-tiny.weights --data mine.data --epochs 50
  python3 compress.py --target zynq7020                           and what a frame of every stage takes on that part
  python3 compress.py --sweep percent=0.5,0.7,0.9 a-bit=2,4,8     every combination, and which are worth having

Every stage is one of the scripts, with its own checkpoint and record; the network before the cut teaches the one after
it (--KDstr). Run it again after an interruption: finished
stages are kept as long as their inputs are the same, and the one that was cut goes on. The end is one table,
runs/compress/record.json, and a page to send on beside it: report.html. A sweep runs chains side by side that share
their finished stages, in processes of its own (or through Ray, where requirements-sweep.txt is installed), and ends in
runs/sweep/: a table, and pictures of mAP against bytes and energy.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import convert_snn
import layer_channel_prune
import layer_channel_regular_prune
import layer_prune
import normal_prune
import quantize
import regular_prune
import shortcut_prune
import slim_prune
import train
from utils import cli
from utils.chain.decisions import BackOff, CutShare, Learn, Once, Recover, Widen
from utils.config.pipeline import PipelineConfig
from utils.config.prune import FLAGS, BlocksConfig, ChannelConfig, SlimConfig
from utils.distillation.strategies import USUAL, terms_of

if TYPE_CHECKING:
    from pipeline.pipeline import Stage
    from utils.reporting.record import Record


SCRIPTS: dict[str, ModuleType] = {
    "normal": normal_prune,
    "regular": regular_prune,
    "shortcut": shortcut_prune,
    "slim": slim_prune,
    "layer": layer_prune,
    "layer_channel": layer_channel_prune,
    "layer_channel_regular": layer_channel_regular_prune,
}
PENALTIES = dict.fromkeys(SCRIPTS, 1) | {"normal": 0, "regular": 0, "layer": 2}  # strategy -> train.py --prune


def parser() -> cli.Parser[PipelineConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", PipelineConfig)


def stages(config: PipelineConfig) -> list[Stage]:
    """What is run, each stage on the network that the one before it left."""
    from pipeline.pipeline import Stage, TeacherSpec  # here, since --help needs no torch

    first = ["--cfg", config.cfg] if config.cfg else []
    first += ["--weights", config.weights] if config.weights else []
    first += ["-pt"] if config.weights or config.pretrained else []
    files = [Path(path) for path in (config.cfg, config.weights) if path]
    teacher = TeacherSpec("baseline", config.kd) if terms_of(config.kd) else None
    asked = "kd" in config.given  # of a strong penalty the usual one teaches, whatever is taught after the cut
    usual = TeacherSpec("baseline", USUAL if asked else config.kd)
    first += ["--act", config.act] if config.act else []
    first += ["--precision", config.precision] if "precision" in config.given else []
    learn = Learn("baseline", config.epochs, config.patience, config.lr)
    push = BackOff(config.sparse_epochs, config.s, config.lr, config.s_schedule, config.epochs)
    recover = Recover(config.finetune_epochs, config.patience, config.lr, config.epochs)
    bits = Widen(config.w_bit, config.a_bit, config.qat, config.finetune_epochs if config.qat else None)
    style, named = config.style or "google", bool(config.point)
    quantising = ["--quantized", style] if config.qat else ["--style", style] if config.style else []
    return [
        Stage("baseline", train, first, files, decision=learn, best=True),
        Stage("sparse", train, ["-sr", "--prune", PENALTIES[config.strategy]], teacher=usual, decision=push),
        pruned(config),
        Stage("finetuned", train, [], teacher=teacher, decision=recover, best=True),
        Stage(
            "quantised",
            train if config.qat else quantize,
            quantising,
            named=named or config.qat,
            teacher=teacher if config.qat else None,
            decision=bits,
            best=config.qat,
        ),
        Stage("spiking", convert_snn, [], named=named),
    ]


def pruned(config: PipelineConfig) -> Stage:
    """The stage of the cut, by the script of ``--strategy``."""
    from pipeline.pipeline import Stage

    kind, flags = FLAGS[config.strategy].config, list[Any]()
    flags += ["--layer-keep", config.layer_keep] if issubclass(kind, SlimConfig) else []
    flags += ["--shortcuts", config.shortcuts] if issubclass(kind, BlocksConfig) else []
    decision = CutShare(config.percent) if issubclass(kind, ChannelConfig) else Once()
    variant = "" if config.strategy == "slim" else config.strategy
    return Stage("pruned", SCRIPTS[config.strategy], flags, decision=decision, variant=variant)


def run(config: PipelineConfig) -> Record:
    """Run what is not done yet, then compare all stages; with ``--sweep`` so for every combination."""
    from pipeline.chain_start import check_chain, check_start, with_data
    from pipeline.measure import measure_onnx
    from pipeline.pipeline import run_chain
    from pipeline.sweep import run_sweep, watch_parent

    if config.weights.endswith(".onnx"):
        return measure_onnx(config)
    config = with_data(config)
    check_start(config)
    check_chain(config)
    if config.sweep:
        return run_sweep(config, parser(), stages, Path(__file__))
    if config.point:
        watch_parent()
    return run_chain(config, stages(config))


def command(config: PipelineConfig) -> None:
    """The same from the command line, where a chain that lost more than ``--max-drop`` ends with exit code 3."""
    from pipeline.summary import check_verdict

    record = run(config)
    if not config.point:
        check_verdict(record)


if __name__ == "__main__":
    cli.main(command, parser())
