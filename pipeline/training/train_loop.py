"""A whole training run, from its flags to its record."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from pipeline.session import WEIGHTS
from pipeline.training.epoch import finish, leave_stage, one_epoch
from pipeline.training.run import assemble, next_stage
from utils.darknet.network import Checkpoint, load_checkpoint
from utils.errors import InputError
from utils.reporting.record import Record
from utils.training.device import select_device
from utils.training.distributed import from_environment, joined
from utils.training.tensorboard import check_installed

log = logging.getLogger(__name__)


def train(args: argparse.Namespace) -> Record:
    """Train as the flags of `train_parser` say.

    Raises:
        InputError: data, cfg, weights or flags are wrong, or the loss is not finite.
    """
    group = from_environment()
    if not group.is_main:
        logging.getLogger().setLevel(logging.WARNING)
    saved = cut_run(args) if args.resume else None
    if saved:  # the flags it began with, but this machine's; those it did not know yet are as they are here
        here = {"device": args.device, "workers": args.workers, "resume": args.resume, "sync_bn": args.sync_bn}
        args = argparse.Namespace(**(vars(args) | saved.training["args"] | here))
    if args.tensorboard:
        check_installed()
    with joined(group, cuda=select_device(args.device or group.device).type == "cuda"):
        job = assemble(args, saved, group)
        for epoch in range(job.progress.epochs, args.epochs):
            if epoch == job.stage.end:
                leave_stage(job)
                job = next_stage(job)
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
