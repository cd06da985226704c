"""Limits of the Speck chip, core by core.

Source: sinabs 3.1.3, the makers' own program (backend/dynapcnn: chips/dynapcnn.py `get_constraints`, dynapcnn_layer.py
`memory_summary`, mapping.py) and its pages on the chip (nine cores, 128 x 128 px in, 64 x 64 out, 1,024 channels, 8-bit
weights, 16-bit states, kernels to 16 px, strides 1, 2, 4, 8, sum pools of 1, 2, 4, two readers a core).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from utils.darknet import spec as s
from utils.darknet.ops import is_identity
from utils.darknet.shapes import channels, sizes
from utils.darknet.walk import rule
from utils.export.onnx_graph import place
from utils.quantization.integer import IntConv, IntegerNetwork, Requantiser
from utils.spiking.nir_check import without_sign

KIB = 1024
KERNELS = tuple(KIB * n for n in (16, 16, 16, 32, 32, 64, 64, 16, 16))  # words of weights, of cores 0 to 8
NEURONS = tuple(KIB * n for n in (64, 64, 64, 32, 32, 16, 16, 16, 16))  # words of states
LARGEST_IMAGE, LARGEST_MAP, MOST_CHANNELS, READERS = 128, 64, 1024, 2
LARGEST_KERNEL, STRIDES, LARGEST_PAD = 16, (1, 2, 4, 8), 7
STATE_BITS, WEIGHT_BITS = 16, 8
QUANTISE = "quantize.py --style pow2 --w-bit 8 --acc-bits 16"

SPECK_NOTES = """
## Target: speck

Checked against the limits that sinabs 3.1.3 states for it: cores and their memories (a core for each layer was found),
sizes, channels, kernels, strides, readers, 8-bit weights with one threshold a layer, 16-bit states. It was neither
compiled with samna nor run on a chip. There, pixels must come as events (`export.py aer` writes them: n
spikes for a pixel of level n), the bias of a layer is one number a step, and the head's states have to be read out,
since a core puts out spikes alone.
"""


def speck_faults(network: IntegerNetwork, size: tuple[int, int]) -> Iterator[str]:
    """What a Speck cannot run, one sentence each.

    Args:
        network: the integer network.
        size: (height, width) px of the image.
    """
    if max(size) > LARGEST_IMAGE:
        yield f"an image of {size[0]}x{size[1]} px; a Speck takes {LARGEST_IMAGE}; use --img-size {LARGEST_IMAGE}"
    spec, extent = network.spec, sizes(network.spec, *size)
    for i, layer in enumerate(spec.layers):
        where = place(i, layer)
        for fault in rule(FAULTS, layer, "rule for a Speck")(layer):
            yield f"{where}: {fault}"
        if i in spec.convs:
            yield from (f"{where}: {fault}" for fault in _core(network, i, extent[i]))
        readers = sum(i in other.sources for other in spec.layers if not isinstance(other, s.Output))
        if readers > READERS:
            yield f"{where}: {readers} layers read it, and a core sends to {READERS}; use a cfg with fewer branches"
    yield from _cores(network, extent)


def memories(network: IntegerNetwork, i: int, extent: tuple[int, int]) -> tuple[int, int]:
    """Words of weights and of states that convolution ``i`` takes of a core; grouped kernels are stored dense."""
    layer, _ = network.conv(i)
    given = channels(network.spec)[layer.sources[0]]
    weights = given << (_log(layer.size**2) + _log(layer.filters))
    return weights, layer.filters << (_log(extent[0]) + _log(extent[1]))


def _log(n: int) -> int:
    """The exponent of the next power of two."""
    return (n - 1).bit_length()


def _core(network: IntegerNetwork, i: int, extent: tuple[int, int]) -> Iterator[str]:
    layer, op = network.conv(i)
    widest = max(layer.filters, channels(network.spec)[layer.sources[0]])
    if max(extent) > LARGEST_MAP:
        yield f"a map of {extent[0]}x{extent[1]}; a core has {LARGEST_MAP}; use stride=2 or a smaller --img-size"
    if widest > MOST_CHANNELS:
        yield f"{widest} channels; a core has {MOST_CHANNELS}; prune"
    if op.w_bit > WEIGHT_BITS:
        yield f"weights of {op.w_bit} bits, and a core has {WEIGHT_BITS}; {QUANTISE}"
    if op.requantiser is not None and not _one_gain(op.requantiser):
        yield f"channels with gains of their own, and a core has one threshold; {QUANTISE}"
    if op.acc_bits > STATE_BITS:
        yield f"states of up to {op.acc_bits} bits, and a core has {STATE_BITS}; {QUANTISE}"
    if i in network.grids and network.grids[i].qmin < 0:
        yield f"fires negative spikes, and a Speck's have no sign; {without_sign(layer)}"


def _one_gain(by: Requantiser) -> bool:
    return len(set(by.multiplier.tolist())) == 1


def _cores(network: IntegerNetwork, extent: dict[int, tuple[int, int]]) -> Iterator[str]:
    """A core for every convolution, by augmenting paths (Kuhn): what is left over fits nowhere."""
    needs = {i: memories(network, i, extent[i]) for i, op in network.ops.items() if isinstance(op, IntConv)}
    fits = {
        i: [core for core, most in enumerate(zip(KERNELS, NEURONS, strict=True)) if w <= most[0] and n <= most[1]]
        for i, (w, n) in needs.items()
    }
    taken: dict[int, int] = {}

    def seat(i: int, tried: set[int]) -> bool:
        for core in fits[i]:
            if core not in tried:
                tried.add(core)
                if core not in taken or seat(taken[core], tried):
                    taken[core] = i
                    return True
        return False

    for i, (weights, states) in needs.items():
        if not seat(i, set()):
            what = f"{weights:,} words of weights and {states:,} of states"
            free = "no core has both" if not fits[i] else "the cores that have both are taken"
            where = place(i, network.spec.layers[i])
            yield f"{where}: {what}, and {free} ({len(KERNELS)} in all); prune, or fewer layers"


def _conv(layer: s.Conv) -> Iterator[str]:
    if layer.activation not in ("relu", "linear"):  # a linear one is a head, or has signs and is told of those
        yield f"activation={layer.activation}; a Speck has relu; train.py --act relu={layer.activation}, then quantise"
    if layer.size > LARGEST_KERNEL or layer.pad > LARGEST_PAD or layer.dilation > 1:
        yield (
            f"a kernel of {layer.size} px, padding {layer.pad}, dilation {layer.dilation}; a core takes "
            f"{LARGEST_KERNEL}, {LARGEST_PAD} and 1; use smaller ones"
        )
    if not {*layer.stride} <= {*STRIDES}:
        yield f"stride {layer.stride[0]}; a core has {', '.join(map(str, STRIDES))}; use one of them"


def _pool(layer: s.MaxPool) -> Iterator[str]:
    yield (
        "a max pool, and a Speck has sums; use [local_avgpool] with padding=0 (a core), or stride=2 in the convolution "
        "before it, and train"
    )


def _joins(layer: s.Shortcut) -> Iterator[str]:
    yield "a sum of layers with weights of their own, and a core has one kernel; use a cfg without shortcuts"


def _route(layer: s.Route) -> Iterator[str]:
    if not is_identity(layer):
        yield "channels side by side or sliced, and a core reads whole layers; use a cfg without"


def _unknown(layer: s.Layer) -> Iterator[str]:
    yield f"{type(layer).__name__}: a Speck has no such layer; use a cfg without it"


FAULTS: dict[type[s.Layer], Callable[[Any], Iterator[str]]] = {
    s.Conv: _conv,
    s.MaxPool: _pool,
    s.Shortcut: _joins,
    s.Route: _route,
    s.Dropout: lambda layer: iter(()),
    s.Output: lambda layer: iter(()),
    s.Layer: _unknown,
}
