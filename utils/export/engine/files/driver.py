"""Runs the engine from Python: the calls of driver.h, with numpy alone, and a port for boards with PYNQ.

  python3 driver.py 0x43C00000       on a board: golden image 0, every read-out compared with golden/

The address is the one that the block design gives to the registers. No board was at hand: the accesses and bytes of
what is here are held equal to those of driver.c, through which `make sim` drives the simulation.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

HERE = Path(__file__).parent
CONTROL, IRQ, BASE, PROGRAM, CLOCKS, LAYER, ERROR, BUSY, ID = range(0x00, 0x24, 4)  # src/regs.sv says what each does
START, CLEAR, RUNNING, DONE = 1, 2, 1, 2
LANES = 0x44534500  # of ID, plus how many there are
WINDOW = 256  # bytes of registers


class Port(Protocol):
    """How to reach it: registers of 32 bits; a wait for the interrupt or a while; caches written back, and dropped."""

    def read(self, offset: int) -> int:
        """A register."""

    def write(self, offset: int, value: int) -> None:
        """A register."""

    def wait(self) -> None:
        """Until the interrupt, or a while."""

    def clean(self) -> None:
        """Before a run."""

    def invalidate(self) -> None:
        """After it."""


class Status(IntEnum):
    """As in driver.h."""

    OK = 0
    OTHER_DEVICE = 1
    OCCUPIED = 2
    TIMEOUT = 3
    FAILED = 4


@dataclass(frozen=True)
class EngineResult:
    """Of a run: ``error`` has a descriptor in bits 31:8 and a code in 7:0, ``layer`` is the newest descriptor's."""

    status: Status
    clocks: int = 0
    busy: int = 0
    error: int = 0
    layer: int = 0


@dataclass(frozen=True)
class Map:
    """A map in memory: bytes of an element, bytes from a pixel to the next, byte of every channel's first pixel."""

    layer: int
    file: str
    pixels: int
    size: int
    stride: int
    address: tuple[int, ...]

    def at(self) -> np.ndarray:
        """Byte of every element, int64 [channels, pixels]."""
        return np.array(self.address)[:, None] + self.stride * np.arange(self.pixels)


@dataclass(frozen=True)
class Layout:
    """A network's memory map, as map.txt says it; ``heads`` are its read-outs, in the order of the layers."""

    lanes: int
    words: int
    program_word: int
    image: Map
    heads: tuple[Map, ...]

    @property
    def size(self) -> int:
        """Bytes of everything."""
        return self.words * self.lanes


def read_layout(path: Path = HERE / "map.txt") -> Layout:
    """The memory map that lies beside this file."""
    said: dict[str, list[str]] = {}
    maps = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key, *rest = line.split()
        if key == "map":
            layer, (pixels, size, stride) = int(rest[0]), map(int, rest[3:6])
            maps.append(Map(layer, rest[1], pixels, size, stride, tuple(int(each[1:]) for each in rest[7:])))
        else:
            said[key] = rest
    image = next(each for each in maps if each.layer < 0)
    heads = tuple(each for each in maps if each.size == 4)
    return Layout(int(said["lanes"][0]), int(said["words"][0]), int(said["program"][0]), image, heads)


def load(network: Layout, memory: np.ndarray, folder: Path = HERE) -> None:
    """Constants and program to their places; once. memory: uint8, what BASE points at."""
    for name, at in (("constants.bin", 0), ("program.bin", network.program_word * network.lanes)):
        content = np.fromfile(folder / name, np.uint8)
        memory[at : at + content.size] = content


def put_image(network: Layout, memory: np.ndarray, pixels: np.ndarray) -> None:
    """An image of 8-bit pixels [channel][y][x] to where the program reads it."""
    at = network.image.at()
    memory[at] = np.asarray(pixels, np.uint8).reshape(at.shape)


def run(port: Port, network: Layout, base: int, waits: int = 1000) -> EngineResult:
    """One frame: the image is in memory already. base: its bus address, a multiple of 4096."""
    if port.read(ID) != LANES + network.lanes:
        return EngineResult(Status.OTHER_DEVICE)
    if port.read(CONTROL) & RUNNING:
        return EngineResult(Status.OCCUPIED)
    port.clean()
    for register, value in ((CONTROL, CLEAR), (BASE, base), (PROGRAM, network.program_word), (IRQ, 1)):
        port.write(register, value)
    port.write(CONTROL, START)
    done = 0
    while not done and waits >= 0:
        port.wait()
        done = port.read(CONTROL) & DONE
        waits -= 1
    port.write(IRQ, 0)
    clocks, busy, error, layer = (port.read(each) for each in (CLOCKS, BUSY, ERROR, LAYER))
    if not done:
        return EngineResult(Status.TIMEOUT, clocks, busy, error, layer)
    port.invalidate()
    return EngineResult(Status.FAILED if error else Status.OK, clocks, busy, error, layer)


def get_head(network: Layout, memory: np.ndarray, head: int) -> np.ndarray:
    """The accumulators of a read-out, int32 [channel][pixel]."""
    at = network.heads[head].at()[..., None] + np.arange(4)
    return np.ascontiguousarray(memory[at]).view("<i4")[..., 0]


class PynqPort:
    """A port through PYNQ. address: of the registers on the bus; buffer: of pynq.allocate."""

    def __init__(self, address: int, buffer: Any) -> None:
        from pynq import MMIO

        self.registers, self.buffer = MMIO(address, WINDOW), buffer

    def read(self, offset: int) -> int:
        """A register."""
        return int(self.registers.read(offset))

    def write(self, offset: int, value: int) -> None:
        """A register."""
        self.registers.write(offset, value)

    def wait(self) -> None:
        """A millisecond: the interrupt is polled."""
        time.sleep(0.001)

    def clean(self) -> None:
        """Caches over memory."""
        self.buffer.flush()

    def invalidate(self) -> None:
        """Caches dropped."""
        self.buffer.invalidate()


def main(address: int) -> int:
    """Golden image 0 on a board whose bitstream is loaded; 1 where a read-out differs, with its name."""
    try:
        from pynq import allocate
    except ImportError:
        sys.stderr.write(
            "driver.py: this is no board with PYNQ (https://pynq.io); import it, with a port of your own\n"
        )
        return 2
    network, golden = read_layout(), HERE / "../../golden/0"
    memory = allocate(shape=(network.size,), dtype=np.uint8)
    load(network, memory)
    put_image(network, memory, np.load(golden / network.image.file))
    result = run(PynqPort(address, memory), network, memory.physical_address)
    if result.status is not Status.OK:
        sys.stderr.write(f"engine: {result}; README.md has what ERROR's codes mean\n")
        return 1
    for k, head in enumerate(network.heads):
        if (get_head(network, memory, k).ravel() != np.load(golden / head.file).ravel()).any():
            sys.stderr.write(f"layer {head.layer}: {head.file} is not what the engine gives\n")
            return 1
    sys.stdout.write(f"engine: {len(network.heads)} read-outs equal; {result.clocks} clocks, {result.busy} busy\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").strip())
    sys.exit(main(int(sys.argv[1], 0)))
