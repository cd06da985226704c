"""The flags of post-training quantisation, and the scheme that they say."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from utils import cli
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.quantization.bits import check_layers, read_bits_map
from utils.quantization.scheme import RANGE_METHODS, Scheme
from utils.quantization.sensitivity import BUDGETS, FULL

STYLE_WORDS = {"google": "google", "1": "google", "pow2": "pow2"}
MAX_DROP = 0.01


@dataclass(frozen=True)
class Budget:
    """A share of what the 8-bit network costs, in packed bytes ("size") or bit operations ("bops")."""

    kind: str
    share: float


def add_flags(flags: argparse.ArgumentParser) -> None:
    """The flags of quantisation, shared by quantize.py and convert_snn.py."""
    add: Any = flags.add_argument
    on = {"action": "store_true"}
    add("--cfg", default=None, help="structure of .weights; a .pt carries its own")
    add("--weights", default="", help="what to convert (default: the newest pruned or trained network)")
    add(
        "--w-bit",
        type=int,
        default=8,
        help="bits of the weights, 2 to 8, or 16; outer and depthwise layers have 8 at least",
    )
    add("--a-bit", type=int, default=4, help="bits of the activations, 2 to 8, or 16")
    add(
        "--style",
        "--quantized",
        type=style,
        default="google",
        help="google (or 1): a weight scale a channel; pow2: one a layer, all scales powers of two (default: google)",
    )
    add("--FPGA", dest="style", action="store_const", const="pow2", help="the same as --style pow2")
    add("--ranges", choices=RANGE_METHODS, default="mse", help="how activation ranges are chosen")
    add("--percentile", type=float, default=99.99, help="share that --ranges percentile does not clip, in per cent")
    add("--range-scale", type=float, default=1.0, help="ranges so many times as wide: above 1 fewer, coarser levels")
    add("--calibration", type=cli.positive, default=128, help="training images that ranges are measured on")
    add("--no-equalise", **on, help="leave the channels' ranges as they are (default: evened out where it is exact)")
    add("--no-bias-correction", **on, help="leave the biases as they are (default: each channel keeps its mean)")
    add("--acc-bits", type=int, default=None, help="accumulator width that weights are made to fit (default: 32)")
    add("--bits-map", type=cli.existing_file, default=None, help="a file of lines: layer, weight bits, activation bits")
    add("--bits", choices=["auto"], default=None, help="auto: bits by layer, from measured sensitivity (default: none)")
    add(
        "--max-drop",
        type=cli.fraction,
        default=None,
        help=f"mAP@.5 that --bits auto may cost on training images (default: {MAX_DROP})",
    )
    add(
        "--budget",
        type=budget,
        default=None,
        help="size=0.25 or bops=0.1: the share of the 8-bit network's bytes or bit operations that --bits auto meets "
        "(default: as few bit operations as --max-drop allows)",
    )


def style(text: str) -> str:
    """A style's name, or the number that the older tool gave it."""
    if text in ("2", "dorefa"):
        raise argparse.ArgumentTypeError("dorefa has to be trained: train.py --quantized dorefa")
    if text not in STYLE_WORDS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(STYLE_WORDS)}, got {text}")
    return STYLE_WORDS[text]


def budget(text: str) -> Budget:
    """``size=0.25`` or ``bops=0.1``."""
    kind, equals, number = text.partition("=")
    if kind not in BUDGETS or not equals:
        raise argparse.ArgumentTypeError(f"must be size=SHARE or bops=SHARE, got {text}")
    share = cli.fraction(number)
    if share == 0:
        raise argparse.ArgumentTypeError("the share must be above 0")
    return Budget(kind, share)


def scheme_of(args: argparse.Namespace, spec: ModelSpec) -> Scheme:
    """The scheme that the flags say; with ``--bits auto`` the 8 bits from which it goes down.

    Raises:
        InputError: flags that contradict one another, or bits for a layer that has none.
    """
    if args.bits is None:
        for name in ("max_drop", "budget"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name.replace('_', '-')}: says how --bits auto chooses; add --bits auto")
    elif args.bits_map is not None:
        raise InputError("--bits auto and --bits-map: both choose bits by layer; give one of them")
    layer_bits = () if args.bits_map is None else read_bits_map(args.bits_map)
    check_layers(layer_bits, spec, str(args.bits_map))
    return Scheme(
        w_bit=args.w_bit if args.bits is None else FULL,
        a_bit=args.a_bit if args.bits is None else FULL,
        ranges=args.ranges,
        percentile=args.percentile,
        range_scale=args.range_scale,
        equalise=not args.no_equalise,
        correct_bias=not args.no_bias_correction,
        style=args.style,
        layer_bits=layer_bits,
        acc_bits=args.acc_bits,
    )
