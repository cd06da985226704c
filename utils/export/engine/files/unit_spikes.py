"""Vectors for unit_spikes.sv: python3 unit_spikes.py SEED FOLDER. Sums and spikes are counted here output by output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

L, ACC, WEIGHT, FACTOR, ADDRESS, ROWS, MEMBRANE = 4, 24, 5, 12, 8, 6, 6
CASES, WORDS = 60, 60
COUNTS, STEPS, FIRST = 16, 12, 5  # of neurons in streams; the first count's place


class TileOfEvents(NamedTuple):
    """Geometry, down and right each, and how levels become events."""

    size: np.ndarray
    kernel: np.ndarray
    step: np.ndarray
    pads: np.ndarray
    dilation: int
    up: int
    diagonal: int
    bits: int
    gains: int
    signed: int
    used: int


def accumulated(tile: TileOfEvents, words: np.ndarray, rows: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, int]:
    """Sums [outputs down, right, L], and how often something is accumulated; words [blocks, high, wide, L]."""
    sums, count = start.astype(np.int64), 0
    for b, y, x, ky, kx in np.ndindex(*words.shape[:3], *tile.kernel):
        down, right = np.array([y, x]) * tile.up + tile.pads - np.array([ky, kx]) * tile.dilation
        out = (down // tile.step[0], right // tile.step[1])
        if (
            down % tile.step[0]
            or right % tile.step[1]
            or not all(0 <= n < m for n, m in zip(out, tile.size, strict=True))
        ):
            continue
        n = [wrapped(v, 8) if tile.signed >> b & 1 else int(v) for v in words[b, y, x]]
        n = [v if tile.used >> k & 1 else 0 for k, v in enumerate(n)]
        w = rows[b, ky, kx]
        for k in range(L):
            gain = wrapped(sum(int(w.ravel()[4 * k + i]) << 8 * i for i in range(4)), FACTOR)
            if tile.diagonal:
                sums[out][k] += n[k] * (gain if tile.gains else wrapped(int(w[k, k]), WEIGHT))
            else:
                sums[out][k] += sum(n[j] * wrapped(int(w[k, j]), WEIGHT) for j in range(L))
        each = [abs(v) for v in n]
        if tile.diagonal:
            each = [int(np.bitwise_or.reduce(each))] if tile.bits else [max(each)]
        count += sum(bin(v).count("1") if tile.bits else v for v in each)
    return sums, count


def case(random: np.random.Generator, before: list[np.ndarray]) -> dict[str, list[int]]:
    """A tile: descriptor, bias, words of the buffer, rows of weights -> sums and how often something is accumulated.

    ``before``: the membranes of the last tile, which one in three goes on from; they become this one's. Every other
    tile is of leaky neurons, whose spikes are read out in the place of sums.
    """
    kernel, size, shape = (random.integers(1, 4, 2), random.integers(1, 7, 2), random.integers(1, 7, 2))
    keep = int(bool(before) and random.random() < 1 / 3)
    size = np.array(before[-1].shape[:2]) if keep else size
    blocks = int(random.integers(1, 4))
    kernel, step, pads, dilation, up = geometry(random, kernel)
    diagonal, bits, raw = (int(random.integers(2)) for _ in range(3))
    gains = int(diagonal and random.integers(2))
    signed, used = int(random.integers(1 << blocks)), int(random.integers(1, 1 << L))
    words = random.integers(0, 256 >> random.integers(0, 7), (blocks, *shape, L))
    words = np.where(random.random(words.shape) < 0.5, words, -words & 0xFF) * (random.random(words.shape) < 0.4)
    rows = random.integers(0, 256, (blocks, *kernel, L, L))
    bias = random.integers(-1000, 1000, L)
    tile = TileOfEvents(size, kernel, step, pads, dilation, up, diagonal, bits, gains, signed, used)
    leaky, most, soft, leak = (int(random.integers(n)) for n in (2, 2, 2, 8))
    threshold, start = random.integers(0, 17, L), before[-1] if keep else np.tile(bias, (*size, 1))
    if keep and leaky:
        start = (start - (start >> leak) if most else start >> leak) + bias
    sums, count = accumulated(tile, words, rows, start)
    if leaky and not raw and (leak & 1 or not keep):  # an output that is at the threshold and not above it
        bias, sums = bias + (1 << threshold) - sums[0, 0], sums + (1 << threshold) - sums[0, 0]
    outputs = int(size.prod())
    base = int(before[0]) if keep else int(random.integers(0, (1 << MEMBRANE) - outputs + 1))
    membranes, sums = fired(sums, threshold, soft) if leaky and not raw else (sums, sums)
    before[:] = [np.array(base), membranes]
    flags = leaky << 23 | most << 4 | soft << 13 | leak << 16 | raw << 7 | keep << 22
    d = descriptor(tile, blocks, shape, base, flags) | field(3, outputs * (4 if raw else 1))
    return {
        "tiles": [d],
        "biases": [joined(bias, ACC)],
        "thresholds": [joined(threshold, 5)],
        "words": [joined(word, 8) for word in padded(words.reshape(-1, L), 1 << ADDRESS)],
        "rows": [joined(row, 8) for row in padded(rows.reshape(-1, L * L), 1 << ROWS)],
        "sums": [joined(word, ACC) for word in padded(sums.reshape(-1, L), 1 << MEMBRANE)],
        "numbers": [outputs | count << 32],
    }


def geometry(random: np.random.Generator, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Kernel, strides, padding, down and right each; dilation, enlargement: at most one of them is another than 1."""
    step, dilation, up, pads = np.array([1, 1]), 1, 1, np.array([int(random.integers(0, k)) for k in kernel])
    kind = int(random.integers(4))
    if kind == 0:
        step = random.integers(1, 4, 2)
    elif kind == 1:
        dilation = int(random.integers(1, 3))
    elif kind == 2:
        kernel, pads, up = np.array([1, 1]), np.array([0, 0]), int(random.integers(1, 4))
    return kernel, step, pads, dilation, up


def descriptor(tile: TileOfEvents, blocks: int, shape: np.ndarray, base: int, flags: int) -> int:
    """The tile as COMPUTE has it, but for how many words leave; ``shape`` of its inputs."""
    mode = 2 if tile.gains else 0
    d = field(0, 5 | flags | mode << 8 | tile.bits << 14 | tile.diagonal << 15 | (tile.up - 1) << 24)
    d |= field(5, tile.used) | field(6, base)
    origin = [number for axis in (1, 0) for number in divmod(int(tile.pads[axis]), int(tile.step[axis]))]
    d |= field(4, sum(number << 8 * k for k, number in enumerate(origin)))
    (high, wide), (down, right) = (int(n) for n in tile.size), (int(n) for n in tile.kernel)
    d |= field(7, wide - 1 | high - 1 << 16) | field(14, tile.signed)
    d |= field(8, right - 1 | down - 1 << 8 | blocks - 1 << 16)
    d |= field(9, int(shape[1]) | int(shape[0]) << 16)
    return d | field(10, int(tile.step[1]) | int(tile.step[0]) << 8 | tile.dilation << 16)


def fired(sums: np.ndarray, threshold: np.ndarray, soft: int) -> tuple[np.ndarray, np.ndarray]:
    """What leaky neurons keep behind their spikes, and these."""
    spikes = (sums > 1 << threshold).astype(np.int64)
    return (sums - (spikes << threshold) if soft else sums * (1 - spikes)), spikes


def streams(random: np.random.Generator) -> dict[str, list[int]]:
    """Levels that change, what neurons of one sign or two fire then, and at the end what they counted."""
    found: dict[str, list[int]] = {"wanted": [], "sent": []}
    for signed in (0, 1):
        low = -128 if signed else 0
        level, count = np.zeros((COUNTS, L), np.int64), np.zeros((COUNTS, L), np.int64)
        for step in range(STEPS):
            level = np.clip(level + random.integers(-2, 4, level.shape), low, low + 255)
            show = step >= STEPS - 2  # twice, since showing changes nothing
            fired = np.sign(level - count)
            count += 0 if show else fired
            head = signed << 1 | show
            found["wanted"] += [head | joined(word, 8) << 2 for word in level]
            found["sent"] += [joined(word, 8) for word in (count if show else fired)]
    return found


def wrapped(value: int, bits: int) -> int:
    """Two's complement of so many bits."""
    value = int(value) & ((1 << bits) - 1)
    return value - (1 << bits) if value >> (bits - 1) else value


def field(word: int, value: int) -> int:
    """A word of a descriptor."""
    return value << 32 * word


def joined(values: np.ndarray, bits: int) -> int:
    """Numbers side by side, the first one lowest."""
    return sum((int(value) & ((1 << bits) - 1)) << bits * k for k, value in enumerate(values))


def padded(values: np.ndarray, count: int) -> np.ndarray:
    """Zeros behind."""
    return np.concatenate([values, np.zeros((count - len(values), *values.shape[1:]), values.dtype)])


def main(seed: int, folder: Path) -> None:
    """Write unit_spikes.svh and the vectors."""
    random = np.random.default_rng(seed)
    vectors: dict[str, list[int]] = {}
    before: list[np.ndarray] = []
    for _ in range(CASES):
        for name, lines in case(random, before).items():
            vectors.setdefault(name, []).extend(lines)
    potentials = random.integers(0, 256, (WORDS, L)) >> random.integers(0, 8, (WORDS, L))
    vectors |= streams(random)
    vectors["potentials"] = [int(random.integers(2)) | joined(word, 8) << 1 for word in potentials]
    folder.mkdir(parents=True, exist_ok=True)
    header = [
        f"localparam int {name} = {value};"
        for name, value in (
            ("L", L), ("ACC", ACC), ("WEIGHT", WEIGHT), ("FACTOR", FACTOR), ("ADDRESS", ADDRESS), ("ROWS", ROWS),
            ("MEMBRANE", MEMBRANE), ("CASES", CASES), ("FIRED", WORDS), ("SEED", seed),
            ("COUNTS", COUNTS), ("STEPS", STEPS), ("FIRST", FIRST),
        )
    ]  # fmt: skip
    for name, rows in vectors.items():
        (folder / f"{name}.mem").write_text("\n".join(f"{row:x}" for row in rows) + "\n")
        header.append(f'localparam {name.upper()}_FILE = "{folder / name}.mem";')
    (folder / "unit_spikes.svh").write_text("\n".join(header) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
