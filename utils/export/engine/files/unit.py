"""Vectors for unit.sv: python3 unit.py SEED FOLDER. What a block must give is computed here with numpy, not by it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

Fields = list[tuple[int, int]]  # (value, bits), the first one lowest
COUNT = 400


def word(fields: Fields) -> str:
    """Fields as one hexadecimal word."""
    value = at = 0
    for number, bits in fields:
        value |= (int(number) & ((1 << bits) - 1)) << at
        at += bits
    return f"{value:0{-(-at // 4)}x}"


def signed(random: np.random.Generator, bits: int, count: int) -> list[int]:
    """Integers of all sizes, and the ends."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    sizes = random.integers(1, bits + 1, count)
    found = [int(random.integers(-(1 << (size - 1)), 1 << (size - 1))) for size in sizes]
    for at, end in zip(random.integers(0, count, 2), (low, high), strict=True):
        if random.integers(4) == 0:
            found[at] = end
    return found


def wrapped(value: int, bits: int) -> int:
    """Two's complement of so many bits."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def rescale(random: np.random.Generator, p: dict[str, int]) -> Iterable[Fields]:
    """acc, m, m_neg, f, lo, hi, plain -> level; every third one is a tie."""
    top = (1 << (p["LEVEL"] - 1)) - 1
    for k in range(COUNT):
        (acc,), (m, m_neg) = signed(random, p["ACC"], 1), (abs(n) for n in signed(random, p["GAIN"], 2))
        m, m_neg = (min(n, (1 << (p["GAIN"] - 1)) - 1) for n in (m, m_neg))
        f = int(random.integers(1, min(48, p["ACC"] + p["GAIN"] - 2)))
        if k % 3 == 0:  # acc * m is an odd number of halves
            f = int(random.integers(1, min(p["ACC"] - 3, 20)))
            m, acc = 1, wrapped((2 * int(random.integers(-60, 60)) + 1) << (f - 1), p["ACC"])
            m_neg = 1
        lo, hi = sorted(int(n) for n in random.integers(-top - 1, top + 1, 2))
        plain = k % 7 == 6
        if plain:
            acc = int(random.integers(-top - 1, top + 1))
        level = acc if plain else min(max((acc * (m_neg if acc < 0 else m) + (1 << (f - 1))) >> f, lo), hi)
        yield [
            (acc, p["ACC"]), (m, p["GAIN"]), (m_neg, p["GAIN"]), (f, 6), (lo, p["LEVEL"]), (hi, p["LEVEL"]), (plain, 1),
            (level, p["LEVEL"]),
        ]  # fmt: skip


def array(random: np.random.Generator, p: dict[str, int]) -> Iterable[Fields]:
    """L levels, L x L weights -> L sums."""
    lanes = p["L"]
    for _ in range(COUNT // 4):
        n, w = signed(random, p["LEVEL"], lanes), np.array(signed(random, p["WEIGHT"], lanes**2)).reshape(lanes, lanes)
        sums = [sum(int(a) * b for a, b in zip(row, n, strict=True)) for row in w]
        yield [*((v, p["LEVEL"]) for v in n), *((v, 8) for v in w.ravel()), *((v, p["ACC"]) for v in sums)]


def elementwise(random: np.random.Generator, p: dict[str, int]) -> Iterable[Fields]:
    """L levels, L gains -> L products."""
    for _ in range(COUNT // 4):
        n, gains = signed(random, p["LEVEL"], p["L"]), signed(random, p["FACTOR"], p["L"])
        made = [a * b for a, b in zip(n, gains, strict=True)]
        yield [*((v, p["LEVEL"]) for v in n), *((v, 32) for v in gains), *((v, p["ACC"]) for v in made)]


def accumulator(random: np.random.Generator, p: dict[str, int]) -> Iterable[Fields]:
    """A tap each: first, largest, start, term -> acc after it."""
    for _ in range(COUNT // 4):
        largest, start = int(random.integers(2)), signed(random, p["ACC"], p["L"])
        acc = start
        for tap in range(int(random.integers(1, 6))):
            term = signed(random, p["ACC"], p["L"])
            acc = [max(a, t) if largest else wrapped(a + t, p["ACC"]) for a, t in zip(acc, term, strict=True)]
            yield [(tap == 0, 1), (largest, 1), *((v, p["ACC"]) for each in (start, term, acc) for v in each)]


def table(random: np.random.Generator, p: dict[str, int]) -> tuple[list[Fields], list[Fields]]:
    """The words of a table; used, lo, L levels -> a word."""
    entries = random.integers(0, 256, 256)
    queries: list[Fields] = []
    for _ in range(COUNT // 4):
        used, lo = int(random.integers(2)), int(random.integers(-(1 << (p["LEVEL"] - 1)), 1))
        levels = [lo + int(n) for n in random.integers(0, min(256, 1 << (p["LEVEL"] - 1)), p["L"])]
        found = [int(entries[n - lo]) if used else n for n in levels]
        queries.append([(used, 1), (lo, p["LEVEL"]), *((n, p["LEVEL"]) for n in levels), *((n, 8) for n in found)])
    return [[(int(n), 8) for n in row] for row in entries.reshape(-1, p["L"])], queries


def taps(random: np.random.Generator, p: dict[str, int]) -> tuple[list[Fields], list[Fields]]:
    """Geometries, each with how many taps it has; and for every tap address, row, on the map, first, last, block."""
    geometries: list[Fields] = []
    walked: list[Fields] = []
    for _ in range(24):
        out, kernel, step, wide = (random.integers(1, ends, 2) for ends in (6, 4, 4, 9))
        blocks, dilation, up = (int(random.integers(1, end)) for end in (4, 3, 4))
        spread, hold = (int(random.integers(4) == 0) for _ in range(2))
        left, top = (int(n) for n in random.integers(-3, 3, 2))
        base, block = int(random.integers(0, 1 << p["ADDRESS"])), int(random.integers(0, 40))
        before = len(walked)
        for oy, ox, b, ky, kx in np.ndindex(int(out[1]), int(out[0]), blocks, int(kernel[1]), int(kernel[0])):
            row, column = oy // up * step[1] + ky * dilation, ox // up * step[0] + kx * dilation
            held = spread and (oy % up or ox % up)
            on_map = 0 <= row + top < wide[1] and 0 <= column + left < wide[0] and not held
            number = (b * int(kernel[1]) + ky) * int(kernel[0]) + kx
            walked.append(
                [
                    (base + int(row * wide[0] + column) + b * block, p["ADDRESS"]), (0 if hold else number, p["ROWS"]),
                    (int(on_map), 1), (number == 0, 1), (number == blocks * kernel[0] * kernel[1] - 1, 1), (b, 6),
                ]
            )  # fmt: skip
        geometries.append(
            [
                (out[0] - 1, 16), (out[1] - 1, 16), (kernel[0] - 1, 8), (kernel[1] - 1, 8), (blocks - 1, 16),
                (step[0], 8), (step[1], 8), (dilation, 8), (up - 1, 8), (spread, 1), (hold, 1), (left, 16), (top, 16),
                (wide[0], 16), (wide[1], 16), (dilation * wide[0], 16), (step[1] * wide[0], 16), (base, p["ADDRESS"]),
                (block, p["ADDRESS"]), (len(walked) - before, 16),
            ]
        )  # fmt: skip
    return geometries, walked


def main(seed: int, folder: Path) -> None:
    """Write unit.svh and the vectors."""
    here, random = Path(__file__).parent, np.random.default_rng(seed)
    found = re.findall(r"\.(\w+)\((\d+)\)", (here / "top.sv").read_text())
    p = {name: int(value) for name, value in found if name.isupper()}
    entries, queries = table(random, p)
    geometries, walked = taps(random, p)
    vectors = {
        "RESCALE": list(rescale(random, p)),
        "ARRAY": list(array(random, p)),
        "ELEMENTS": list(elementwise(random, p)),
        "SUMS": list(accumulator(random, p)),
        "ENTRIES": entries,
        "QUERIES": queries,
        "GEOMETRIES": geometries,
        "WALKED": walked,
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"localparam int {name} = {value};" for name, value in p.items()] + [f"localparam int SEED = {seed};"]
    for name, rows in vectors.items():
        (folder / f"{name.lower()}.mem").write_text("\n".join(map(word, rows)) + "\n")
        bits = sum(bits for _, bits in rows[0])
        lines += [f"localparam int {name} = {len(rows)};", f"localparam int {name}_BITS = {bits};"]
        lines.append(f'localparam {name}_FILE = "{folder / name.lower()}.mem";')
    (folder / "unit.svh").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
