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

BYTES = 8  # the type that all published sets have


def read_idx(path: Path | str, axes: int) -> NDArray[np.uint8]:
    """The values of a file that has so many axes.

    Raises:
        InputError: no such file, or one that is damaged, of another type or of another number of axes.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read this IDX file ({error}); fetch it again") from error
    if len(content) < 4 + 4 * axes or content[:2] != b"\0\0" or content[2] != BYTES:
        raise InputError(f"{path}: does not begin as an IDX file of bytes; give one of MNIST's layout")
    if content[3] != axes:
        raise InputError(f"{path}: has {content[3]} axes, not {axes}; images have 3 and labels 1, give the other file")
    shape = struct.unpack_from(f">{axes}i", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if min(shape) < 1 or len(values) != math.prod(shape):
        raise InputError(f"{path}: {len(values):,} values, {math.prod(shape):,} are announced; it is cut off")
    return values.reshape(shape)
