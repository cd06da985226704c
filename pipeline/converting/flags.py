"""The flags of convert_snn.py, besides those of quantisation."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.session import Session
from utils import cli
from utils.errors import InputError
from utils.spiking.rate import PERCENTILE, RESETS
from utils.spiking.snn_checkpoint import MODES
from utils.spiking.stream import SCHEDULES
from utils.spiking.stream_neuron import RULES

RANGE_PERCENTILE = 99.99
RATE_STEPS = 128

ONLY = {  # flag -> the mode that it belongs to
    "timesteps": "stream or rate",
    "early_exit": "stream",
    "neuron": "stream",
    "schedule": "stream",
    "curve": "stream or rate",
    "channel_wise": "rate",
    "reset": "rate",
}


def add_flags(flags: argparse.ArgumentParser) -> None:
    """Mode, steps, neurons, how much is measured. ``--percentile`` is quantisation's, with another default in rate."""
    add: Any = flags.add_argument
    add(
        "--mode",
        choices=MODES,
        default="phase",
        help="phase: layer after layer; stream: all at once; rate: the old way",
    )
    add(
        "--timesteps",
        type=cli.positive,
        default=None,
        help=f"stream: simulate at most so many (default: until settled, with other neurons L); rate: T ({RATE_STEPS})",
    )
    add("--early-exit", type=cli.positive, default=None, help="stream: the saved network answers after so many steps")
    add("--neuron", choices=sorted(RULES), default=None, help="stream: traced is exact (default), the others compare")
    add("--schedule", choices=SCHEDULES, default=None, help="stream: how pixels and biases arrive (default: spread)")
    add("--channel-wise", action="store_true", help="rate: a scale for every channel (default: one a layer)")
    add("--reset", choices=RESETS, default=None, help="rate: what a spike takes from the membrane (default: subtract)")
    add("--images", type=cli.positive, default=64, help="stream and rate: validation images that are simulated")
    add("--curve", type=cli.positive, nargs="+", default=None, help="stream and rate: steps at which mAP is measured")
    add("--stepwise", type=cli.whole, default=2, help="phase: images of the literal step-by-step proof")
    add("--finetune", action="store_true", help="stream with limited steps or other neurons, and rate: layer by layer")
    add("--finetune-images", type=cli.positive, default=16, help="training images that --finetune sees")
    add("--finetune-iterations", type=cli.positive, default=8, help="of each layer")
    if any(action.dest == "percentile" for action in flags._actions):
        flags.set_defaults(percentile=None)
    else:
        add("--percentile", type=float, default=None, help="rate: share of the values that fits (default: 99.999)")


def _settle_tuning(args: argparse.Namespace) -> None:
    if not args.finetune:
        return
    limited = args.timesteps or args.early_exit or (args.neuron or "traced") != "traced"
    if args.mode == "phase" or (args.mode == "stream" and not limited):
        what = "phase mode is exact" if args.mode == "phase" else "a stream that runs until it is settled is exact"
        raise InputError(f"--finetune: {what}, there is nothing to tune; leave it away")
    if args.early_exit:
        args.timesteps = args.early_exit  # what is tuned for these steps is nothing later


def settle_flags(session: Session) -> None:
    """Refuse flags of another mode, and fill in the defaults that depend on it.

    Raises:
        InputError: a flag does nothing in this mode.
    """
    args = session.args
    if session.loaded.kind == "spiking" and session.loaded.integer is None:
        raise InputError(f"{session.loaded.path}: holds firing rates, not integers; give the network it was made of")
    for name, modes in ONLY.items():
        if getattr(args, name) and args.mode not in modes.split(" or "):
            raise InputError(f"--{name.replace('_', '-')}: is for --mode {modes}, this is {args.mode}; leave it away")
    _settle_tuning(args)
    args.percentile = args.percentile or (PERCENTILE if args.mode == "rate" else RANGE_PERCENTILE)
    args.neuron = args.neuron or "traced"
    args.schedule, args.reset = args.schedule or "spread", args.reset or "subtract"
    if args.early_exit and args.timesteps and args.early_exit > args.timesteps:
        raise InputError(f"--early-exit: {args.early_exit} steps, but only --timesteps {args.timesteps} are simulated")
