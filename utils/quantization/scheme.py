"""How a network is quantised: the choices, by name, that travel with it in every file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from utils.errors import InputError

RANGE_METHODS = ("mse", "percentile", "minmax", "cosine")
STYLES = ("google", "dorefa", "pow2", "apot")
BITS = (*range(2, 9), 16)
MOST_APOT = 5  # bits of a weight that two powers of two make


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The choices of a quantisation.

    Args:
        style: "google": a weight scale for each output channel; "dorefa": one for each layer; "pow2": one for each
            layer, and every scale, of activations too, is a power of two, so that requantising is a shift; "apot": one
            for each layer, and weights are sums of two powers of two (`apot`), by training only.
        w_bit: weight bits of all layers but the outer and the depthwise ones.
        a_bit: bits of every activation edge; the image always has 8.
        outer_bit: weight bits, if more, of the layers that read the image, of the heads and of depthwise layers; they
            are few and fragile (docs/decisions/012).
        ranges: how the largest level is chosen: "mse", "percentile", "minmax" or "cosine".
        percentile: share of the values, in percent, that "percentile" does not clip.
        range_scale: every calibrated range is taken so many times; above 1 levels are fewer, and so are spikes.
        equalise: even out the channels' ranges first (exact for positively homogeneous activations).
        refit: fit each layer's weights to the quantised inputs it really gets. Off: it lowers the heads' mean error but
            also flattens rare, strong answers, and on the one trained network measured it cost AP.
        correct_bias: fold each channel's mean error into its bias.
        layer_bits: (layer, weight bits, activation bits) of layers that depart from the rest; of a shortcut only the
            activation counts. Edges that one concat ties share the most bits any of them asks for.
        sign_bit: levels of either sign have a bit more than ``a_bit``, for the sign: -L..L, with the L = 2^b - 1 of
            levels that are not negative, so that a window of spikes is no longer. Not for eight bits and more.
        acc_bits: width of the accumulators that the weights are made to fit; None: 32, and what does not fit is
            refused.
    """

    w_bit: int = 8
    a_bit: int = 4
    outer_bit: int = 8
    ranges: str = "mse"
    percentile: float = 99.99
    range_scale: float = 1.0
    equalise: bool = True
    refit: bool = False
    correct_bias: bool = True
    style: str = "google"
    layer_bits: tuple[tuple[int, int, int], ...] = ()
    sign_bit: bool = False
    acc_bits: int | None = None

    def __post_init__(self) -> None:
        for name in ("w_bit", "a_bit", "outer_bit"):
            _check_bits(f"--{name.replace('_', '-')}", getattr(self, name))
        object.__setattr__(self, "layer_bits", tuple((i, w, a) for i, w, a in self.layer_bits))  # JSON has lists
        for i, *both in self.layer_bits:
            for bits in both:
                _check_bits(f"--bits: layer {i}", bits)
        if self.style not in STYLES:
            raise InputError(f"--quantized: {self.style!r} is unknown; use one of {', '.join(STYLES)}")
        if self.style == "apot" and self.w_bit > MOST_APOT:
            raise InputError(
                f"--w-bit: {self.w_bit} bits in style apot, which adds two powers of two; use 2 to {MOST_APOT}"
            )
        if self.acc_bits is not None and not 12 <= self.acc_bits <= 32:
            raise InputError(f"--acc-bits: {self.acc_bits} bits; use 12 to 32")
        if self.ranges not in RANGE_METHODS:
            raise InputError(f"--ranges: {self.ranges!r} is unknown; use one of {', '.join(RANGE_METHODS)}")
        if not 50 < self.percentile <= 100:
            raise InputError(f"--percentile: {self.percentile} is not in (50, 100]")
        if not 0.25 <= self.range_scale <= 4:
            raise InputError(f"--range-scale: {self.range_scale} is not in 0.25..4; at 2 levels are half as many")

    @property
    def bits(self) -> str:
        """``8-bit weights, 4-bit activations``, with what departs from it."""
        own = f", {len(self.layer_bits)} layers with bits of their own" if self.layer_bits else ""
        sign = " and a sign" if self.sign_bit else ""
        return f"{self.w_bit}-bit weights, {self.a_bit}-bit activations{sign}{own}"

    @property
    def bits_and_style(self) -> str:
        """The same, and the style where it is not the usual one."""
        return self.bits if self.style == "google" else f"{self.bits}, {self.style}"

    def own_bits(self, i: int) -> tuple[int, int] | None:
        """(weight, activation) bits of a layer that departs from the rest."""
        return next(((w, a) for layer, w, a in self.layer_bits if layer == i), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scheme:
        """The inverse of ``to_dict``; keys of a later version are an error, not a guess."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"quantisation scheme: unknown key {min(unknown)!r}; the file is of a newer version")
        return cls(**values)


def _check_bits(place: str, bits: int) -> None:
    if bits not in BITS:
        raise InputError(f"{place}: {bits} bits; use 2 to 8, or 16")
