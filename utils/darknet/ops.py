"""What is known about each kind of layer: one row a kind. Who meets a kind without a row refuses it by name.

Rooms that need code of their own for a kind (float values, wires, C, ONNX, ...) keep a dict by kind of it in one place
and look it up with `rule`; for all that a row says, no code of theirs is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from utils.darknet import spec as s
from utils.darknet.kernels import (
    Held,
    connected_tensors,
    gate_tensors,
    implicit_tensors,
    kernel_tensors,
    lstm_tensors,
    neuron_tensors,
    rnn_tensors,
    sum_tensors,
)
from utils.darknet.op_sizes import (
    Size,
    blur_size,
    connected_size,
    conv_size,
    crop_size,
    enlarged_size,
    fitted_density,
    fitted_size,
    parted_size,
    pool_size,
    recurrent_size,
    route_density,
    spread_density,
    whole_ratio,
)
from utils.darknet.walk import rule
from utils.errors import InputError


def _as_dense(layer: s.Layer, given: list[Fraction], width: list[int]) -> Fraction:
    return given[0]


@dataclass(frozen=True)
class OpFacts:
    """What is known about a kind of layer.

    ``section``: what a cfg calls it. ``computes``: its values are new ones, on a scale of their own; the others only
    move what they read, or put zeros between. ``hands_on``: channel c of what it makes is channel c of the features it
    reads. ``keeps_constants``: a channel that has one value everywhere is the same channel behind it. ``within``: its
    values lie among those it reads, or between 0 and them. ``identity``: at inference it is what it reads.
    ``integrates``: it adds up what it reads, as the charge of a neuron does.
    ``lists_sources``: a cfg names all it reads; the others read the layer before them first. ``takes`` (size of the
    first, of another): whether it can read both. ``divides``: by what it wants the sides of its map to divide.
    ``covers``: how many times its map the image must be, 0 for any. ``fills``: it puts zeros between or behind values.

    ``channels`` (layer, widths it reads, place for messages) -> its own. ``size`` and ``stride`` (layer, of its
    first feature) -> its own; a stride is input px per output px, 0 behind a global pool. ``density`` (layer, shares of
    what it reads that are no inserted zeros, widths) -> its own. ``tensors`` (layer, channels in) -> what it holds, in
    the order of the weights file.
    """

    section: str
    computes: bool = False
    hands_on: bool = False
    keeps_constants: bool = False
    within: bool = False
    identity: bool = False
    integrates: bool = False
    lists_sources: bool = False
    takes: Callable[[Size, Size], bool] = lambda first, other: first == other
    divides: Callable[[Any], int] = lambda layer: 1
    covers: Callable[[Any], int] = lambda layer: 0
    fills: Callable[[Any], bool] = lambda layer: False
    channels: Callable[[Any, list[int], str], int] = lambda layer, given, place: given[0]
    size: Callable[[Any, Size], Size] = lambda layer, given: given
    stride: Callable[[Any, Fraction], Fraction] = lambda layer, given: given
    density: Callable[[Any, list[Fraction], list[int]], Fraction] = lambda layer, given, width: Fraction(1)
    tensors: Callable[[Any, int], tuple[Held, ...]] = lambda layer, given: ()


def facts(layer: s.Layer) -> OpFacts:
    """The row of a layer's kind.

    Raises:
        InputError: there is none; names the cfg line and the kind.
    """
    return rule(OPS, layer, "row in utils/darknet/ops.py")


def activation_of(layer: s.Layer) -> str:
    """The name of a layer's activation."""
    return layer.activation if isinstance(layer, s.Activated) else "linear"


def is_identity(layer: s.Layer) -> bool:
    """Whether a layer, at inference, is what it reads."""
    return facts(layer).identity or (isinstance(layer, s.Route) and layer.repeats)


def _kernel_width(layer: s.Kernel, given: list[int], place: str) -> int:
    if given[0] % layer.groups or layer.filters % layer.groups:
        raise InputError(
            f"{place}: groups={layer.groups} divides neither or only one of {given[0]} channels in "
            f"and {layer.filters} filters; it must divide both"
        )
    return layer.filters


def _joined_width(layer: s.Layer, given: list[int], place: str) -> int:
    if len(set(given)) > 1:
        joined, layers = " and ".join(map(str, given)), " and ".join(map(str, layer.sources))
        raise InputError(f"{place}: {facts(layer).section} of layers {layers} joins {joined} channels")
    return given[0]


def _route_width(layer: s.Route, given: list[int], place: str) -> int:
    for n in given:
        if n % layer.groups:
            raise InputError(f"{place}: route cuts {n} channels into groups={layer.groups}")
    return sum(n // layer.groups for n in given)


def _reorg_width(layer: s.Reorg, given: list[int], place: str) -> int:
    if given[0] % layer.stride**2:
        raise InputError(
            f"{place}: [reorg] with stride={layer.stride} reads {given[0]} channels; "
            f"it takes a multiple of {layer.stride**2}"
        )
    return given[0] * layer.stride**2


def _groups_width(layer: s.Softmax, given: list[int], place: str) -> int:
    if given[0] % layer.groups:
        raise InputError(f"{place}: [softmax] parts {given[0]} classes into groups={layer.groups}; use a divisor")
    return given[0]


def _segment_width(layer: s.Segment, given: list[int], place: str) -> int:
    if given[0] != layer.classes:
        raise InputError(
            f"{place}: [segment] reads {given[0]} channels but has classes={layer.classes}; "
            f"set filters={layer.classes} in the convolution before it"
        )
    return given[0]


def _detect_width(layer: s.Detect, given: list[int], place: str) -> int:
    if given[0] != layer.filters:
        kind, needed, count = facts(layer).section, layer.filters, len(layer.own_anchors)
        raise InputError(
            f"{place}: [{kind}] reads {given[0]} channels but needs {needed} = {count} {layer.count_word} x "
            f"({layer.classes} classes + {layer.each - layer.classes}); "
            f"set filters={needed} in the convolution before it"
        )
    return given[0]


_RECURRENT: dict[str, Any] = {
    "computes": True,
    "channels": lambda layer, given, place: layer.filters,
    "size": recurrent_size,
}
_DETECT: dict[str, Any] = {"hands_on": True, "identity": True, "channels": _detect_width, "density": _as_dense}
_HEADS = {s.Yolo: "yolo", s.GaussianYolo: "Gaussian_yolo", s.TurnedYolo: "yolo_bdp", s.Region: "region"}
OPS: dict[type[s.Layer], OpFacts] = {
    s.Conv: OpFacts(
        "convolutional",
        computes=True,
        integrates=True,
        channels=_kernel_width,
        size=conv_size,
        stride=lambda layer, given: given * layer.stride[0],
        tensors=kernel_tensors,
    ),
    s.Connected: OpFacts(
        "connected",
        computes=True,
        integrates=True,
        channels=_kernel_width,
        size=connected_size,
        tensors=connected_tensors,
    ),
    s.Crop: OpFacts("crop", computes=True, hands_on=True, keeps_constants=True, size=crop_size),
    s.TransposedConv: OpFacts(
        "transposed_convolutional",
        computes=True,
        integrates=True,
        channels=_kernel_width,
        size=enlarged_size,
        stride=lambda layer, given: given / layer.stride,
        tensors=kernel_tensors,
    ),
    s.MaxPool: OpFacts(
        "maxpool",
        hands_on=True,
        keeps_constants=True,
        within=True,
        size=pool_size,
        stride=lambda layer, given: given * layer.stride,
    ),
    s.AvgPool: OpFacts(
        "avgpool",
        computes=True,
        hands_on=True,
        keeps_constants=True,
        within=True,
        size=lambda layer, given: (1, 1),
        stride=lambda layer, given: Fraction(0),
    ),
    s.LocalAvgPool: OpFacts(
        "local_avgpool",
        computes=True,
        hands_on=True,
        keeps_constants=True,
        within=True,
        size=pool_size,
        stride=lambda layer, given: given * layer.stride,
    ),
    s.Blur: OpFacts(
        "antialiasing",
        computes=True,
        hands_on=True,
        within=True,
        size=blur_size,
        stride=lambda layer, given: given * layer.stride[0],
    ),
    s.Upsample: OpFacts(
        "upsample",
        fills=lambda layer: layer.zeros,
        hands_on=True,
        keeps_constants=True,
        within=True,
        size=enlarged_size,
        stride=lambda layer, given: given / layer.stride,
        density=spread_density,
    ),
    s.Route: OpFacts("route", within=True, lists_sources=True, channels=_route_width, density=route_density),
    s.Shortcut: OpFacts("shortcut", computes=True, integrates=True, takes=whole_ratio, tensors=sum_tensors),
    s.Activation: OpFacts("activation", computes=True, hands_on=True, tensors=neuron_tensors),
    s.Fitted: OpFacts(
        "fit",
        within=True,
        fills=lambda layer: True,
        lists_sources=True,
        divides=lambda layer: layer.stride,
        channels=lambda layer, given, place: layer.filters,
        size=fitted_size,
        stride=lambda layer, given: given * layer.stride / layer.spread,
        density=fitted_density,
    ),
    s.SqueezeExcite: OpFacts("se", computes=True, hands_on=True, within=True, tensors=gate_tensors),
    s.ScaleChannels: OpFacts("scale_channels", computes=True, takes=lambda first, other: True, channels=_joined_width),
    s.Product: OpFacts("sam", computes=True, channels=_joined_width),
    s.Reorg3d: OpFacts(
        "reorg3d",
        divides=lambda layer: layer.stride,
        within=True,
        channels=lambda layer, given, place: given[0] * layer.stride**2,
        size=parted_size,
        stride=lambda layer, given: given * layer.stride,
    ),
    **{
        kind: OpFacts(
            section,
            computes=True,
            lists_sources=True,
            channels=lambda layer, given, place: layer.filters,
            size=lambda layer, given: (1, 1),
            stride=lambda layer, given: Fraction(0),
            tensors=implicit_tensors,
        )
        for kind, section in ((s.ImplicitAdd, "implicit_add"), (s.ImplicitMul, "implicit_mul"))
    },
    **{
        kind: OpFacts(section, computes=True, takes=lambda first, other: other == (1, 1), channels=_joined_width)
        for kind, section in ((s.ShiftChannels, "shift_channels"), (s.ControlChannels, "control_channels"))
    },
    s.Dropout: OpFacts("dropout", hands_on=True, keeps_constants=True, identity=True, density=_as_dense),
    s.Reorg: OpFacts(
        "reorg",
        divides=lambda layer: layer.stride,
        channels=_reorg_width,
        size=parted_size,
        stride=lambda layer, given: given * layer.stride,
    ),
    **{kind: OpFacts(section, **_DETECT) for kind, section in _HEADS.items()},
    s.Segment: OpFacts("segment", **_DETECT | {"channels": _segment_width, "covers": lambda layer: layer.factor}),
    s.LifRnn: OpFacts("lif_rnn", **_RECURRENT, tensors=rnn_tensors),
    s.LtcRnn: OpFacts("ltc_rnn", **_RECURRENT, tensors=rnn_tensors),
    s.Lstm: OpFacts("lstm", **_RECURRENT, tensors=lstm_tensors),
    s.SequenceOutput: OpFacts("sequence", hands_on=True, identity=True, density=_as_dense),
    s.Softmax: OpFacts("softmax", hands_on=True, identity=True, channels=_groups_width, density=_as_dense),
}
