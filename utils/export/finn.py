"""What FINN's build_dataflow can take of a network, and the two configuration files that it asks for.

Names of files and keys: FINN's documentation (command line entry points; builder/build_dataflow_config).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from utils.darknet import spec as s
from utils.darknet.shapes import channels, sizes
from utils.darknet.walk import rule
from utils.errors import InputError
from utils.export.onnx_graph import place
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, IntPool
from utils.quantization.validate import readouts

Extent = Mapping[int, tuple[int, int]]  # (h, w) of each layer
PARALLEL = 4  # outputs and inputs at once, at most, in the folding that is written

BUILD = {
    "output_dir": "build",
    "synth_clk_period_ns": 10.0,
    "fpga_part": "xc7z020clg400-1",
    "folding_config_file": "folding_config.json",
    "generate_outputs": ["estimate_reports"],
    "verify_steps": ["initial_python", "streamlined_python"],
    "verify_input_npy": "input.npy",
    "verify_expected_output_npy": "expected_output.npy",
    "save_intermediate_models": True,
}


def check_finn(network: IntegerNetwork, size: tuple[int, int], layers: int | None = None) -> None:
    """Refuse by name what FINN has no layer for.

    Raises:
        InputError: names the layer, its cfg line and the remedy.
    """
    spec, extent = network.spec, sizes(network.spec, *size)
    count = count_of(spec, layers)
    ends = readouts(spec)
    if layers is None and len(ends) > 1:
        raise InputError(
            f"{place(ends[1], spec.layers[ends[1]])}: a second head, and build_dataflow verifies one output "
            f"(--for finn; --layers {ends[0] + 1} writes what leads to the first)"
        )
    for i, layer in enumerate(spec.layers[:count]):
        fault = _op_fault(network, i) or rule(FAULTS, layer, "form that FINN takes")(network, i, layer, extent)
        if fault:
            raise InputError(f"{place(i, layer)}: {fault} (--for finn; --layers {i} writes what is before it)")


def count_of(spec: s.ModelSpec, layers: int | None) -> int:
    """How many layers are written.

    Raises:
        InputError: there are not so many.
    """
    count = len(spec.layers)
    if layers is not None and not 1 <= layers <= count:
        raise InputError(f"--layers: {layers} of {count}; use 1 to {count}")
    return count if layers is None else layers


def folding(network: IntegerNetwork, layers: int | None = None) -> dict[str, Any]:
    """PE and SIMD for every convolution, under the names that FINN gives its layers: a start, not an optimum."""
    wide = channels(network.spec)
    found: dict[str, Any] = {"Defaults": {}}
    dense = depthwise = 0
    for layer in network.spec.layers[:layers]:
        if isinstance(layer, s.Conv):
            given = wide[layer.sources[0]]
            if layer.depthwise(given):
                found[f"VVAU_hls_{depthwise}"] = {"PE": math.gcd(given, PARALLEL)}
                depthwise += 1
            else:
                lanes = {"PE": math.gcd(layer.filters, PARALLEL), "SIMD": math.gcd(given, PARALLEL)}
                found[f"MVAU_hls_{dense}"] = lanes
                dense += 1
    return found


def _op_fault(network: IntegerNetwork, i: int) -> str:
    op = network.ops.get(i)
    if isinstance(op, IntGate | IntPool):
        return "a product of two maps, or a global average with a gain of its own; use a cfg without"
    table = getattr(op, "table", None)
    if table is not None and bool((table.diff() < 0).any()):
        activation = getattr(network.spec.layers[i], "activation", "")
        return f"activation={activation} falls somewhere, thresholds never do; train.py --act relu={activation}"
    return ""


def _conv(network: IntegerNetwork, i: int, layer: s.Conv, extent: Extent) -> str:
    given = channels(network.spec)[layer.sources[0]]
    op = network.ops[i]
    if layer.groups > 1 and not layer.depthwise(given):
        return f"groups={layer.groups}: FINN has one group or depthwise; use a cfg without"
    if isinstance(op, IntConv) and op.requantiser is None and layer.activation == "logistic":
        return "a logistic behind the last sum, which FINN leaves to the host; set activation=linear in the cfg"
    return ""


def _pool(network: IntegerNetwork, i: int, layer: s.MaxPool, extent: Extent) -> str:
    inner, out = extent[layer.sources[0]], extent[i]
    covers = all(n * layer.stride == side for n, side in zip(out, inner, strict=True))
    fits = layer.size == layer.stride and covers
    return "" if fits else "a pool whose windows overlap or hang over; use size = stride"


def _route(network: IntegerNetwork, i: int, layer: s.Route, extent: Extent) -> str:
    return "a slice of channels; use a cfg without groups in [route]" if layer.groups > 1 else ""


def _upsample(network: IntegerNetwork, i: int, layer: s.Upsample, extent: Extent) -> str:
    return "zeros between values; use a plain [upsample]" if layer.zeros else ""


FAULTS: dict[type[s.Layer], Callable[[IntegerNetwork, int, Any, Extent], str]] = {
    s.Conv: _conv,
    s.MaxPool: _pool,
    s.Route: _route,
    s.Upsample: _upsample,
    s.Shortcut: lambda network, i, layer, extent: "",
    s.Dropout: lambda network, i, layer, extent: "",
    s.Output: lambda network, i, layer, extent: "",
    s.Layer: lambda network, i, layer, extent: f"{type(layer).__name__}: FINN has no such layer; use a cfg without it",
}
