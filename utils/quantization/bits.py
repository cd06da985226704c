"""Bits by layer: the file they are written in, and what a choice of bits costs in bytes and in bit operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.darknet import spec as s
from utils.darknet.kernels import weight_shape
from utils.darknet.ops import facts
from utils.darknet.shapes import channels
from utils.errors import InputError
from utils.files import no_file, write_text
from utils.numbers import is_whole
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.lower import weight_bits
from utils.quantization.packing import packed_size
from utils.quantization.scheme import BITS, Scheme

LayerBits = tuple[tuple[int, int, int], ...]  # (layer, weight bits, activation bits)

CONSTANT_BYTES = 8  # of an output channel: an int32 bias and an int32 gain


def read_bits_map(path: Path | str) -> LayerBits:
    """Read lines of ``layer weight-bits activation-bits``; ``#`` starts a comment, empty lines do not count.

    Returns:
        ``Scheme.layer_bits``: the layers in rising order.

    Raises:
        InputError: no such file, or a line that says something else; names file and line.
    """
    if reason := no_file(path):
        raise InputError(f"{path}: {reason}; check --bits-map")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text; check --bits-map") from error
    found: dict[int, tuple[int, int]] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        place = f"{path} line {number}"
        layer, *bits = _numbers(place, words)
        if layer in found:
            raise InputError(f"{place}: layer {layer} a second time; give each layer one line")
        wrong = next((b for b in bits if b not in BITS), None)
        if wrong is not None:
            raise InputError(f"{place}: {wrong} bits; use 2 to 8, or 16")
        found[layer] = (bits[0], bits[1])
    return tuple((layer, *found[layer]) for layer in sorted(found))


def _numbers(place: str, words: Sequence[str]) -> list[int]:
    if len(words) != 3 or not all(map(is_whole, words)):
        raise InputError(f"{place}: {' '.join(words)!r}; write layer, weight bits and activation bits, as in 4 8 6")
    return [int(word) for word in words]


def write_bits_map(path: Path | str, layer_bits: LayerBits, comment: str = "") -> Path:
    """The inverse of ``read_bits_map``; the file appears whole or not at all."""
    heading = [f"# {line}" for line in ["layer weight-bits activation-bits", *comment.splitlines()]]
    return write_text(path, "\n".join([*heading, *(f"{i} {w} {a}" for i, w, a in layer_bits)]) + "\n")


def check_layers(layer_bits: LayerBits, spec: s.ModelSpec, place: str = "--bits-map") -> None:
    """Refuse bits of a layer that has none.

    Raises:
        InputError: names the layer and what it is.
    """
    for i, *_ in layer_bits:
        if not i < len(spec.layers):
            raise InputError(f"{place}: layer {i}; the network has layers 0 to {len(spec.layers) - 1}")
        if not facts(spec.layers[i]).computes:
            kind = type(spec.layers[i]).__name__
            raise InputError(f"{place}: layer {i} (cfg line {spec.layers[i].line}) is a {kind} and only moves values")


def as_written(layer_bits: LayerBits, number: Mapping[int, int]) -> LayerBits:
    """Bits by the layers of a cfg, from those by the layers that ``expand`` made of it.

    A layer that became several gets the most that any of them has.

    Args:
        layer_bits: by new layer numbers.
        number: old layer number -> new one, as ``expand`` returns it.
    """
    own = {i: (w, a) for i, w, a in layer_bits}
    found = []
    for old in sorted(set(number) - {-1}):
        parts = [own[new] for new in range(number[old - 1] + 1, number[old] + 1) if new in own]
        if parts:
            found.append((old, max(w for w, _ in parts), max(a for _, a in parts)))
    return tuple(found)


def weight_counts(spec: s.ModelSpec) -> dict[int, int]:
    """Convolution -> how many weights it has."""
    wide = channels(spec)
    return {i: math.prod(weight_shape(layer, wide[layer.sources[0]])) for i, layer in spec.convs.items()}


def packed_bytes(spec: s.ModelSpec, scheme: Scheme) -> int:
    """Bytes of the packed weights, biases and gains of all convolutions; what no choice of bits moves is left out."""
    filters = {i: layer.filters for i, layer in spec.convs.items()}
    return sum(
        packed_size(weights, weight_bits(spec, i, scheme)) + CONSTANT_BYTES * filters[i]
        for i, weights in weight_counts(spec).items()
    )


def operations_by_layer(network: IntegerNetwork, macs: Mapping[int, int]) -> dict[int, int]:
    """BOPs of one image of an integer network, of each convolution that is in ``macs``; in the bits of its own words.

    They are those of its scheme but where a concat joins signed and unsigned levels, which takes one bit more, or an
    activation ends early, which may take fewer. Elementwise products, of gates and weighted sums, are few and left out
    everywhere.

    Source: Baskin et al., UNIQ, ACM TOCS 2021, section 4.2, without its term for the accumulator.
    """
    convs = {i: op for i, op in network.ops.items() if isinstance(op, IntConv) and i in macs}
    reads = {i: network.grids[network.spec.layers[i].sources[0]].bits for i in convs}
    return {i: macs[i] * op.w_bit * reads[i] for i, op in convs.items()}
