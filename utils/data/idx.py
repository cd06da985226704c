"""IDX files, in which MNIST and the sets that are laid out like it come: bytes with their shape before them.

Source: http://yann.lecun.com/exdb/mnist, "the IDX file format": two zero bytes, the type (8: unsigned bytes), the
number of axes, each axis as a big-endian int32, then the values. ``.gz`` is read as it is.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import InputError
from utils.files import no_file
from utils.memory import free_memory, in_words

BYTES = 8  # the type that all published sets have
# Fashion-MNIST's classes as its authors name them (arXiv 1708.07747, table 2, in words that fit a line)
FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def read_idx(path: Path | str, axes: int) -> NDArray[np.uint8]:
    """The values of a file that has so many axes.

    Raises:
        InputError: no such file, or one that is damaged, of another type or of another number of axes.
    """
    path = Path(path)
    if reason := no_file(path):
        raise InputError(f"{path}: {reason}; give one of MNIST's layout")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(path, file.read(4 + 4 * axes), axes)
            content = file.read(math.prod(shape) + 1)  # a small .gz may unpack without end
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read this IDX file ({error}); fetch it again") from error
    if len(content) != math.prod(shape):
        fact = f"{len(content):,}{' or more' * (len(content) > math.prod(shape))} values"
        raise InputError(f"{path}: {fact}, {math.prod(shape):,} are announced; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(path: Path, head: bytes, axes: int) -> tuple[int, ...]:
    """What the first bytes announce."""
    if len(head) < 4 + 4 * axes or head[:2] != b"\0\0" or head[2] != BYTES:
        raise InputError(f"{path}: does not begin as an IDX file of bytes; give one of MNIST's layout")
    if head[3] != axes:
        raise InputError(f"{path}: has {head[3]} axes, not {axes}; images have 3 and labels 1, give the other file")
    shape = struct.unpack_from(f">{axes}i", head, 4)
    if min(shape) < 1:
        raise InputError(f"{path}: announces {' x '.join(map(str, shape))} values; fetch it again")
    if math.prod(shape) > free_memory():
        raise InputError(f"{path}: memory: announces {in_words(math.prod(shape))}, more than is free; fetch it again")
    return shape
