"""The flags of a training run."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.training.quantised import quantised_flags
from utils import cli
from utils.darknet.replace_activation import CHOICES
from utils.distillation.strategies import KNOWN, terms_of
from utils.errors import InputError


def train_parser(doc: str) -> cli.Parser:
    """The command line of train.py.

    Args:
        doc: the help's text, with real commands.
    """
    flags = cli.parser(doc)
    add: Any = flags.add_argument
    on = {"action": "store_true"}
    add("--cfg", default=None, help=f"the network's structure (default: {cli.CFG}, or the one in --weights X.pt)")
    add("--weights", default="", help="start from these: .weights, or a .pt of ours (default: from scratch)")
    add("-pt", "--pretrained", **on, help="take what fits of --weights; fresh heads where the classes differ")
    add("--epochs", type=cli.positive, default=30, help="times each image is seen")
    add(
        "--lr",
        type=cli.non_negative,
        default=None,
        help="learning rate (default: 0.2, with fresh heads 0.4, quantised 0.01; --adam: 1/100)",
    )
    add("--adam", **on, help="AdamW instead of SGD with Nesterov momentum")
    add("--ema", action=argparse.BooleanOptionalAction, default=True, help="measure and save the weights' average")
    add("--sync-bn", **on, help="under torchrun: batch norm over the images of all processes")
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
    add("--tensorboard", **on, help="also write every epoch's numbers as scalars; needs the package tensorboard")
    add("--act", choices=sorted(CHOICES), default=None, help="put this in place of the cfg's leaky activations")
    add("--resume", nargs="?", const="newest", default=None, help="go on with a last*.pt (default: the newest cut one)")
    quantised_flags(flags)
    _teacher_flags(flags)
    return flags


def _teacher_flags(flags: cli.Parser) -> None:
    add: Any = flags.add_argument
    add(
        "--t_weights",
        "--t-weights",
        default="",
        help="a teacher: a .pt of ours, or .weights (default: what --weights was pruned from)",
    )
    add("--t_cfg", "--t-cfg", default=None, help="the teacher's structure, where --t_weights does not carry it")
    add("--KDstr", "--kd", dest="kd", type=strategy, default="", help=f"what it teaches: {KNOWN}; 3+cwd: both")
    add("--kd-weight", type=cli.non_negative, default=1.0, help="of all that the teacher says, beside the labels")
    add(
        "--t_data", "--t-data", default="", help="more images without labels, a list or a folder, for the teacher alone"
    )


def strategy(text: str) -> str:
    """A strategy of --KDstr that exists."""
    try:
        terms_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None
    return text


def share(text: str) -> float:
    """A number from 0 to 1."""
    return 1.0 if text in ("1", "1.0") else cli.fraction(text)


def finetune_flags() -> list[str]:
    """The preset after a cut: half of the usual rate; warm-up and the average of the weights are on by default."""
    return ["--lr", "0.1"]
