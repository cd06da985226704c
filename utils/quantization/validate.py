"""Which networks have an integer form; everything else is refused here, in one line."""

from __future__ import annotations

from utils.darknet import spec as s
from utils.darknet.shapes import channels, strides
from utils.errors import InputError

BENT = ("linear", "relu", "relu6", "leaky", "leaky_pow2")  # what a gain on each side of 0, and clipping, can do
TABLED = ("logistic", "mish", "swish", "h_swish", "hard_sigmoid")
HEAD_ACTIVATIONS = ("linear", "logistic")  # a head's activation is computed in float, after the read-out


def readouts(spec: s.ModelSpec) -> tuple[int, ...]:
    """The convolutions whose accumulators leave the network: what the heads read, else the last layer."""
    return tuple(spec.layers[i].sources[0] for i in spec.heads) or (len(spec.layers) - 1,)


def outer_layers(spec: s.ModelSpec) -> frozenset[int]:
    """Convolutions that read the image, directly or through moves, and those that are read out."""
    image = {-1}
    outer = set(readouts(spec))
    for i, layer in enumerate(spec.layers):
        if image & set(layer.sources):
            (outer if isinstance(layer, s.Kernel) else image).add(i)
    return frozenset(outer)


def depthwise_layers(spec: s.ModelSpec) -> frozenset[int]:
    """Convolutions of which every filter reads one channel."""
    width = channels(spec)
    return frozenset(
        i
        for i, layer in enumerate(spec.layers)
        if isinstance(layer, s.Kernel) and 1 < layer.groups == width[layer.sources[0]]
    )


def check_supported(spec: s.ModelSpec) -> None:
    """Refuse what has no integer form: a head whose source is no convolution, or which somebody else reads too.

    Every section that a cfg may have quantises; [se] and [transposed_convolutional] do as the sections that ``expand``
    writes them out in.

    Raises:
        InputError: names the layer, its cfg line and what to change.
    """
    if spec.channels not in (1, 3):
        raise InputError(f"[net] channels={spec.channels}: the image must have 1 or 3 channels of 8 bits")
    read_out, across = set(readouts(spec)), strides(spec)
    for i, layer in enumerate(spec.layers):
        place = f"layer {i} (cfg line {layer.line})"
        match layer:
            case s.Kernel() if layer.bn:
                raise InputError(f"{place}: batch norm is not folded; call fold_bn first")
            case s.Kernel() if i in read_out:
                _check_activation(place, layer.activation, HEAD_ACTIVATIONS)
            case s.Kernel() | s.Shortcut():
                _check_activation(place, layer.activation, BENT + TABLED)
            case s.ScaleChannels():
                _check_activation(place, layer.activation, BENT + TABLED)
                if across[layer.sources[0]]:
                    raise InputError(
                        f"{place}: its gate, layer {layer.sources[0]}, is a whole map; put an [avgpool] before the gate"
                    )
            case s.SqueezeExcite() | s.AvgPool() | s.Reorg():
                pass
            case s.MaxPool() | s.Upsample() | s.Route() | s.Dropout() | s.Output():
                pass
            case _:
                kind = type(layer).__name__
                raise InputError(f"{place}: {kind} has no integer form yet; use a cfg without it and retrain")
    _check_readouts(spec, read_out)


def _check_activation(place: str, activation: str, allowed: tuple[str, ...]) -> None:
    if activation not in allowed:
        remedy = "linear" if allowed is HEAD_ACTIVATIONS else "relu"
        raise InputError(
            f"{place}: activation={activation} has no integer form; "
            f"set activation={remedy} in the cfg and retrain (train.py --cfg ... --weights ... -pt)"
        )


def _check_readouts(spec: s.ModelSpec, read_out: set[int]) -> None:
    for i in read_out:
        if i < 0 or not isinstance(spec.layers[i], s.Kernel):
            line = spec.layers[i].line if i >= 0 else 0
            raise InputError(
                f"layer {i} (cfg line {line}): a head must read a convolution; put a 1x1 [convolutional] before it"
            )
    for i, layer in enumerate(spec.layers):
        for j in layer.sources:
            if j in read_out and not isinstance(layer, s.Output):
                raise InputError(
                    f"layer {i} (cfg line {layer.line}): reads layer {j}, which a head reads as int32; "
                    "give the head a convolution of its own"
                )
            if j >= 0 and isinstance(spec.layers[j], s.Output):
                raise InputError(
                    f"layer {i} (cfg line {layer.line}): reads layer {j}, a detection head; read the layer before it"
                )
