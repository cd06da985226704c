"""ConstantStore as the engine reads them: 12 words of bias, m and m_neg, then rows of weights, a row a tap."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from utils.quantization.integer import Requantiser

PARAMETERS = 12  # words, whatever L is: three of L numbers of 4 bytes


@dataclass
class ConstantStore:
    """Bytes laid out one after the other in words of L; what is there already is not stored again."""

    lanes: int
    data: bytearray = field(default_factory=bytearray)
    known: dict[bytes, int] = field(default_factory=dict)

    def place(self, content: bytes) -> tuple[int, int]:
        """First word, and how many."""
        assert len(content) % self.lanes == 0
        if content not in self.known:
            self.known[content] = len(self.data) // self.lanes
            self.data += content
        return self.known[content], len(content) // self.lanes


@dataclass(frozen=True)
class Scaling:
    """Bias, m and m_neg of every channel, int64 [C] or [1], and f from 1 up."""

    bias: np.ndarray
    m: np.ndarray
    m_neg: np.ndarray
    f: int

    def block(self, lanes: tuple[int, ...]) -> bytes:
        """The 12 words of a block."""
        rows = [_of_lanes(values, lanes) for values in (self.bias, self.m, self.m_neg)]
        return np.concatenate(rows).astype("<i4").tobytes()


def scaling(by: Requantiser | None, bias: np.ndarray) -> Scaling:
    """The requantiser with f >= 1: where it shifts to the left, the gain is as much larger, and one bit more."""
    if by is None:
        return Scaling(bias, np.zeros(1, np.int64), np.zeros(1, np.int64), 1)
    m, m_neg = (gain.numpy().astype(np.int64) for gain in (by.multiplier, by.multiplier_neg))
    more = max(0, 1 - by.shift)
    return Scaling(bias, m << more, (m_neg if by.qmin < 0 else m) << more, by.shift + more)


def weight_rows(
    weight: np.ndarray, lanes_out: tuple[int, ...], lanes_in: list[tuple[int, ...]], groups: int
) -> np.ndarray:
    """Rows of one block of outputs, int8 [blocks * kh * kw, L, L]: what no channel needs is 0.

    Args:
        weight: [O,I/groups,kh,kw].
        lanes_out: output channels of the block. lanes_in: input channels of each block that is read.
        groups: of the convolution.
    """
    each_out, each_in = weight.shape[0] // groups, weight.shape[1]
    wide = len(lanes_out)
    rows = np.zeros((len(lanes_in), *weight.shape[2:], wide, wide), np.int8)
    for k, o in enumerate(lanes_out):
        if o < 0:
            continue
        first = o // each_out * each_in
        for b, lanes in enumerate(lanes_in):
            for j, c in enumerate(lanes):
                if first <= c < first + each_in:
                    rows[b, :, :, k, j] = weight[o, c - first]
    return rows.reshape(-1, wide, wide)


def gain_rows(gains: np.ndarray, lanes: tuple[int, ...]) -> bytes:
    """A row a source: L gains of 32 bits, and nothing in what is left of the row. ``gains`` [sources, 1 or C]."""
    rows = np.zeros((len(gains), len(lanes) ** 2), np.int8)
    for row, gain in zip(rows, gains, strict=True):
        row[: 4 * len(lanes)] = _of_lanes(gain, lanes).astype("<i4").view(np.int8)
    return rows.tobytes()


def identity_row(wide: int) -> np.ndarray:
    """int8 [1,L,L]: every lane as it is."""
    return np.eye(wide, dtype=np.int8)[None]


def table_bytes(table: np.ndarray) -> bytes:
    """256 entries, of which those beyond the table are never asked for."""
    return (table & 0xFF).astype(np.uint8).tobytes().ljust(256, b"\0")


def _of_lanes(values: np.ndarray, lanes: tuple[int, ...]) -> np.ndarray:
    each = np.broadcast_to(values, max(len(values), max(lanes) + 1)) if len(values) == 1 else values
    return np.array([0 if c < 0 else int(each[c]) for c in lanes], np.int64)
