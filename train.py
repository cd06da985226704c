"""Train a detector, dense or sparse, from nothing, from Darknet weights, or from any checkpoint of ours.

  python3 train.py                                              the sample set, yolov3-tiny-digits, 20 epochs
  python3 train.py -sr --s 0.001 --prune 0                      sparse, for slim_prune.py
  python3 train.py --cfg cfg/yolov3.cfg --weights yolov3.weights -pt --data mine.data --epochs 50
  python3 train.py --weights weights/slim_prune_0.8.pt --epochs 10 --name finetuned
  python3 train.py --resume                                     go on with the run that was cut

Leaves weights/last.pt and best.pt (the validation mAP@.5:.95 decides; --name X: last_X.pt), and in runs/train[-X] the
record, results.csv, results.png and sample pictures. A taken name gets -2.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from pipeline.bench import WEIGHTS
from pipeline.training.epoch import finish, one_epoch
from pipeline.training.run import assemble
from utils import cli
from utils.darknet.network import Checkpoint, load_checkpoint
from utils.errors import InputError
from utils.reporting.record import Record

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = cli.parser(__doc__ or "")
    add: Any = flags.add_argument
    on = {"action": "store_true"}
    add("--cfg", default=None, help=f"the network's structure (default: {cli.CFG}, or the one in --weights X.pt)")
    add("--weights", default="", help="start from these: .weights, or a .pt of ours (default: from scratch)")
    add("-pt", "--pretrained", **on, help="take what fits of --weights; fresh heads where the classes differ")
    add("--epochs", type=cli.positive, default=20, help="times each image is seen")
    add(
        "--lr",
        type=cli.non_negative,
        default=None,
        help="learning rate (default: 0.2, with fresh heads 0.4; --adam: 1/100)",
    )
    add("--adam", **on, help="AdamW instead of SGD with Nesterov momentum")
    add("--ema", action=argparse.BooleanOptionalAction, default=True, help="measure and save the weights' average")
    add("--multi-scale", **on, help="another image size each batch")
    add(
        "--mosaic",
        type=share,
        default=None,
        help="share of samples made of four images (default: as --data says, or 1)",
    )
    add("--rect", **on, help="batches of images of similar aspect, without mosaic")
    add("-sr", "--sparse", **on, help="push the gammas that pruning can cut towards zero")
    add("--s", type=cli.non_negative, default=0.001, help="strength of that push, an optimizer step")
    add("--prune", type=int, choices=[0, 1, 2], default=0, help="for 0 normal/regular, 1 shortcut/slim, 2 layer")
    add("--s-schedule", choices=["constant", "decay"], default="constant", help="decay: s / 100 from half way on")
    add("--val-interval", type=cli.positive, default=None, help="epochs between validations (default: by set sizes)")
    add("--notest", **on, help="validate after the last epoch only")
    add("--nosave", **on, help="save after the last epoch only")
    add("--resume", nargs="?", const="newest", default=None, help="go on with a last*.pt (default: the newest cut one)")
    return flags


def share(text: str) -> float:
    """A number from 0 to 1."""
    return 1.0 if text in ("1", "1.0") else cli.fraction(text)


def run(args: argparse.Namespace) -> Record:
    """Train as the flags say.

    Raises:
        InputError: data, cfg, weights or flags are wrong, or the loss is not finite.
    """
    saved = cut_run(args) if args.resume else None
    if saved:  # the flags it began with, but this machine's
        here = {"device": args.device, "workers": args.workers, "resume": args.resume}
        args = argparse.Namespace(**(saved.training["args"] | here))
    job = assemble(args, saved)
    for epoch in range(job.progress.epochs, args.epochs):
        job = one_epoch(job, epoch)
    return finish(job)


def cut_run(args: argparse.Namespace) -> Checkpoint:
    """The checkpoint to go on from: the one named, or the newest last*.pt of a run that was cut.

    Raises:
        InputError: there is none, or the run came to its end.
    """
    newest = sorted(WEIGHTS.glob("last*.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest if args.resume == "newest" else [Path(args.resume)]:
        checkpoint = load_checkpoint(path)
        if checkpoint.training:
            log.info("resume: %s, after epoch %d", path, checkpoint.training["progress"]["epochs"])
            return checkpoint
        if args.resume != "newest":
            raise InputError(f"{path}: this run came to its end; train on with --weights {path}")
    raise InputError(f"--resume: no run in {WEIGHTS}/ was cut; start one without --resume")


if __name__ == "__main__":
    cli.main(run, parser())
