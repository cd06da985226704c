"""The one validator of an integer network: what every executor, every export and every neuron takes for granted.

It runs wherever integers come out of a file, and in tests after every pass that makes or changes them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.activations import SLOPES
from utils.darknet.kernels import weight_shape
from utils.darknet.ops import activation_of, facts
from utils.darknet.shapes import channels
from utils.errors import InputError
from utils.quantization.activation_qparams import IMAGE_BITS, IMAGE_SCALE, NON_NEGATIVE, SHIFT_SCALE, QParams
from utils.quantization.exact_conv import accumulator_bounds, width_of
from utils.quantization.gains import LARGEST_SHIFT, PRODUCT_BITS
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntGate, IntPool, IntShortcut, Requantiser
from utils.quantization.scheme import BITS
from utils.quantization.validate import TABLED, check_supported, readouts
from utils.quantization.weights import weight_levels

ACC_BITS = 32
EXACT_BITS = 53  # of float64's integers, in which sums, products and averages are computed
LEVEL_BITS = max(BITS) + 1  # of a concat that joins signed and unsigned levels
LONGEST_TABLE = 2 ** max(BITS)
KINDS: dict[type[s.Layer], type[IntegerOp]] = {
    s.Conv: IntConv,
    s.Shortcut: IntShortcut,
    s.AvgPool: IntPool,
    s.ScaleChannels: IntGate,
}


def check_integer(network: IntegerNetwork, name: str = "integers") -> IntegerNetwork:
    """The network as it was given, if it is one: references, types, shapes, ranges, and widths of every number.

    Args:
        network: integers.
        name: the file, for messages.

    Raises:
        InputError: names the layer, the fact, and what it should be.
    """
    try:
        check_supported(network.spec)
    except InputError as error:
        raise _wrong(name, str(error)) from error
    _check_edges(network, name)
    width = channels(network.spec, name)
    for i, layer in enumerate(network.spec.layers):
        place = f"{name}: {network.place(i)}"
        op, word = network.ops.get(i), type(layer).__name__
        if not facts(layer).computes:
            if op is not None:
                raise _wrong(place, f"a {word} only moves integers, and has numbers to compute with")
            continue
        kind = next((KINDS[each] for each in type(layer).__mro__ if each in KINDS), None)
        if op is None or kind is None or not isinstance(op, kind):
            raise _wrong(place, f"a {word} needs {kind.__name__ if kind else 'another form'}, has {type(op).__name__}")
        _check_op(network, i, op, width, place)
    return network


def _check_edges(network: IntegerNetwork, name: str) -> None:
    """Every edge that carries levels has a grid, what only moves levels has that of its sources."""
    spec, grids = network.spec, network.grids
    _only(set(network.ops), range(len(spec.layers)), f"{name}: numbers of layer")
    wanted = {-1, *range(len(spec.layers))} - set(readouts(spec)) - set(spec.heads)
    _only(set(grids), wanted, f"{name}: levels of layer")
    for i in sorted(wanted):
        place = f"{name}: {network.place(i) if i >= 0 else 'the image'}"
        if i not in grids:
            raise _wrong(place, "has no levels")
        grid = grids[i]
        reach = 2 ** (LEVEL_BITS - 1)
        if not (math.isfinite(grid.scale) and grid.scale > 0):
            raise _wrong(place, f"a level is worth {grid.scale}, which is no number above 0")
        if not -reach <= grid.qmin <= 0 < grid.qmax <= reach:
            raise _wrong(
                place, f"levels {grid.qmin}..{grid.qmax} do not go from 0 or less to more, in {LEVEL_BITS} bits"
            )
        if i >= 0 and not facts(spec.layers[i]).computes:
            _check_moved(grid, [grids[j] for j in spec.layers[i].sources], place)
    image, scales = grids[-1], (IMAGE_SCALE, SHIFT_SCALE)  # training keeps them in float32
    pixels = any(math.isclose(image.scale, scale, rel_tol=1e-6) for scale in scales)
    if (image.qmin, image.qmax) != (0, 2**IMAGE_BITS - 1) or not pixels:
        raise _wrong(f"{name}: the image", f"levels {image.qmin}..{image.qmax} of {image.scale} are no pixels")


def _check_moved(grid: QParams, sources: list[QParams], place: str) -> None:
    if any(source.scale != grid.scale for source in sources):
        raise _wrong(place, "moves levels, and those it reads are worth something else than its own")
    lowest, highest = min(source.qmin for source in sources), max(source.qmax for source in sources)
    if (grid.qmin, grid.qmax) != (lowest, highest):
        raise _wrong(place, f"moves levels {lowest}..{highest}, and says {grid.qmin}..{grid.qmax}")


def _check_op(network: IntegerNetwork, i: int, op: IntegerOp, width: dict[int, int], place: str) -> None:
    layer, limit = network.spec.layers[i], EXACT_BITS
    sources = [network.grids[j] for j in layer.sources]
    match op:
        case IntConv():
            assert isinstance(layer, s.Conv)
            bounds, limit = _conv_bounds(op, layer, width, sources[0].reach, place), PRODUCT_BITS
        case IntShortcut():
            bounds = _sum_bounds(op, sources, width[i], place)
        case IntGate():
            bounds = torch.tensor([math.prod(source.reach for source in sources)], dtype=torch.int64)
        case IntPool():
            if not 1 <= op.count <= 2**ACC_BITS:
                raise _wrong(place, f"averages {op.count} px")
            bounds = torch.tensor([op.count * sources[0].reach], dtype=torch.int64)
    if i in readouts(network.spec):
        _check_readout(op, layer, place)
        return
    if op.requantiser is None:
        raise _wrong(place, "has no gains, and is no read-out")
    gains = layer.filters if isinstance(layer, s.Conv) else 1
    table = None if isinstance(op, IntPool) else op.table
    target = network.grids[i]
    _check_gains(op.requantiser, gains, bounds, limit, activation_of(layer), place)
    _check_answer(op.requantiser, table, target, activation_of(layer), place)


def _conv_bounds(op: IntConv, layer: s.Conv, width: dict[int, int], reach: int, place: str) -> Tensor:
    """The largest |acc| of every channel, int64 [O], of weights and biases that are what they should be."""
    if op.w_bit not in BITS:
        raise _wrong(place, f"weights of {op.w_bit} bits")
    kind = torch.int8 if op.w_bit <= 8 else torch.int16
    _check_tensor(
        op.weight, kind, weight_shape(layer, width[layer.sources[0]]), weight_levels(op.w_bit), "weight", place
    )
    _check_tensor(op.bias, torch.int32, (layer.filters,), 2 ** (ACC_BITS - 1) - 1, "bias", place)
    bounds = accumulator_bounds(op.weight, op.bias, reach)
    if not width_of(bounds) <= op.acc_bits <= ACC_BITS:
        raise _wrong(place, f"an accumulator of {op.acc_bits} bits, where {width_of(bounds)} to {ACC_BITS} are needed")
    return bounds


def _sum_bounds(op: IntShortcut, sources: list[QParams], width: int, place: str) -> Tensor:
    shapes = ((len(sources), 1), (len(sources), width))
    if tuple(op.gains.shape) not in shapes:
        raise _wrong(place, f"gains {tuple(op.gains.shape)} of a sum, where {shapes[0]} or {shapes[1]} are needed")
    _check_tensor(op.gains, torch.int32, tuple(op.gains.shape), 2**16 - 1, "gain", place)
    reach = torch.tensor([source.reach for source in sources], dtype=torch.int64)[:, None]
    return (op.gains.to(torch.int64).abs() * reach).sum(0)


def _check_readout(op: IntegerOp, layer: s.Layer, place: str) -> None:
    if not isinstance(op, IntConv) or op.requantiser is not None or op.table is not None:
        raise _wrong(place, "is read out, and has gains or a table behind its accumulator")
    if op.scale is None:
        raise _wrong(place, "is read out, and nothing says what its accumulator is worth")
    assert isinstance(layer, s.Conv)
    if op.scale.dtype != torch.float64 or tuple(op.scale.shape) != (layer.filters,):
        raise _wrong(
            place, f"scale {op.scale.dtype} {tuple(op.scale.shape)}, where float64 ({layer.filters},) is needed"
        )
    if not bool(((op.scale > 0) & op.scale.isfinite()).all()):
        raise _wrong(place, "a scale that is no number above 0")


def _check_gains(by: Requantiser, count: int, bounds: Tensor, limit: int, activation: str, place: str) -> None:
    for gain in (by.multiplier, by.multiplier_neg):
        _check_tensor(gain, torch.int32, (count,), 2**31 - 1, "gain", place)
    bent = SLOPES.get(activation, 1.0) != 1.0
    if bool((by.multiplier_neg < 0).any()) or bool((by.multiplier_neg > by.multiplier).any()):
        raise _wrong(place, "gains do not go from 0 up, those below 0 no higher than those above")
    if not bent and not torch.equal(by.multiplier, by.multiplier_neg):
        raise _wrong(place, f"activation={activation} does not bend at 0, and has a second gain")
    if not 1 <= by.shift <= LARGEST_SHIFT:
        raise _wrong(place, f"a shift f = {by.shift}, where 1 to {LARGEST_SHIFT} is possible")
    product = int((bounds.double() * by.multiplier.double()).max()) + 2 ** (by.shift - 1)
    if product >= 2**limit:
        raise _wrong(place, f"products of {product.bit_length()} bits, where {limit} are exact")


def _check_answer(by: Requantiser, table: Tensor | None, target: QParams, activation: str, place: str) -> None:
    """What comes out lies on the levels that its readers expect."""
    if by.qmin > by.qmax:
        raise _wrong(place, f"clips to {by.qmin}..{by.qmax}, its lowest level above its highest")
    if activation in NON_NEGATIVE and target.qmin < 0:
        raise _wrong(place, f"activation={activation} is never negative, and its levels go from {target.qmin}")
    if (activation in TABLED) != (table is not None):
        raise _wrong(place, f"activation={activation} {'needs a' if activation in TABLED else 'takes no'} table")
    if table is None:
        if (by.qmin, by.qmax) != (target.qmin, target.qmax):
            raise _wrong(place, f"clips to {by.qmin}..{by.qmax}, where its levels are {target.qmin}..{target.qmax}")
        return
    if by.qmax - by.qmin >= LONGEST_TABLE:
        raise _wrong(place, f"clips to {by.qmin}..{by.qmax}, more than a table has")
    _check_tensor(table, torch.int32, (by.qmax - by.qmin + 1,), 2**31 - 1, "table entry", place)
    if int(table.min()) < target.qmin or int(table.max()) > target.qmax:
        raise _wrong(place, f"its table leads out of its levels {target.qmin}..{target.qmax}")


def _check_tensor(
    tensor: Tensor, kind: torch.dtype, shape: tuple[int, ...], largest: int, what: str, place: str
) -> None:
    if tensor.dtype != kind or tuple(tensor.shape) != shape:
        raise _wrong(place, f"{what}s {tensor.dtype} {tuple(tensor.shape)}, where {kind} {shape} are needed")
    over = tensor.to(torch.int64).abs() > largest
    if bool(over.any()):
        raise _wrong(place, f"a {what} of {int(tensor[over][0])}, where {largest} is the largest")


def _only(found: set[Any], wanted: Any, what: str) -> None:
    foreign = found - set(wanted)
    if foreign:
        raise _wrong(f"{what} {min(foreign, key=str)}", "there is no such edge")


def _wrong(place: str, fact: str) -> InputError:
    return InputError(f"{place}: {fact}; these are no integers of ours, convert the network again")
