"""The passes over bytes as machine code, where there is a C compiler: one pass instead of several, the same numbers."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from torch import Tensor

SOURCE = Path(__file__).with_name("c") / "passes.c"
FLAGS = ("-O3", "-march=native", "-std=c99", "-shared", "-fPIC")

log = logging.getLogger(__name__)


class Passes:
    """The functions of passes.c. Tensors are contiguous, on the CPU and of the types that the file has.

    Args:
        library: what was compiled.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._requantise, self._add, self._max_pool = library.requantise, library.add, library.max_pool
        pointer, count, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        self._requantise.argtypes = [pointer, pointer, count, count, pointer, pointer, real, real, real]
        self._add.argtypes = [*[pointer] * 3, count, count, *[pointer] * 5, real, real, real]
        self._max_pool.argtypes = [pointer, pointer, *[count] * 8]
        self._requantise.restype = self._add.restype = self._max_pool.restype = None

    def requantise(
        self, acc: Tensor, out: Tensor, gain: Tensor, negative: Tensor | None, offset: float, low: int, high: int
    ) -> None:
        """Accumulators, float32, into bytes; ``gain`` and ``negative`` float64 [W], for every row of W values."""
        width, below = gain.numel(), None if negative is None else negative.data_ptr()
        rows = acc.numel() // width
        self._requantise(acc.data_ptr(), out.data_ptr(), rows, width, gain.data_ptr(), below, offset, low, high)

    def add(
        self, one: Tensor, other: Tensor, out: Tensor, by: tuple[Tensor, ...], ends: tuple[float, int, int]
    ) -> None:
        """Two maps of bytes into one; ``by``: gain of each, what is added, gains above and below 0, all [W]."""
        width = by[0].numel()
        rows = out.numel() // width
        given = (one.data_ptr(), other.data_ptr(), out.data_ptr(), rows, width, *(each.data_ptr() for each in by))
        self._add(*given, *ends)

    def max_pool(self, kept: Tensor, out: Tensor, size: int, stride: int, before: int) -> None:
        """Bytes [N,C,H,W] into bytes [N,C,H',W'], both channels last."""
        how = (*kept.shape[2:], kept.shape[1], *out.shape[2:], size, stride, before)
        for one, made in zip(kept.unbind(), out.unbind(), strict=True):
            self._max_pool(one.data_ptr(), made.data_ptr(), *how)


@cache
def passes() -> Passes | None:
    """The compiled passes, None where nothing compiles them; made once for a processor, in the user's cache folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        log.info("no C compiler: requantisation takes several passes")
        return None
    key = hashlib.sha256(SOURCE.read_bytes() + _processor() + compiler.encode()).hexdigest()[:16]
    made = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkspike" / f"passes-{key}.so"
    try:
        if not made.exists():
            _compile(compiler, made)
        return Passes(ctypes.CDLL(str(made)))
    except (OSError, subprocess.CalledProcessError) as error:
        log.info("requantisation takes several passes, because its C file does not compile: %s", error)
        return None


def _compile(compiler: str, made: Path) -> None:
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        fresh = Path(folder) / made.name
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(fresh)], check=True, capture_output=True)
        fresh.replace(made)


def _processor() -> bytes:
    """What decides which instructions there are, so that a home folder on two machines holds a file for each."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return b""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "").encode()
