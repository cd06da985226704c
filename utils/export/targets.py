"""Hardware whose limits are known: what it cannot run is refused, with what to retrain.

Sources: DPUCZDX8G as Vitis AI describes it: AMD UG1414, "Currently Supported Operators", column DPUCZDX8G_ISA1_B4096,
and PG338 for that core; 8-bit levels, power-of-two scales and rounding as MQBench states for its Vitis backend
(user_guide/hardware/vitis); the slope of leaky ReLU from Xilinx/Vitis-AI issue 317. Limits of pooling were not found
in writing for this core; those of its sibling DPUCAHX8H (PG367) are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from utils.darknet import spec as s
from utils.darknet.ops import is_identity
from utils.darknet.shapes import channels
from utils.darknet.walk import rule
from utils.errors import InputError
from utils.export.onnx_graph import place
from utils.export.speck import SPECK_NOTES, speck_faults
from utils.quantization.integer import IntConv, IntegerNetwork, Requantiser

PARALLEL, DEPTH = 16, 2048  # channels at once, words of a weight bank: a B4096 core
LONGEST_KERNEL, LONGEST_STRIDE, LONGEST_POOL = 16, 8, 8
CALIBRATE = "calibrate the float network: quantize.py --target vitis-dpu"
RETRAIN = "train.py --quantized pow2 --BN_Fold --w-bit 8 --a-bit 7"

DPU_NOTES = """
## Target: vitis-dpu

Checked against the limits of a DPUCZDX8G core of size B4096 (AMD UG1414 "Currently Supported Operators", PG338; pooling
by PG367): powers of two as scales, one a tensor, weights and activations in -128..127, kernels, strides, widths. It was
neither compiled with Vitis AI nor run on a board. Known to differ there: the DPU reads int8, so that pixels of 0..255
must be halved on their way in; heads leave it as int8, here they are the whole accumulator; it may round a tie of a sum
of layers in its own way. Compile, then compare with the golden vectors.
"""


@dataclass(frozen=True)
class Target:
    """A check (network, size), which yields what does not fit; what the README says; forms it is for, or all."""

    faults: Callable[[IntegerNetwork, tuple[int, int]], Iterator[str]]
    notes: str
    forms: tuple[str, ...] = ()


def check_target(network: IntegerNetwork, name: str, size: tuple[int, int] | None = None, form: str = "") -> None:
    """Refuse a network that a target cannot run.

    Args:
        network: the integer network.
        name: a key of ``TARGETS``.
        size: (height, width) px of the image; by default the cfg's.
        form: what is to be written; "" asks for the network alone.

    Raises:
        InputError: names the first layer that does not fit, and how many more there are, and what to retrain.
    """
    target = TARGETS[name]
    if form and target.forms and form not in target.forms:
        raise InputError(f"--target {name}: reads {' and '.join(target.forms)}, not {form}; export one of those")
    faults = list(target.faults(network, size or (network.spec.height, network.spec.width)))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"--target {name}: {faults[0]}{more}")


def shifts(by: Requantiser) -> bool:
    """Whether every gain above zero is a power of two."""
    return all(m & (m - 1) == 0 for m in by.multiplier.tolist())


def dpu_faults(network: IntegerNetwork, size: tuple[int, int]) -> Iterator[str]:
    """What a DPUCZDX8G cannot run, one sentence each."""
    style = network.scheme.style
    if style != "pow2":
        yield f"style {style} has scales that are no powers of two; {CALIBRATE}, or retrain: {RETRAIN}"
    width = channels(network.spec)
    for i, layer in enumerate(network.spec.layers):
        where, grid = place(i, layer), network.grids.get(i)
        yield from (
            f"{where}: {fault}" for fault in rule(FAULTS, layer, "rule for the DPU")(layer, width[layer.sources[0]])
        )
        op = network.ops.get(i)
        if style == "pow2" and isinstance(op, IntConv) and op.requantiser and not shifts(op.requantiser):
            yield f"{where}: divides by what is no power of two; use a mean of 2x2 or 4x4"
        if isinstance(op, IntConv) and op.w_bit > 8:
            yield f"{where}: weights of {op.w_bit} bits, and the DPU has int8; retrain with --w-bit 8"
        if grid is not None and not is_identity(layer) and not (grid.qmin >= -128 and grid.qmax <= 127):
            levels = f"levels {grid.qmin}..{grid.qmax} do not fit int8, 7 unsigned bits do"
            yield f"{where}: {levels}; {CALIBRATE}, or retrain: {RETRAIN}"


def _with(layer: s.Activated) -> str:
    return f"retrain: {RETRAIN} --act relu={layer.activation}"


def _conv(layer: s.Conv, given: int) -> Iterator[str]:
    depthwise = layer.depthwise(given)
    allowed = ("linear", "relu", "relu6")
    if layer.activation in ("leaky", "leaky_pow2"):
        yield f"activation={layer.activation}, and the DPU's leaky has slope 26/256 and no other; {_with(layer)}"
    elif layer.activation not in (*allowed, "logistic"):  # a head's logistic is decoded outside
        yield f"activation={layer.activation} has no form on the DPU; {_with(layer)}"
    if layer.groups > 1 and not depthwise:
        yield f"groups={layer.groups}; the DPU has 1 and depthwise only; use a cfg without groups"
    if layer.size > LONGEST_KERNEL or max(layer.stride) > LONGEST_STRIDE:
        yield (
            f"a kernel of {layer.size} px with stride {max(layer.stride)}; the DPU takes {LONGEST_KERNEL} and "
            f"{LONGEST_STRIDE}; use smaller ones"
        )
    if layer.pad > (layer.size - 1) * layer.dilation:
        yield f"{layer.pad} px of padding; the DPU takes (size - 1) * dilation at most; use pad=1"
    most = 256 * PARALLEL
    if layer.dilation * given > most or layer.filters > most:
        yield f"{given} channels in, {layer.filters} out, dilation {layer.dilation}; the DPU takes {most}; prune"
    if layer.size**2 * math.ceil(given / layer.groups / PARALLEL) > DEPTH:
        yield f"{layer.size}x{layer.size} weights of {given} channels do not fit its bank of {DEPTH}; prune"


def _pool(layer: s.MaxPool, given: int) -> Iterator[str]:
    if max(layer.size, layer.stride) > LONGEST_POOL:
        yield f"a pool of {layer.size} px, stride {layer.stride}; the DPU takes {LONGEST_POOL}; use a smaller one"


def _sum(layer: s.Shortcut, given: int) -> Iterator[str]:
    if layer.weighted:
        yield "the DPU adds without weights; use weights_type=none and retrain"
    elif layer.activation not in ("linear", "relu"):
        yield f"a sum with activation={layer.activation}; the DPU has relu after a sum; {_with(layer)}"


def _route(layer: s.Route, given: int) -> Iterator[str]:
    if layer.groups > 1:
        yield "a slice of channels, which Vitis AI leaves to the CPU; use a cfg without groups in [route]"


def _upsample(layer: s.Upsample, given: int) -> Iterator[str]:
    if layer.zeros:
        yield "zeros between values: the DPU's transposed convolution is another operator; use a plain [upsample]"


def _unknown(layer: s.Layer, given: int) -> Iterator[str]:
    kind = type(layer).__name__
    yield f"{kind}: whether the DPU computes it in the same integers is not known; use a cfg without it"


FAULTS: dict[type[s.Layer], Callable[[Any, int], Iterator[str]]] = {  # (layer, channels it reads)
    s.Conv: _conv,
    s.MaxPool: _pool,
    s.Shortcut: _sum,
    s.Route: _route,
    s.Upsample: _upsample,
    s.Dropout: lambda layer, given: iter(()),
    s.Output: lambda layer, given: iter(()),
    s.Layer: _unknown,
}
TARGETS = {
    "vitis-dpu": Target(dpu_faults, DPU_NOTES),
    "speck": Target(speck_faults, SPECK_NOTES, forms=("nir", "aer")),
}
