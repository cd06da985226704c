"""The engine's driver in Python against that in C, which `make sim` drives the simulation with: accesses and bytes alike."""

from __future__ import annotations

import ctypes as c
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.export.engine_folder import write
from tests.export.nets import small

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="needs cc")
BASE = 0x1000_0000
WRITE = c.CFUNCTYPE(None, c.c_void_p, c.c_uint32, c.c_uint32)
READ = c.CFUNCTYPE(c.c_uint32, c.c_void_p, c.c_uint32)
CALL = c.CFUNCTYPE(None, c.c_void_p)


@dataclass
class Device:
    """Registers that answer as src/regs.sv has them, done after so many waits, and what was asked of them."""

    lanes: int = 8
    after: int = 2
    running: bool = False
    error: int = 0
    done: bool = False
    log: list[tuple[object, ...]] = field(default_factory=list)
    work: Callable[[], None] = lambda: None

    def read(self, offset: int) -> int:
        self.log.append(("read", offset))
        control = self.running | 2 * self.done
        return {0x00: control, 0x10: 4321, 0x14: 7, 0x18: self.error, 0x1C: 1234, 0x20: 0x44534500 + self.lanes}[offset]

    def write(self, offset: int, value: int) -> None:
        self.log.append(("write", offset, value))
        if offset == 0 and value == 1:
            self.running = True

    def wait(self) -> None:
        self.log.append(("wait",))
        self.after -= 1
        if self.running and self.after == 0:
            self.work()
            self.running, self.done = False, True

    def clean(self) -> None:
        self.log.append(("clean",))

    def invalidate(self) -> None:
        self.log.append(("invalidate",))


class Port(c.Structure):
    _fields_ = (
        ("context", c.c_void_p), ("write", WRITE), ("read", READ), ("wait", CALL), ("clean", CALL), ("invalidate", CALL),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("driven")
    write(place, *small("tests/cfgs/csp.cfg"))
    return place


@pytest.fixture(scope="module")
def python(folder) -> ModuleType:
    """driver.py of the folder."""
    about = importlib.util.spec_from_file_location("driver", folder / "rtl/engine/driver.py")
    assert about is not None and about.loader is not None
    module = sys.modules["driver"] = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library(folder, tmp_path_factory) -> c.CDLL:
    """driver.c of the folder with its network.h."""
    place = tmp_path_factory.mktemp("library")
    (place / "net.c").write_text(
        '#include "network.h"\nconst struct engine_network *net(void) { return &engine_network; }\n'
    )
    engine, made = folder / "rtl/engine", place / "driver.so"
    words = ["cc", "-std=c99", "-shared", "-fPIC", f"-I{engine}", "-o", made, place / "net.c", engine / "driver.c"]
    subprocess.run(words, check=True)
    loaded = c.CDLL(str(made))
    loaded.net.restype = c.c_void_p
    loaded.engine_get_head.restype = c.c_long
    return loaded


SEEN = {  # device, waits that the driver has, what it says
    "ok": ({}, 5, "OK"),
    "at once": ({"after": 1}, 0, "OK"),
    "too late": ({"after": 4}, 2, "TIMEOUT"),
    "just in time": ({"after": 3}, 2, "OK"),
    "failed": ({"error": 0x301}, 5, "FAILED"),
    "occupied": ({"running": True}, 5, "OCCUPIED"),
    "another device": ({"lanes": 4}, 5, "OTHER_DEVICE"),
}


@needs_cc
@pytest.mark.parametrize("case", SEEN)
def test_python_asks_the_registers_what_c_does_in_the_same_order(case, python, library):
    about, waits, said = SEEN[case]
    mine, other = Device(**about), Device(**about)
    found = python.run(mine, python.read_layout(), BASE, waits)
    port = Port(
        None,
        WRITE(lambda _, at, value: other.write(at, value)),
        READ(lambda _, at: other.read(at)),
        *(CALL(lambda _, call=each: call()) for each in (other.wait, other.clean, other.invalidate)),
    )
    result = (c.c_uint32 * 4)()
    status = library.engine_run(c.byref(port), c.c_void_p(library.net()), c.c_uint32(BASE), c.c_uint32(waits), result)
    assert found.status == status and found.status.name == said
    assert mine.log == other.log and len(mine.log) > 0
    assert [found.clocks, found.busy, found.error, found.layer] == list(result)


@needs_cc
def test_python_puts_an_image_and_takes_read_outs_byte_for_byte_as_c_does(python, library):
    network, random = python.read_layout(), np.random.default_rng(0)
    before = random.integers(0, 256, network.size, np.uint8)
    mine, other = before.copy(), before.copy()
    pixels = random.integers(0, 256, (len(network.image.address), network.image.pixels), np.uint8)
    python.put_image(network, mine, pixels)
    library.engine_put_image(
        c.c_void_p(library.net()), other.ctypes.data_as(c.c_void_p), pixels.ctypes.data_as(c.c_void_p)
    )
    np.testing.assert_array_equal(mine, other)
    assert (mine != before).any() and len(network.heads) == 2
    for k in range(len(network.heads)):
        head = python.get_head(network, before, k)
        acc = np.zeros(head.shape, np.int32)
        memory = before.ctypes.data_as(c.c_void_p)
        count = library.engine_get_head(c.c_void_p(library.net()), memory, k, acc.ctypes.data_as(c.c_void_p))
        assert count == head.size and (head < 0).any()
        np.testing.assert_array_equal(head, acc)


def board(monkeypatch, python, folder, changed: int = 0) -> Device:
    """A stand-in for PYNQ whose engine leaves the golden read-outs, one byte of the last one ``changed``."""
    network, device = python.read_layout(), Device(after=1)
    memory = np.zeros(network.size, np.uint8).view(Buffer)
    memory.engine = device

    def work() -> None:
        at = network.program_word * network.lanes
        program = (folder / "rtl/engine/program.bin").read_bytes()
        assert memory[at : at + len(program)].tobytes() == program
        assert memory[: (folder / "rtl/engine/constants.bin").stat().st_size].any()
        for head in network.heads:
            golden = np.load(folder / "golden/0" / head.file).astype("<i4").reshape(len(head.address), -1)
            for channel, first in enumerate(head.address):
                for pixel, value in enumerate(golden[channel]):
                    memory[first + pixel * head.stride :][:4] = np.frombuffer(value.tobytes(), np.uint8)
        memory[first] ^= changed

    device.work = work
    made = SimpleNamespace(allocate=lambda shape, dtype: memory, MMIO=lambda address, size: device)
    monkeypatch.setitem(sys.modules, "pynq", made)
    monkeypatch.setattr(python, "time", SimpleNamespace(sleep=lambda _: device.wait()))
    return device


class Buffer(np.ndarray):
    """As pynq.allocate returns it."""

    physical_address = BASE

    def flush(self) -> None:
        self.engine.clean()

    def invalidate(self) -> None:
        self.engine.invalidate()


def test_a_board_with_pynq_runs_the_golden_image_and_names_a_read_out_that_differs(monkeypatch, python, folder, capsys):
    device = board(monkeypatch, python, folder)
    assert python.main(0x43C00000) == 0
    assert capsys.readouterr().out == "engine: 2 read-outs equal; 4321 clocks, 1234 busy\n"
    assert ("write", 0x08, BASE) in device.log and ("clean",) in device.log and ("invalidate",) in device.log
    board(monkeypatch, python, folder, changed=1)
    assert python.main(0x43C00000) == 1
    assert "_acc.npy is not what the engine gives" in capsys.readouterr().err


def test_elsewhere_it_says_what_is_missing(folder):
    done = subprocess.run([sys.executable, folder / "rtl/engine/driver.py", "0"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("driver.py: this is no board with PYNQ")
