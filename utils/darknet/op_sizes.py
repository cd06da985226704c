"""Sizes of maps behind each kind of layer, and what share of them is no inserted zero: the functions of its row."""

from __future__ import annotations

from fractions import Fraction

from utils.darknet import spec as s
from utils.errors import InputError

Size = tuple[int, int]  # (height, width) px


def whole_ratio(first: Size, other: Size) -> bool:
    """Whether one map is as many times as large as the other in both directions."""
    large, small = max(first, other), min(first, other)
    times = large[0] // small[0] if small[0] else 0
    return (small[0] * times, small[1] * times) == large


def conv_size(layer: s.Conv, given: Size) -> Size:
    """A convolution's: its kernel's places."""
    reach = layer.dilation * (layer.size - 1) + 1
    down, right = layer.stride
    return (given[0] + 2 * layer.pad - reach) // down + 1, (given[1] + 2 * layer.pad - reach) // right + 1


def connected_size(layer: s.Connected, given: Size) -> Size:
    """One px, of a map as large as its kernel."""
    if given != (layer.size, layer.size):
        raise InputError(
            f"cfg line {layer.line}: [connected] was made for a map of {layer.size}x{layer.size} px and reads "
            f"{given[0]}x{given[1]}; use the --img-size that [net] says"
        )
    return 1, 1


def recurrent_size(layer: s.Recurrent, given: Size) -> Size:
    """One px, of one px: a unit reads values, not maps."""
    if given != (1, 1):
        raise InputError(
            f"cfg line {layer.line}: a recurrent layer reads 1x1 px at every step, this one {given[0]}x{given[1]}; set "
            "width=1 and height=1 in [net], or put an [avgpool] before it"
        )
    return 1, 1


def crop_size(layer: s.Crop, given: Size) -> Size:
    """What it keeps."""
    if given != layer.given:
        raise InputError(
            f"cfg line {layer.line}: [crop] was made for an image of {layer.given[0]}x{layer.given[1]} px and reads "
            f"{given[0]}x{given[1]}; use the --img-size that [net] says"
        )
    return layer.kept


def blur_size(layer: s.Blur, given: Size) -> Size:
    """A blur's: its kernel's places."""
    height, width = (
        (side + 2 * layer.pad - layer.size) // step + 1 for side, step in zip(given, layer.stride, strict=True)
    )
    return height, width


def pool_size(layer: s.Pool, given: Size) -> Size:
    """A pool's: its windows' places."""
    height, width = ((side + layer.pad - layer.size) // layer.stride + 1 for side in given)
    return height, width


def fitted_size(layer: s.Fitted, given: Size) -> Size:
    """That of the sum it is fitted to."""
    return given[0] // layer.stride * layer.spread, given[1] // layer.stride * layer.spread


def fitted_density(layer: s.Fitted, given: list[Fraction], width: list[int]) -> Fraction:
    """Less by the channels and the px that it adds."""
    return given[0] * Fraction(min(width[0], layer.filters), layer.filters * layer.spread**2)


def enlarged_size(layer: s.Upsample | s.TransposedConv, given: Size) -> Size:
    """``stride`` times as large."""
    return given[0] * layer.stride, given[1] * layer.stride


def parted_size(layer: s.Reorg | s.Reorg3d, given: Size) -> Size:
    """A ``stride``-th in both directions."""
    return given[0] // layer.stride, given[1] // layer.stride


def spread_density(layer: s.Upsample, given: list[Fraction], width: list[int]) -> Fraction:
    """Less by the zeros that it puts between."""
    return given[0] / (layer.stride**2 if layer.zeros else 1)


def route_density(layer: s.Route, given: list[Fraction], width: list[int]) -> Fraction:
    """The mean of its parts, by their channels."""
    parts = [n // layer.groups for n in width]
    return sum((d * n for d, n in zip(given, parts, strict=True)), Fraction(0)) / sum(parts)
