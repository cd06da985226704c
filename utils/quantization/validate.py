"""Which networks have an integer form; everything else is refused here, in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from utils.darknet import spec as s
from utils.darknet.choices import RARE
from utils.darknet.neuron_spec import NEURONS
from utils.darknet.read_outs import written_out
from utils.darknet.shapes import channels, strides
from utils.darknet.walk import rule
from utils.errors import InputError

BENT = ("linear", "relu", "relu6", "leaky", "leaky_pow2")  # what a gain on each side of 0, and clipping, can do
TABLED = ("logistic", "mish", "swish", "h_swish", "hard_sigmoid", *RARE)
HEAD_ACTIVATIONS = ("linear", "logistic")  # a head's activation is computed in float, after the read-out


def readouts(spec: s.ModelSpec) -> tuple[int, ...]:
    """The convolutions whose accumulators leave the network: what the heads read, else the last layer."""
    return tuple(spec.layers[i].sources[0] for i in spec.heads) or (len(spec.layers) - 1,)


def outer_layers(spec: s.ModelSpec) -> frozenset[int]:
    """Convolutions that read the image, directly or through moves, and those that are read out."""
    image, kernels = {-1}, spec.kernels
    outer = set(readouts(spec))
    for i, layer in enumerate(spec.layers):
        if image & set(layer.sources):
            (outer if i in kernels else image).add(i)
    return frozenset(outer)


def depthwise_layers(spec: s.ModelSpec) -> frozenset[int]:
    """Convolutions of which every filter reads one channel."""
    width = channels(spec)
    return frozenset(i for i, layer in spec.kernels.items() if 1 < layer.groups == width[layer.sources[0]])


def check_supported(spec: s.ModelSpec) -> None:
    """Refuse what has no integer form: a head whose source is no convolution, or which somebody else reads too.

    Every section that a cfg may have quantises; [se] and [transposed_convolutional] do as the sections that ``expand``
    writes them out in.

    Raises:
        InputError: names the layer, its cfg line and what to change.
    """
    spec = written_out(spec)[0]
    if spec.channels not in (1, 3):
        raise InputError(f"[net] channels={spec.channels}: the image must have 1 or 3 channels of 8 bits")
    read_out, across, kernels = set(readouts(spec)), strides(spec), spec.kernels
    for i, layer in enumerate(spec.layers):
        place = f"layer {i} (cfg line {layer.line})"
        allowed = HEAD_ACTIVATIONS if i in read_out and i in kernels else BENT + TABLED
        rule(CHECKS, layer, "integer form yet")(layer, place, allowed)
        gate = layer.sources[0]
        if layer.features != layer.sources and across[gate]:
            raise InputError(f"{place}: its gate, layer {gate}, is a whole map; put an [avgpool] before the gate")
    _check_readouts(spec, read_out)


def _check_kernel(layer: s.Kernel, place: str, allowed: tuple[str, ...]) -> None:
    if layer.bn:
        raise InputError(f"{place}: batch norm is not folded; call fold_bn first")
    _check_activation(layer, place, allowed)


def _check_activation(layer: s.Activated, place: str, allowed: tuple[str, ...]) -> None:
    if layer.activation not in allowed:
        hidden = f"retrain (train.py --weights ... --act relu={layer.activation})"
        head = "set activation=linear in the cfg and retrain (train.py --cfg ... --weights ... -pt)"
        remedy = head if allowed is HEAD_ACTIVATIONS else hidden
        if layer.activation in NEURONS:
            remedy = "it keeps state; quantise the network that was trained without --spiking"
        raise InputError(f"{place}: activation={layer.activation} has no integer form; {remedy}")


def _check_window(layer: s.LocalAvgPool, place: str, allowed: tuple[str, ...]) -> None:
    if layer.pad:
        raise InputError(
            f"{place}: a [local_avgpool] with padding={layer.pad} divides by less at the border, and integers by one "
            "number; set padding=0, which is the same network wherever no window hangs over, and quantise again"
        )


def _check_product(layer: s.Product, place: str, allowed: tuple[str, ...]) -> None:
    raise InputError(
        f"{place}: [sam] multiplies two whole maps, which has no form in integers or spikes; take the [sam] out, with "
        "the convolutions that it alone reads, and retrain"
    )


def _check_implicit(layer: s.Layer, place: str, allowed: tuple[str, ...]) -> None:
    raise InputError(
        f"{place}: implicit values have no integer form while they are learned; train without --quantized, then "
        "quantize.py, which folds them into the convolutions beside them"
    )


def _fits(layer: s.Layer, place: str, allowed: tuple[str, ...]) -> None:
    """Nothing to object."""


CHECKS: dict[type[s.Layer], Callable[[Any, str, tuple[str, ...]], None]] = {  # the kinds that have an integer form
    s.Kernel: _check_kernel,
    s.Activated: _check_activation,
    s.LocalAvgPool: _check_window,
    s.Product: _check_product,
    s.Implicit: _check_implicit,
    s.Informed: _check_implicit,
    **dict.fromkeys(
        (
            s.MaxPool,
            s.AvgPool,
            s.Blur,
            s.Upsample,
            s.Fitted,
            s.Route,
            s.SqueezeExcite,
            s.Dropout,
            s.Reorg,
            s.Reorg3d,
            s.Crop,
            s.Output,
        ),
        _fits,
    ),
}


def _check_readouts(spec: s.ModelSpec, read_out: set[int]) -> None:
    heads = set(spec.heads)
    for i in read_out - spec.kernels.keys():
        line = spec.layers[i].line if i >= 0 else 0
        raise InputError(
            f"layer {i} (cfg line {line}): a head must read a convolution; put a 1x1 [convolutional] before it"
        )
    for i, layer in enumerate(spec.layers):
        for j in layer.sources:
            if j in read_out and i not in heads:
                raise InputError(
                    f"layer {i} (cfg line {layer.line}): reads layer {j}, which a head reads as int32; "
                    "give the head a convolution of its own"
                )
            if j in heads:
                raise InputError(
                    f"layer {i} (cfg line {layer.line}): reads layer {j}, a detection head; read the layer before it"
                )
