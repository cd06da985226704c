"""Bit operations by the scheme alone, for comparison with those that are counted on the integers."""

from __future__ import annotations

from collections.abc import Mapping

from utils.darknet import spec as s
from utils.quantization.activation_qparams import IMAGE_BITS, edge_bits, trace_edges
from utils.quantization.lower import weight_bits
from utils.quantization.scheme import Scheme


def input_bits(spec: s.ModelSpec, scheme: Scheme) -> dict[int, int]:
    """Convolution -> bits of the levels that it reads."""
    edges = trace_edges(spec)
    bits = edge_bits(edges, scheme)
    group = {edges.group[i]: wide for i, wide in bits.items()} | {edges.group[-1]: IMAGE_BITS}
    return {i: group[edges.group[layer.sources[0]]] for i, layer in enumerate(spec.layers) if isinstance(layer, s.Conv)}


def bit_operations(spec: s.ModelSpec, scheme: Scheme, macs: Mapping[int, int]) -> int:
    """Of one image: each multiply-accumulate counts its weight's bits times its input's."""
    return sum(macs[i] * weight_bits(spec, i, scheme) * bits for i, bits in input_bits(spec, scheme).items())
