"""How a network is quantised: the choices, by name, that travel with it in every file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from utils.errors import InputError

RANGE_METHODS = ("mse", "percentile", "minmax")


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The choices of a post-training quantisation.

    Args:
        w_bit: weight bits of all layers but the outer ones.
        a_bit: bits of every activation edge; the image always has 8.
        outer_bit: weight bits of the layers that read the image and of the heads; they are few and fragile.
        ranges: how the largest level is chosen: "mse", "percentile" or "minmax".
        percentile: share of the values, in percent, that "percentile" does not clip.
        equalise: even out the channels' ranges first (exact for positively homogeneous activations).
        refit: fit each layer's weights to the quantised inputs it really gets. Off: it lowers the heads' mean error but
            also flattens rare, strong answers, and on the one trained network measured it cost AP.
        correct_bias: fold each channel's mean error into its bias.
    """

    w_bit: int = 8
    a_bit: int = 4
    outer_bit: int = 8
    ranges: str = "mse"
    percentile: float = 99.99
    equalise: bool = True
    refit: bool = False
    correct_bias: bool = True

    def __post_init__(self) -> None:
        for name in ("w_bit", "a_bit", "outer_bit"):
            bits = getattr(self, name)
            if not 2 <= bits <= 8:
                raise InputError(f"--{name.replace('_', '-')}: {bits} bits; use 2 to 8")
        if self.ranges not in RANGE_METHODS:
            raise InputError(f"--ranges: {self.ranges!r} is unknown; use one of {', '.join(RANGE_METHODS)}")
        if not 50 < self.percentile <= 100:
            raise InputError(f"--percentile: {self.percentile} is not in (50, 100]")

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
