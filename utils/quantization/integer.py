"""IntegerNetwork: the golden model. Tensors of integers, nothing else between the image and the read-out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.darknet.spec import Conv, ModelSpec
from utils.errors import InputError
from utils.quantization.activation_qparams import QParams
from utils.quantization.scheme import Scheme

CACHED_VALUES = 2**16  # float64 values that fit a core's second-level cache a few times over


@dataclass(frozen=True, kw_only=True)
class Requantiser:
    """n = clip((acc * m + 2^(f-1)) >> f, qmin, qmax): multiplier m, shift f, ``multiplier_neg`` where acc < 0.

    Both multipliers are int32 [O], one gain a channel, of at most 16 bits, or as many more as keep every product
    below 2^48: it fits int64, and float64, with room to spare. They differ for leaky only: a monotone staircase with a
    kink at 0.
    """

    multiplier: Tensor
    multiplier_neg: Tensor
    shift: int
    qmin: int
    qmax: int

    @property
    def gain_bits(self) -> int:
        """Bits of the largest m; no m_neg has more."""
        return int(self.multiplier.max()).bit_length()


@dataclass(frozen=True, kw_only=True)
class IntNeuron:
    """Leaky neurons behind a convolution that runs step by step, u = what is left of v + acc; a spike where u > 2^k.

    ``log2_threshold`` k, int32 [O]. Of v is left v >> ``shift``, or (``most``) v - (v >> ``shift``). A spike takes the
    threshold off u (``soft``), or all of it.
    """

    log2_threshold: Tensor
    shift: int
    most: bool
    soft: bool


@dataclass(frozen=True, kw_only=True)
class IntConv:
    """A convolution in integers.

    ``weight`` int8 (from 9 bits on int16) [O,I/groups,k,k], ``bias`` int32 [O]. A read-out has no requantiser but
    ``scale``, float64 [O], the value of one unit of its accumulator; for the others that is m * 2^-f * the scale of the
    level it makes. ``acc_bits`` is what the accumulator needs at most, sign included. ``table`` is the activation where
    a bend at 0 is not all of it; see ``look_up``. In a network of steps it has neither but a ``neuron``, whose membrane
    ``acc_bits`` holds too, or is read out as the sum over the steps.
    """

    weight: Tensor
    bias: Tensor
    w_bit: int
    acc_bits: int
    requantiser: Requantiser | None = None
    scale: Tensor | None = None
    table: Tensor | None = None
    neuron: IntNeuron | None = None


@dataclass(frozen=True, kw_only=True)
class IntShortcut:
    """acc = sum of the sources' levels times ``gains``, then the requantiser and the ``table`` where there is one.

    ``gains`` int32 [sources, 1], or [sources, C] where every channel has weights of its own; they may be negative.
    """

    gains: Tensor
    requantiser: Requantiser
    table: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class IntPool:
    """Global average: acc = sum of a channel's levels, then the requantiser, whose gain holds the division.

    ``count`` is the H * W of the map that the gain was made for; a map of another size is refused.
    """

    count: int
    requantiser: Requantiser


@dataclass(frozen=True, kw_only=True)
class IntGate:
    """acc = level of the gate [C,1,1] * level of the feature, then the requantiser and the ``table``, if any."""

    requantiser: Requantiser
    table: Tensor | None = None


IntegerOp = IntConv | IntShortcut | IntPool | IntGate


@dataclass(frozen=True)
class IntegerNetwork:
    """A network of integers.

    ``spec`` is the folded network's, with every [se] and [transposed_convolutional] written out; ``scheme`` counts
    layers as it does. ``ops`` holds the layers that compute, the others only move integers; ``grids`` gives every
    edge's scale and levels (-1: the image).
    """

    spec: ModelSpec
    scheme: Scheme
    ops: dict[int, IntegerOp]
    grids: dict[int, QParams]

    @property
    def timed(self) -> bool:
        """Whether this is a step of many, of a network whose neurons keep a membrane."""
        return any(isinstance(op, IntConv) and op.neuron is not None for op in self.ops.values())

    def reach_into(self, i: int) -> int:
        """The largest |n| that layer ``i`` can read."""
        return max(self.grids[j].reach for j in self.spec.layers[i].sources)

    def place(self, i: int) -> str:
        """Layer ``i`` in messages."""
        return f"layer {i} (cfg line {self.spec.layers[i].line})"

    def conv(self, i: int) -> tuple[Conv, IntConv]:
        """Layer ``i``, a convolution, as structure and as integers."""
        op = self.ops[i]
        assert isinstance(op, IntConv)
        return self.spec.convs[i], op


def requantise(acc: Tensor, by: Requantiser) -> Tensor:
    """The definition, in float64 for speed: every number in it is an integer below 2^48, or one over a power of two.

    acc * m * 2^-f + 1/2 is then exact, floor floors, and ties go up, as with ``>>``. (Plain int64 does the same at a
    third of the speed; a test holds the two equal.)

    Args:
        acc: integers [N,O,H,W], of any type.
        by: gains and bounds.

    Returns:
        Levels, integers in float32 [N,O,H,W].
    """
    m, m_neg = (
        gain.to(acc.device).double().view(1, -1, 1, 1) * 2.0**-by.shift for gain in (by.multiplier, by.multiplier_neg)
    )
    bent = by.qmin < 0 and not torch.equal(
        by.multiplier, by.multiplier_neg
    )  # with lo = 0 whatever is negative becomes 0 anyway

    def level(part: Tensor) -> Tensor:
        value = part.to(torch.float64, copy=True)
        value.mul_(torch.where(value < 0, m_neg, m) if bent else m)
        return value.add_(0.5).floor_().clamp_(by.qmin, by.qmax)

    return in_chunks(acc, level)


def charge(inputs: Sequence[Tensor], op: IntShortcut | IntPool | IntGate, place: str) -> Tensor:
    """The accumulator of an operation without kernel, float64 [N,C,H,W]; every number in it is an integer below 2^48.

    Raises:
        InputError: the map that a global average was made for had another size; names ``place``.
    """
    match op:
        case IntShortcut():
            return weighted_sum(inputs, op.gains)
        case IntGate():
            return inputs[0].double() * inputs[1].double()
    height, width = inputs[0].shape[2:]
    if height * width != op.count:
        raise InputError(
            f"{place}: averages a map of {height}x{width} = {height * width} px, but its gain was made for "
            f"{op.count}; use the image size of the calibration, or quantise again at this one"
        )
    return inputs[0].double().sum((2, 3), keepdim=True)


def respond(acc: Tensor, op: IntegerOp) -> Tensor:
    """Accumulator -> level of an operation that has a requantiser, through its table where there is one."""
    assert op.requantiser is not None, "a read-out has no level"
    return through_table(requantise(acc, op.requantiser), op)


def through_table(level: Tensor, op: IntegerOp) -> Tensor:
    """The requantised level, or what the operation's table has for it."""
    if isinstance(op, IntPool) or op.table is None:
        return level
    assert op.requantiser is not None
    return look_up(level, op.table, op.requantiser.qmin)


def weighted_sum(inputs: Sequence[Tensor], gains: Tensor) -> Tensor:
    """A shortcut's accumulator, float64 [N,C,H,W]: levels of each source times its gain, [sources, 1 or C]."""
    total = inputs[0].double() * gains[0].to(inputs[0].device).view(1, -1, 1, 1)
    for n, gain in zip(inputs[1:], gains[1:], strict=True):
        total.add_(n.double() * gain.to(n.device).view(1, -1, 1, 1))
    return total


def look_up(level: Tensor, table: Tensor, qmin: int) -> Tensor:
    """An activation by table: the requantiser made a level of qmin.. before it, the table has the one after.

    Args:
        level: integers [N,C,H,W] of any type.
        table: int32, one entry a level from ``qmin`` up.
        qmin: the requantiser's lowest level.

    Returns:
        ``table[level - qmin]``, integers in float32.
    """
    table = table.to(level.device, torch.float32)
    return in_chunks(level, lambda part: table[(part - qmin).long()])


def in_chunks(acc: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """An elementwise function of [N,C,H,W], some images at a time so that it stays in the cache; float32."""
    out = torch.empty_like(acc, dtype=torch.float32)
    step = max(1, CACHED_VALUES // max(1, acc[0].numel())) if len(acc) else 1
    for part, into in zip(acc.split(step), out.split(step), strict=True):
        into.copy_(function(part))
    return out


def read_out(acc: Tensor, op: IntConv, activation: str) -> Tensor:
    """A head's float map: acc * scale, float32; the product in float64, so that every executor agrees to the bit."""
    assert op.scale is not None, "only a read-out has a scale"
    return activated((acc.double() * op.scale.to(acc.device).view(1, -1, 1, 1)).float(), activation)


def activated(raw: Tensor, activation: str) -> Tensor:
    """A head's float map behind its activation, linear or logistic."""
    return raw.sigmoid() if activation == "logistic" else raw
