"""Passes over bytes and convolutions of them as machine code, where there is a C compiler: the same numbers, sooner."""

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

import torch
from torch import Tensor

SOURCES = tuple(Path(__file__).with_name("c") / name for name in ("passes.c", "conv.c"))
FLAGS = ("-O3", "-march=native", "-std=c99", "-shared", "-fPIC")
WITH_THREADS = ("-fopenmp",)  # where the compiler has it

log = logging.getLogger(__name__)


class ConvCall(ctypes.Structure):
    """What `conv` of conv.c is told, field by field as there."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels")),
        *((name, ctypes.c_int64) for name in ("made_height", "made_width", "filters")),
        *((name, ctypes.c_int64) for name in ("size", "stride_y", "stride_x", "dilation")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "gain", "negative", "gain32", "negative32")),
        *((name, ctypes.c_double) for name in ("offset", "low", "high")),
        *((name, ctypes.c_int64) for name in ("bent", "exact32", "sums", "threads")),
    )


class Passes:
    """The functions of passes.c and conv.c. Tensors are contiguous, on the CPU and of the types that the files have.

    Args:
        library: what was compiled.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._requantise, self._add, self._max_pool = library.requantise, library.add, library.max_pool
        self._pixels, self._read_out, self._frame = library.pixels, library.read_out, library.frame
        self._conv, self._conv_depthwise = library.conv, library.conv_depthwise
        self.multiplies_bytes = bool(library.has_conv())  # whether conv.c was made for this processor's vectors
        pointer, count, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        self._requantise.argtypes = [pointer, pointer, count, count, pointer, pointer, real, real, real]
        self._add.argtypes = [*[pointer] * 3, count, count, *[pointer] * 5, real, real, real]
        self._max_pool.argtypes = [pointer, pointer, *[count] * 9, pointer]
        self._pixels.argtypes = [pointer, pointer, count]
        self._read_out.argtypes = [pointer, pointer, count, count, pointer]
        self._frame.argtypes = [pointer, pointer, *[count] * 7]
        self._conv.argtypes = self._conv_depthwise.argtypes = [ctypes.POINTER(ConvCall), pointer, pointer]
        self._near_errors, self._squared_errors = library.near_errors, library.squared_errors
        self._near_errors.argtypes = [pointer, count, count, pointer, count, ctypes.c_float, pointer]
        self._squared_errors.argtypes = [pointer, count, count, pointer, count, real, pointer, pointer]
        passes = (self._requantise, self._add, self._max_pool, self._pixels, self._read_out, self._frame)
        for function in (*passes, self._conv, self._conv_depthwise, self._near_errors, self._squared_errors):
            function.restype = None

    def requantise(
        self, acc: Tensor, out: Tensor, gain: Tensor, negative: Tensor | None, offset: float, low: int, high: int
    ) -> None:
        """Accumulators, float32, into bytes; ``gain`` and ``negative`` float64 [W], for every row of W values."""
        width, below = gain.numel(), None if negative is None else negative.data_ptr()
        rows = acc.numel() // width
        self._requantise(acc.data_ptr(), out.data_ptr(), rows, width, gain.data_ptr(), below, offset, low, high)

    def add(self, one: Tensor, other: Tensor, out: Tensor, by: tuple[int, ...], ends: tuple[float, int, int]) -> None:
        """Two maps of bytes into one; ``by``: values of a row W, and the addresses of what each has, float64 [W].

        These are the gain of each map, what is added, and the gains above and below 0.
        """
        width, *each = by
        rows = out.numel() // width
        self._add(one.data_ptr(), other.data_ptr(), out.data_ptr(), rows, width, *each, *ends)

    def max_pool(self, kept: Tensor, out: Tensor, size: int, stride: int, before: int) -> None:
        """Bytes [N,C,H,W] into bytes [N,C,H',W'], both channels last."""
        images, channels, height, width = kept.shape
        line = torch.empty(width * channels, dtype=torch.uint8)
        how = (images, height, width, channels, *out.shape[2:], size, stride, before)
        self._max_pool(kept.data_ptr(), out.data_ptr(), *how, line.data_ptr())

    def pixels(self, image: Tensor, out: Tensor) -> None:
        """Pixels n / 255, float32, into bytes."""
        self._pixels(image.data_ptr(), out.data_ptr(), out.numel())

    def read_out(self, acc: Tensor, out: Tensor, scale: Tensor) -> None:
        """Accumulators, float32, times ``scale``, float64 [W], into float32."""
        self._read_out(acc.data_ptr(), out.data_ptr(), acc.numel() // scale.numel(), scale.numel(), scale.data_ptr())

    def frame(self, kept: Tensor, out: Tensor, pad: int, channels: int, zero: int) -> None:
        """Bytes [N,C,H,W] into bytes with a border of ``zero`` and ``channels`` of them a pixel, channels last both."""
        images, width = kept.shape[0], kept.shape[1]
        self._frame(kept.data_ptr(), out.data_ptr(), images, *kept.shape[2:], width, pad, channels, zero)

    def near_errors(self, weights: Tensor, scales: Tensor, top: int) -> Tensor:
        """Squared errors [R,S] of weights [R,K], float32, on grids of scales [R,S], float64, to level ``top``."""
        errors, (rows, length) = torch.empty_like(scales), weights.shape
        given = (weights.data_ptr(), rows, length, scales.data_ptr(), scales.shape[1], top, errors.data_ptr())
        self._near_errors(*given)
        return errors

    def squared_errors(self, weights: Tensor, scales: Tensor, top: int, asked: Tensor) -> Tensor:
        """The same of float64, where ``asked`` [R,S] is true; inf elsewhere."""
        errors, (rows, length) = torch.empty_like(scales), weights.shape
        given = (weights.data_ptr(), rows, length, scales.data_ptr(), scales.shape[1], top, asked.data_ptr())
        self._squared_errors(*given, errors.data_ptr())
        return errors

    def conv(self, how: ConvCall, kept: int, out: Tensor, *, depthwise: bool) -> None:
        """Bytes at the address ``kept`` into bytes, or float32 sums, as ``how`` says."""
        (self._conv_depthwise if depthwise else self._conv)(how, kept, out.data_ptr())


@cache
def passes() -> Passes | None:
    """The compiled passes, None where nothing compiles them; made once for a processor, in the user's cache folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        log.info("no C compiler: requantisation takes several passes")
        return None
    said = b"".join(source.read_bytes() for source in SOURCES)
    key = hashlib.sha256(said + _processor() + compiler.encode()).hexdigest()[:16]
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
        fresh, sources = Path(folder) / made.name, map(str, SOURCES)
        command = [compiler, *FLAGS, *sources, "-o", str(fresh)]
        if subprocess.run([*command, *WITH_THREADS], check=False, capture_output=True).returncode:
            subprocess.run(command, check=True, capture_output=True)
        fresh.replace(made)


def _processor() -> bytes:
    """What decides which instructions there are, so that a home folder on two machines holds a file for each."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return b""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "").encode()
