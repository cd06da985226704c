"""The flags of the prune scripts."""

from __future__ import annotations

import argparse
from typing import Any

from utils import cli
from utils.pruning.bias_carrier import Beta
from utils.pruning.criteria import CRITERIA
from utils.pruning.layer_plan import By

AUTO = "auto"
SCORES = (*CRITERIA, "taylor", "random")


def prune_parser(doc: str, *, percent: float | None) -> cli.Parser:
    """The command line of a prune script.

    Args:
        doc: the help's text, with real commands.
        percent: default of ``--percent``; None for a script that cuts no channels.
    """
    flags = cli.parser(doc)
    add: Any = flags.add_argument
    add("--cfg", default=None, help="structure of .weights; a .pt carries its own")
    add("--weights", default="", help="what to prune (default: the newest train.py -sr)")
    add("--score", choices=SCORES, default="gamma", help="what a channel or a block is judged by")
    add("--recalibrate", type=cli.whole, default=10, help="batches of 64 training images that measure BN anew, or 0")
    add("--force", action="store_true", help="prune what the gammas say will not survive")
    add("--explain", action="store_true", help="print which channels belong together, and why some stay")
    add("--finetune", type=cli.whole, default=0, metavar="N", help="train what is left for N epochs, at a low rate")
    add("--iterative", type=cli.positive, default=1, metavar="K", help="cut in K steps, each fine-tuned (--finetune)")
    if percent is not None:
        _channel_flags(add, percent)
    return flags


def _channel_flags(add: Any, percent: float) -> None:
    add("--percent", type=percent_or_auto, default=percent, help="share of the channels under the threshold, or auto")
    add("--max-drop", type=cli.fraction, default=0.01, help="of mAP@.5: what --percent auto may cost")
    add(
        "--target-macs",
        type=cli.non_negative,
        default=None,
        help="prune until so many MACs are left (up to 1: a share)",
    )
    add("--target-params", type=cli.non_negative, default=None, help="likewise for parameters")
    add("--search", type=cli.whole, default=0, metavar="N", help="EagleEye: the best of N random sets of layer rates")
    add(
        "--delta", type=cli.fraction, default=0.02, help="how far a candidate's share of MACs may be from --target-macs"
    )
    add("--scope", default="all", help="layers on offer: all, backbone, neck, or numbers such as 5-20,33")
    add(
        "--beta", choices=[each.value for each in Beta], default="carrier", help="who takes over what cut channels sent"
    )
    add("--sensitivity", action="store_true", help="cut nothing; measure each layer alone at several percents")


def floor_flag(flags: argparse.ArgumentParser) -> None:
    """``--layer-keep``, of the scripts that keep a share of every layer."""
    text = "smallest share of its channels a layer keeps"
    flags.add_argument("--layer-keep", "--layer_keep", type=cli.fraction, default=0.1, help=text)


def blocks_flag(flags: argparse.ArgumentParser) -> None:
    """``--shortcuts``, of the scripts that take out residual blocks."""
    text = "residual blocks to take out"
    flags.add_argument("--shortcuts", "--shortcut", type=cli.whole, default=1, help=text)
    text = "blocks of the lowest score, or of the smallest share in their sum"
    flags.add_argument("--by", choices=[each.name.lower() for each in By], default="score", help=text)


def percent_or_auto(text: str) -> float | str:
    """A share with 0 <= x < 1, or the word auto."""
    return AUTO if text == AUTO else cli.fraction(text)
