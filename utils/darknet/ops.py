"""What is known about each kind of layer: one row a kind. Who meets a kind without a row refuses it by name.

Rooms that need code of their own for a kind (float values, wires, C, ONNX, ...) keep a dict by kind of it in one place
and look it up with `rule`; for all that a row says, no code of theirs is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from utils.darknet import spec as s
from utils.darknet.kernels import weight_shape
from utils.errors import InputError

Size = tuple[int, int]  # (height, width) px
Rule = TypeVar("Rule")


@dataclass(frozen=True)
class Held:
    """A tensor that a layer has: its key behind ``layers.{i}.``, its shape as it is stored.

    ``out`` and ``into`` are the axes that count the layer's channels out and in, outputs first (see `out_first`); None
    where there is no such axis, or where it is cut with the groups. ``own`` is a second axis that counts channels out.
    """

    key: str
    shape: tuple[int, ...]
    out: int | None = None
    into: int | None = None
    own: int | None = None

    @property
    def learned(self) -> bool:
        """Whether training moves it by gradients."""
        return "running_" not in self.key


def _same_width(layer: s.Layer, given: list[int], place: str) -> int:
    return given[0]


def _same_size(layer: s.Layer, given: Size) -> Size:
    return given


def _same_stride(layer: s.Layer, given: Fraction) -> Fraction:
    return given


def _dense(layer: s.Layer, given: list[Fraction], width: list[int]) -> Fraction:
    return Fraction(1)


def _as_dense(layer: s.Layer, given: list[Fraction], width: list[int]) -> Fraction:
    return given[0]


def _no_tensors(layer: s.Layer, given: int) -> tuple[Held, ...]:
    return ()


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
    channels: Callable[[Any, list[int], str], int] = _same_width
    size: Callable[[Any, Size], Size] = _same_size
    stride: Callable[[Any, Fraction], Fraction] = _same_stride
    density: Callable[[Any, list[Fraction], list[int]], Fraction] = _dense
    tensors: Callable[[Any, int], tuple[Held, ...]] = _no_tensors


def rule(rules: Mapping[type[s.Layer], Rule], layer: s.Layer, what: str) -> Rule:
    """What ``rules`` has for a layer's kind, else for the nearest kind that it is one of.

    Raises:
        InputError: there is nothing; names the cfg line, the kind and ``what`` it lacks.
    """
    for kind in type(layer).__mro__:
        if kind in rules:
            return rules[kind]
    raise InputError(f"cfg line {layer.line}: {type(layer).__name__} has no {what}; use a cfg without it")


def facts(layer: s.Layer) -> OpFacts:
    """The row of a layer's kind.

    Raises:
        InputError: there is none; names the cfg line and the kind.
    """
    return rule(OPS, layer, "row in utils/darknet/ops.py")


def activation_of(layer: s.Layer) -> str:
    """The name of a layer's activation."""
    return layer.activation if isinstance(layer, s.Activated) else "linear"


def mixing_tensor(layer: s.Layer) -> str:
    """The key of the tensor by which a layer mixes channels, "" where there is none.

    A grouped convolution is not among them: what is cut of it goes by whole groups.
    """
    return next((held.key for held in facts(layer).tensors(layer, 1) if held.into is not None), "")


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


def _first_width(layer: s.Shortcut, given: list[int], place: str) -> int:
    return given[0]


def _whole_ratio(first: Size, other: Size) -> bool:
    """Whether one map is as many times as large as the other in both directions."""
    large, small = max(first, other), min(first, other)
    times = large[0] // small[0] if small[0] else 0
    return (small[0] * times, small[1] * times) == large


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
        raise InputError(f"{place}: [softmax] parts {given[0]} classes into groups={layer.groups}")
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


def _conv_size(layer: s.Conv, given: Size) -> Size:
    reach = layer.dilation * (layer.size - 1) + 1
    down, right = layer.stride
    return (given[0] + 2 * layer.pad - reach) // down + 1, (given[1] + 2 * layer.pad - reach) // right + 1


def _connected_size(layer: s.Connected, given: Size) -> Size:
    if given != (layer.size, layer.size):
        raise InputError(
            f"cfg line {layer.line}: [connected] was made for a map of {layer.size}x{layer.size} px and reads "
            f"{given[0]}x{given[1]}; use the --img-size that [net] says"
        )
    return 1, 1


def _crop_size(layer: s.Crop, given: Size) -> Size:
    if given != layer.given:
        raise InputError(
            f"cfg line {layer.line}: [crop] was made for an image of {layer.given[0]}x{layer.given[1]} px and reads "
            f"{given[0]}x{given[1]}; use the --img-size that [net] says"
        )
    return layer.kept


def _pool_size(layer: s.Pool, given: Size) -> Size:
    height, width = ((side + layer.pad - layer.size) // layer.stride + 1 for side in given)
    return height, width


def _fitted_size(layer: s.Fitted, given: Size) -> Size:
    return given[0] // layer.stride * layer.spread, given[1] // layer.stride * layer.spread


def _fitted_density(layer: s.Fitted, given: list[Fraction], width: list[int]) -> Fraction:
    return given[0] * Fraction(min(width[0], layer.filters), layer.filters * layer.spread**2)


def _times(layer: s.Upsample | s.TransposedConv, given: Size) -> Size:
    return given[0] * layer.stride, given[1] * layer.stride


def _parted(layer: s.Reorg | s.Reorg3d, given: Size) -> Size:
    return given[0] // layer.stride, given[1] // layer.stride


def _spread_density(layer: s.Upsample, given: list[Fraction], width: list[int]) -> Fraction:
    return given[0] / (layer.stride**2 if layer.zeros else 1)


def _route_density(layer: s.Route, given: list[Fraction], width: list[int]) -> Fraction:
    parts = [n // layer.groups for n in width]
    return sum((d * n for d, n in zip(given, parts, strict=True)), Fraction(0)) / sum(parts)


def _kernel_tensors(layer: s.Kernel, given: int) -> tuple[Held, ...]:
    """With batch norm beta, gamma, mean, variance, else the bias; then the weights."""
    names = ("bn.bias", "bn.weight", "bn.running_mean", "bn.running_var") if layer.bn else ("conv.bias",)
    per_channel = [Held(name, (layer.filters,), out=0) for name in names]
    into = 1 if layer.groups == 1 else None
    return (*per_channel, Held("conv.weight", weight_shape(layer, given), out=0, into=into), *neuron_tensors(layer))


def neuron_tensors(layer: s.Activated, channels: int | None = None) -> tuple[Held, ...]:
    """What a layer's neuron learns: the decay of a plif, the gates of an ltc. They stand behind all else in a file."""
    width = layer.filters if isinstance(layer, s.Kernel) else channels or 1
    if layer.activation == "plif":
        return (Held("neuron.rate", (1,)),)
    if layer.activation != "ltc":
        return ()
    gate, side = layer.neuron.gate or "depthwise", 1 if layer.neuron.gate == "pointwise" else 3
    dense = gate != "depthwise"
    kernel = (width, width if dense else 1, side, side)
    gates = ("tau_m", "tau_adp") if layer.neuron.adaptive in (None, True) else ("tau_m",)
    return tuple(
        held
        for name in gates
        for held in (
            Held(f"neuron.{name}.bias", (width,), out=0),
            Held(f"neuron.{name}.weight", kernel, out=0, own=1 if dense else None),
        )
    )


def _connected_tensors(layer: s.Connected, given: int) -> tuple[Held, ...]:
    """Bias (beta with batch norm), weights, then gamma, mean, variance (load_connected_weights in parser.c)."""
    first, *norms, weight = _kernel_tensors(layer, given)
    return (first, weight, *norms)


def _gate_tensors(layer: s.SqueezeExcite, given: int) -> tuple[Held, ...]:
    return Held("fc1.weight", (layer.squeeze, given), into=1), Held("fc2.weight", (given, layer.squeeze), out=0)


def _sum_tensors(layer: s.Shortcut, given: int) -> tuple[Held, ...]:
    shape = layer.weights_shape(given)
    weights = (Held("weights", shape, out=1 if len(shape) > 1 else None),) if layer.weighted else ()
    return (*weights, *neuron_tensors(layer, given))


OPS: dict[type[s.Layer], OpFacts] = {
    s.Conv: OpFacts(
        "convolutional",
        computes=True,
        integrates=True,
        channels=_kernel_width,
        size=_conv_size,
        stride=lambda layer, given: given * layer.stride[0],
        tensors=_kernel_tensors,
    ),
    s.Connected: OpFacts(
        "connected",
        computes=True,
        integrates=True,
        channels=_kernel_width,
        size=_connected_size,
        tensors=_connected_tensors,
    ),
    s.Crop: OpFacts("crop", computes=True, hands_on=True, keeps_constants=True, size=_crop_size),
    s.TransposedConv: OpFacts(
        "transposed_convolutional",
        computes=True,
        integrates=True,
        channels=_kernel_width,
        size=_times,
        stride=lambda layer, given: given / layer.stride,
        tensors=_kernel_tensors,
    ),
    s.MaxPool: OpFacts(
        "maxpool",
        hands_on=True,
        keeps_constants=True,
        within=True,
        size=_pool_size,
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
        size=_pool_size,
        stride=lambda layer, given: given * layer.stride,
    ),
    s.Upsample: OpFacts(
        "upsample",
        hands_on=True,
        keeps_constants=True,
        within=True,
        size=_times,
        stride=lambda layer, given: given / layer.stride,
        density=_spread_density,
    ),
    s.Route: OpFacts("route", within=True, lists_sources=True, channels=_route_width, density=_route_density),
    s.Shortcut: OpFacts(
        "shortcut", computes=True, integrates=True, takes=_whole_ratio, channels=_first_width, tensors=_sum_tensors
    ),
    s.Fitted: OpFacts(
        "fit",
        within=True,
        lists_sources=True,
        divides=lambda layer: layer.stride,
        channels=lambda layer, given, place: layer.filters,
        size=_fitted_size,
        stride=lambda layer, given: given * layer.stride / layer.spread,
        density=_fitted_density,
    ),
    s.SqueezeExcite: OpFacts("se", computes=True, hands_on=True, within=True, tensors=_gate_tensors),
    s.ScaleChannels: OpFacts("scale_channels", computes=True, takes=lambda first, other: True, channels=_joined_width),
    s.Product: OpFacts("sam", computes=True, channels=_joined_width),
    s.Reorg3d: OpFacts(
        "reorg3d",
        divides=lambda layer: layer.stride,
        within=True,
        channels=lambda layer, given, place: given[0] * layer.stride**2,
        size=_parted,
        stride=lambda layer, given: given * layer.stride,
    ),
    s.Dropout: OpFacts("dropout", hands_on=True, keeps_constants=True, identity=True, density=_as_dense),
    s.Reorg: OpFacts(
        "reorg",
        divides=lambda layer: layer.stride,
        channels=_reorg_width,
        size=_parted,
        stride=lambda layer, given: given * layer.stride,
    ),
    s.Yolo: OpFacts("yolo", hands_on=True, identity=True, channels=_detect_width, density=_as_dense),
    s.GaussianYolo: OpFacts("Gaussian_yolo", hands_on=True, identity=True, channels=_detect_width, density=_as_dense),
    s.Region: OpFacts("region", hands_on=True, identity=True, channels=_detect_width, density=_as_dense),
    s.Softmax: OpFacts("softmax", hands_on=True, identity=True, channels=_groups_width, density=_as_dense),
}
