"""Descriptors: what the sequencer reads, 16 words of 32 bits each. `files/src/engine.sv` has the other half of this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

CHECK = 0xC0DE  # the XOR of a descriptor's 32 halves
BYTES = 64


class Op(IntEnum):
    """What a descriptor has done."""

    END = 0
    LOAD_INPUT = 1
    LOAD_WEIGHTS = 2
    LOAD_TABLE = 3
    LOAD_GATE = 4
    COMPUTE = 5
    MARK = 6


class Mode(IntEnum):
    """What COMPUTE makes of a tap."""

    ARRAY = 0
    LARGEST = 1
    GAINS = 2
    GATE = 3


@dataclass(frozen=True, kw_only=True)
class Load:
    """``rows`` rows of ``length`` words, ``stride`` words apart in memory, one after the other into a buffer."""

    op: Op
    layer: int
    address: int
    length: int
    rows: int = 1
    stride: int = 0
    into: int = 0

    @property
    def words(self) -> int:
        """How many words it moves."""
        return self.length * self.rows

    def encode(self) -> np.ndarray:
        """uint32 [16]."""
        words = [int(self.op), self.layer, self.address, _pair(self.length, self.rows), self.stride, self.into]
        return _sealed(words)


@dataclass(frozen=True)
class Scattering:
    """How inputs become events: a lane each, or with ``diagonal`` a word; of ``bits`` where levels are no spikes.

    ``used``: a bit a lane that has a channel.
    """

    diagonal: bool
    bits: bool
    used: int


@dataclass(frozen=True, kw_only=True)
class Compute:
    """A tile of outputs of one block of channels: a walk over taps, and where the words go.

    ``wide`` x ``high``: what is in the buffer; ``left``, ``top``: where the first tap of the first output lies in it,
    negative in the padding; ``base`` its word, modulo the buffer. In stream mode ``membrane`` is the tile's first one,
    which goes on from what it has where it is to ``keep`` that; neurons ``stream``, or ``show`` what they fired so far.
    ``leaky`` ones leak by f bits before they go on, ``most`` or little being left; the reset is ``soft`` or to 0.
    """

    layer: int
    address: int
    size: tuple[int, int]  # outputs, high and wide
    wide: int
    high: int
    base: int
    left: int = 0
    top: int = 0
    kernel: tuple[int, int] = (1, 1)
    blocks: int = 1
    block: int = 0  # words from one block of the buffer to the next
    step: tuple[int, int] = (1, 1)
    dilation: int = 1
    up: int = 1
    mode: Mode = Mode.ARRAY
    signed: int = 0  # a bit a block of input channels, modulo 64
    gate_signed: bool = False
    spread: bool = False
    tabled: bool = False
    raw: bool = False
    plain: bool = False
    hold: bool = False
    f: int = 1
    lo: int = 0
    hi: int = 0
    events: Scattering | None = None
    membrane: int = 0
    keep: bool = False
    stream: bool = False
    show: bool = False
    leaky: bool = False
    most: bool = False
    soft: bool = False

    @property
    def outputs(self) -> int:
        """Words of outputs."""
        return int(np.prod(self.size))

    @property
    def taps(self) -> int:
        """Clocks of the array."""
        return self.outputs * self.blocks * int(np.prod(self.kernel))

    @property
    def words(self) -> int:
        """How many words it stores."""
        return self.outputs * (4 if self.raw else 1)

    @property
    def origin(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of events, right and down: the output that the first pixel reaches by its first tap, and that tap."""
        return divmod(-self.left, self.step[1]), divmod(-self.top, self.step[0])

    def encode(self) -> np.ndarray:
        """uint32 [16]."""
        flags = sum(
            bit << at
            for bit, at in (
                (self.show or self.most, 4), (self.spread, 5), (self.tabled, 6), (self.raw, 7), (int(self.mode), 8),
                (self.plain, 10), (self.hold, 12), (self.gate_signed or self.soft, 13), (self.f, 16), (self.keep, 22),
                (self.stream or self.leaky, 23), (self.up - 1, 24),
            )
        )  # fmt: skip
        if self.events is not None:
            flags |= self.events.bits << 14 | self.events.diagonal << 15
        return _sealed(
            [
                int(Op.COMPUTE) | flags,
                self.layer,
                self.address,
                self.words,
                0 if self.events is None else self._origin(),
                self.base if self.events is None else self.events.used,
                self.membrane if self.events is not None or self.stream else self.block,
                _pair(self.size[1] - 1, self.size[0] - 1),
                self.kernel[1] - 1 | self.kernel[0] - 1 << 8 | self.blocks - 1 << 16,
                _pair(self.wide, self.high),
                self.step[1] | self.step[0] << 8 | self.dilation << 16,
                _pair(self.left, self.top),
                _pair(self.dilation * self.wide, self.step[0] * self.wide),
                _pair(self.lo, self.hi),
                self.signed & 0xFFFFFFFF,
                self.signed >> 32,
            ]
        )

    def _origin(self) -> int:
        (from_x, phase_x), (from_y, phase_y) = self.origin
        assert max(from_x, from_y) < 256, "padding beyond 8 bits"
        return from_x | phase_x << 8 | from_y << 16 | phase_y << 24


@dataclass(frozen=True)
class Plain:
    """END, or MARK: nothing is moved."""

    op: Op
    layer: int = 0
    words: int = 0

    def encode(self) -> np.ndarray:
        """uint32 [16]."""
        return _sealed([int(self.op), self.layer])


Descriptor = Load | Compute | Plain


def encode(program: Sequence[Descriptor]) -> np.ndarray:
    """uint32 [descriptors,16]; the last descriptor of a layer carries the mark that its map is in memory."""
    words = np.stack([each.encode() for each in program])
    last = {one.layer: i for i, one in enumerate(program) if not (isinstance(one, Plain) and one.op is Op.END)}
    for layer, i in last.items():
        words[i] = _sealed([int(words[i, 0]) | 1 << 11, layer, *words[i, 2:].tolist()])
    return words


def _pair(low: int, high: int) -> int:
    assert -(2**15) <= low < 2**16 and -(2**15) <= high < 2**16, f"{low}, {high}: beyond 16 bits"
    return (low & 0xFFFF) | (high & 0xFFFF) << 16


def _sealed(words: list[int]) -> np.ndarray:
    """16 words; the upper half of word 1 is what makes the XOR of all halves ``CHECK``."""
    full = np.zeros(16, np.uint32)
    full[: len(words)] = [word & 0xFFFFFFFF for word in words]
    full[1] &= 0xFFFF
    sum_of = int(np.bitwise_xor.reduce(full.view(np.uint16)))
    full[1] |= (sum_of ^ CHECK) << 16
    return full
