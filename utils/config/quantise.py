"""What calibration to integers is told: quantize.py, and convert_snn.py on its way to spikes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from utils import cli
from utils.cli import flag
from utils.config.bits import A_BIT, A_HELP, PERCENTILE, W_BIT, W_HELP
from utils.config.export import target
from utils.config.run import NetworkConfig
from utils.export.choices import DPU, DPU_BITS
from utils.export.engine.target import part_names
from utils.quantization.choices import BUDGETS, Budget
from utils.quantization.scheme import RANGE_METHODS, Scheme

if TYPE_CHECKING:
    from utils.darknet.spec import ModelSpec

STYLE_WORDS = {"google": "google", "1": "google", "pow2": "pow2"}
UNTRAINED = {"3": "minmax", "5": "cosine"}  # the older tool's ways without training -> --ranges
MAX_DROP = 0.01


def style(text: str) -> str:
    """A style's name, or the number that the older tool gave it."""
    if text == "apot":
        raise argparse.ArgumentTypeError("apot has to be trained: train.py --quantized apot")
    if text in ("2", "dorefa"):
        raise argparse.ArgumentTypeError("dorefa has to be trained: train.py --quantized dorefa")
    if text in UNTRAINED:
        raise argparse.ArgumentTypeError(f"{text} is --style pow2 --ranges {UNTRAINED[text]} here")
    if text == "-1":
        raise argparse.ArgumentTypeError("-1 is for a float network, and this script makes integers; leave it away")
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


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig(NetworkConfig):
    """The flags of calibration."""

    weights: str = flag("", "what to convert (default: the newest pruned or trained network)")
    w_bit: int = flag(W_BIT, W_HELP, type=int)
    a_bit: int = flag(A_BIT, A_HELP, type=int)
    style: str = flag(
        "google",
        "google (or 1): a weight scale a channel; pow2: one a layer, all scales powers of two (default: google)",
        "--style",
        "--quantized",
        type=style,
    )
    fpga: bool = flag(False, "the same as --style pow2", "--FPGA")
    ranges: str = flag("mse", "how activation ranges are chosen", choices=RANGE_METHODS)
    percentile: float | None = flag(PERCENTILE, "share that --ranges percentile does not clip, in per cent", type=float)
    range_scale: float = flag(1.0, "ranges so many times as wide: above 1 fewer, coarser levels", type=float)
    calibration: int = flag(128, "training images that ranges are measured on", type=cli.positive)
    no_equalise: bool = flag(False, "leave the channels' ranges as they are (default: evened out where it is exact)")
    no_bias_correction: bool = flag(False, "leave the biases as they are (default: each channel keeps its mean)")
    acc_bits: int | None = flag(None, "accumulator width that weights are made to fit (default: 32)", type=int)
    bits_map: Path | None = flag(None, "a file of lines: layer, weight bits, activation bits", type=cli.existing_file)
    bits: str | None = flag(None, "auto: bits by layer, from measured sensitivity (default: none)", choices=["auto"])
    max_drop: float | None = flag(
        None,
        f"of the task's score (mAP@.5 of boxes): what --bits auto may cost on training images (default: {MAX_DROP})",
        type=cli.fraction,
    )
    budget: Budget | None = flag(
        None,
        "size=0.25 or bops=0.1: the share of the 8-bit network's bytes or bit operations that --bits auto meets "
        "(default: as few bit operations as --max-drop allows)",
        type=budget,
    )

    def check_values(self) -> None:
        """Bits and ranges that no scheme has."""
        Scheme(
            w_bit=self.w_bit,
            a_bit=self.a_bit,
            acc_bits=self.acc_bits,
            range_scale=self.range_scale,
            percentile=PERCENTILE if self.percentile is None else self.percentile,
        )

    @property
    def wanted_style(self) -> str:
        """The style of the scales."""
        return "pow2" if self.fpga else self.style


@dataclass(frozen=True, kw_only=True)
class PtqConfig(QuantiseConfig):
    """The flags of quantize.py: calibration, and for which hardware."""

    target: str = flag(
        "",
        "vitis-dpu: powers of two, 8-bit weights, 7 unsigned bits; speck: refuse what it cannot run; a part or "
        f"FILE.json: what a frame takes on the engine there ({', '.join(part_names())})",
        type=target,
    )

    @property
    def for_target(self) -> Self:
        """The config with what the target wants of the integers."""
        return replace(self, style="pow2", w_bit=DPU_BITS, a_bit=DPU_BITS - 1) if self.target == DPU else self


def scheme_of(config: QuantiseConfig, spec: ModelSpec) -> Scheme:
    """The scheme that the config says; with ``--bits auto`` the 8 bits from which it goes down.

    Raises:
        InputError: bits that there are not, or bits for a layer that has none.
    """
    from utils.quantization.bits import check_layers, read_bits_map  # here, since --help needs no torch
    from utils.quantization.sensitivity import FULL

    layer_bits = () if config.bits_map is None else read_bits_map(config.bits_map)
    check_layers(layer_bits, spec, str(config.bits_map))
    return Scheme(
        w_bit=config.w_bit if config.bits is None else FULL,
        a_bit=config.a_bit if config.bits is None else FULL,
        ranges=config.ranges,
        percentile=PERCENTILE if config.percentile is None else config.percentile,
        range_scale=config.range_scale,
        equalise=not config.no_equalise,
        correct_bias=not config.no_bias_correction,
        style=config.wanted_style,
        layer_bits=layer_bits,
        acc_bits=config.acc_bits,
    )
