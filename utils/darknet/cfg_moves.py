"""Sections that only move, cut out or hand on values, some of them as several layers; and the map that one reads."""

from __future__ import annotations

from utils.darknet import spec as s
from utils.darknet.sections import Section
from utils.darknet.shapes import channels, sizes
from utils.errors import InputError


def _read_so_far(layers: list[s.Layer], net: Section) -> s.ModelSpec:
    return s.ModelSpec(layers=tuple(layers), net=tuple((k, v) for k, (_, v) in net.options.items()))


def width_before(layers: list[s.Layer], net: Section) -> int:
    """Channels that the next layer reads."""
    return channels(_read_so_far(layers, net), net.name)[len(layers) - 1]


def size_before(layers: list[s.Layer], net: Section) -> tuple[int, int]:
    """(height, width) that the next layer reads, at the size that [net] says."""
    before = _read_so_far(layers, net)
    return sizes(before, before.height, before.width)[len(layers) - 1]


def crop(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[crop]``."""
    if layers:
        raise InputError(f"{sec.place}: [crop] takes the image; make it the first section")
    for key in ("crop_height", "crop_width"):
        sec.required(key)
    kept, given = (sec.integer("crop_height", 1, 1), sec.integer("crop_width", 1, 1)), size_before(layers, net)
    if kept[0] > given[0] or kept[1] > given[1]:
        raise InputError(f"{sec.place}: [crop] keeps {kept[0]}x{kept[1]} px of {given[0]}x{given[1]}")
    noadjust = bool(sec.integer("noadjust", 0))
    return s.Crop(sources=(-1,), line=sec.line, given=given, kept=kept, noadjust=noadjust)


def upsample(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[upsample]``."""
    zeros = bool(sec.integer("zeros", 0))
    return s.Upsample(sources=(len(layers) - 1,), line=sec.line, stride=sec.integer("stride", 2, 1), zeros=zeros)


def left_half(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[route_lhalf]``, the first half of each source: written as the [route] with groups=2 that it is."""
    return s.Route(sources=sec.references("layers"), line=sec.line, groups=2)


def nothing(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[empty]``, which hands on what it reads: written as the [dropout] of nothing that it is."""
    return s.Dropout(sources=(len(layers) - 1,), line=sec.line, probability=0.0)


def reorg3d(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer:
    """``[reorg3d]``."""
    _no_way_back(sec)
    return s.Reorg3d(sources=(len(layers) - 1,), line=sec.line, stride=sec.integer("stride", 1, 1))


def reorg(sec: Section, layers: list[s.Layer], net: Section) -> s.Layer | tuple[s.Layer, ...]:
    """``[reorg]``: Darknet's passthrough; with ``extra`` a map as a vector; without a stride YOLOR's space to depth."""
    _no_way_back(sec)
    if sec.integer("extra", 0):
        return _values_as_channels(sec, layers, net)
    if "stride" not in sec.options:
        return _column_by_column(sec, len(layers))
    return s.Reorg(sources=(len(layers) - 1,), line=sec.line, stride=sec.integer("stride", 1, 1))


def _no_way_back(sec: Section) -> None:
    if sec.integer("reverse", 0):
        raise InputError(f"{sec.place}: reverse=1 is not supported; use [upsample]")


def _values_as_channels(sec: Section, layers: list[s.Layer], net: Section) -> tuple[s.Layer, ...]:
    """With ``extra``: every value of the map it reads, and so many zeros behind them, as channels of 1x1 px.

    Darknet copies the map as it lies in memory and leaves what follows at 0 (forward_reorg_layer): in go.cfg a score a
    point of the board, and one for passing. Of one channel that is space to depth by the whole side, fitted to more.
    """
    wide, (high, across) = width_before(layers, net), size_before(layers, net)
    if wide != 1 or high != across:
        raise InputError(
            f"{sec.place}: [reorg] with extra= takes a square map of one channel, this one {wide} of {high}x{across} "
            "px; set filters=1 in the convolution before it"
        )
    parts = s.Reorg3d(sources=(len(layers) - 1,), line=sec.line, stride=high)
    filters = high * across + sec.integer("extra", 0)
    return parts, s.Fitted(sources=(len(layers),), line=sec.line, filters=filters)


def times_read(spec: s.ModelSpec, i: int) -> int:
    """How often layers name layer ``i`` among what they read."""
    return sum(layer.sources.count(i) for layer in spec.layers)


def extra_values(spec: s.ModelSpec, i: int, fit: s.Fitted) -> int:
    """``extra`` of the [reorg] that layer ``i``, ``fit``, and the one before are; 0: none at [net]'s size."""
    parts = spec.layers[i - 1]
    if not (i and type(parts) is s.Reorg3d and fit.sources == (i - 1,) and times_read(spec, i - 1) == 1):
        return 0
    before = parts.sources[0]
    side, wide = sizes(spec, spec.height, spec.width)[before], channels(spec)[before]
    if (fit.stride, fit.spread, wide) != (1, 1, 1) or side != (parts.stride, parts.stride):
        return 0
    return max(0, fit.filters - parts.stride**2)


def _column_by_column(sec: Section, number: int) -> tuple[s.Layer, ...]:
    """Without a stride: squares of 2x2 px as channels, [dx][dy][C]; ``number`` is the first layer's.

    YOLOR's networks begin with it (Reorg in its layers.py). Darknet's stride is then 1, which moves nothing: no network
    of its own leaves the key away. [reorg3d] has the rows outside, so its second and third quarter change places.
    """
    sec.notes.append(
        f"{sec.place}: [reorg] without stride= makes channels of 2x2 px, column by column, as in YOLOR's networks; "
        "Darknet hands the map on as it is, for which say stride=1"
    )
    quarters = (
        s.Route(sources=(number,), line=sec.line, groups=4, group_id=quarter)
        for quarter in (0, 2, 1, 3)  # left above, left below, right above, right below
    )
    joined = s.Route(sources=tuple(range(number + 1, number + 5)), line=sec.line)
    return s.Reorg3d(sources=(number - 1,), line=sec.line, stride=2), *quarters, joined
