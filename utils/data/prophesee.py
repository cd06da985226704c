"""Prophesee's files: events in ``.dat``, the boxes of objects in ``.npy``.

A ``.dat`` begins with lines of text, each with % in front, then a byte that says of what kind its rows are and one of
their size; a row of 8 bytes is the time, us, and a word of x (bits 0 to 13), y (14 to 27) and polarity (28). Boxes are
rows of a structured array; the field of time is called ts in older files and t in newer ones.
Source: https://docs.prophesee.ai/stable/data/file_formats/dat.html and Prophesee's automotive data set toolbox.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.data.events import Events, in_order
from utils.data.text import read_bytes
from utils.errors import InputError
from utils.files import writing
from utils.numbers import is_whole

ROW = np.dtype([("t", "<u4"), ("word", "<u4")])
MARK = b"%"
CHANGES = (0, 12)  # kinds of rows that are changes of brightness, in the format's two versions
LONGEST_HEADER = 1 << 16  # bytes; a page of text at most
BOX = np.dtype(
    [
        *(("t", "<u8"), ("x", "<f4"), ("y", "<f4"), ("w", "<f4"), ("h", "<f4")),
        *(("class_id", "u1"), ("class_confidence", "<f4"), ("track_id", "<u4")),
    ]
)
OLDER = {"t": "ts", "class_confidence": "confidence"}  # what these fields were called


@dataclass(frozen=True)
class DatRecording:
    """A ``.dat``, of which only what is asked for is read.

    ``size``: (height, width) of the sensor, where the header says it. ``rows``: mapped into memory, not read.
    """

    path: Path
    size: tuple[int, int] | None
    rows: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def begin(self) -> int:
        """The first event, us."""
        return int(self.rows["t"][0]) if len(self.rows) else 0

    @property
    def end(self) -> int:
        """Just after the last event, us."""
        return int(self.rows["t"][-1]) + 1 if len(self.rows) else 0

    def between(self, begin: int, end: int) -> Events:
        """Events of begin <= t < end, us; found by bisection."""
        times = self.rows["t"]
        return self._decoded(self.rows[bisect_left(times, begin) : bisect_left(times, end)])

    def whole(self) -> Events:
        """All events."""
        return self._decoded(self.rows)

    def _decoded(self, rows: NDArray[np.void]) -> Events:
        return in_order(unpacked(rows), self.path)


def unpacked(rows: NDArray[np.void]) -> Events:
    """Rows of a file as events."""
    word = rows["word"].astype(np.int64)
    return Events(rows["t"].astype(np.int64), word & 0x3FFF, word >> 14 & 0x3FFF, word >> 28 & 1)


def packed(events: Events) -> NDArray[np.void]:
    """Events as rows of 8 bytes; times below 2^32 us."""
    rows = np.empty(len(events), ROW)
    rows["t"], rows["word"] = events.t, events.x | events.y << 14 | events.p << 28
    return rows


def open_dat(path: Path) -> DatRecording:
    """A ``.dat``'s header, and its rows mapped; without a header the rows begin at once.

    Raises:
        InputError: it can not be read, is cut off, or its rows are something else than changes of brightness.
    """
    try:
        with path.open("rb") as file:
            head = file.read(LONGEST_HEADER)
        length = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot read this recording ({error.strerror}); check the list") from error
    if not length:
        raise InputError(f"{path}: holds not one byte; copy it again")
    at, said = 0, dict[str, str]()
    while head[at : at + 1] == MARK:
        end = head.find(b"\n", at)
        if end < 0:
            raise InputError(f"{path}: its header has no end; the file is cut off")
        words = head[at + 1 : end].decode(errors="replace").split()
        said[words[0].lower() if words else ""] = " ".join(words[1:])
        at = end + 1
    if at:
        kind = head[at : at + 2]
        if len(kind) == 2 and kind[1] != ROW.itemsize:
            raise InputError(f"{path}: events of {kind[1]} bytes, not {ROW.itemsize}; it holds something else")
        if len(kind) == 2 and kind[0] not in CHANGES:
            raise InputError(
                f"{path}: rows of kind {kind[0]} are no changes of brightness; give the file named _td.dat"
            )
        at += 2
    over = (length - at) % ROW.itemsize
    if length > at and over:
        raise InputError(f"{path}: ends inside an event ({over} bytes over); it is cut off")
    rows = np.memmap(path, ROW, "r", at) if length > at else np.zeros(0, ROW)
    return DatRecording(path, _size(said, path), rows)


def _size(said: dict[str, str], path: Path) -> tuple[int, int] | None:
    """(height, width) as a header says it."""
    if "height" not in said or "width" not in said:
        return None
    if not (is_whole(said["height"]) and is_whole(said["width"]) and int(said["height"]) * int(said["width"])):
        raise InputError(
            f"{path}: Height {said['height']}, Width {said['width']} in its header are no size; correct it"
        )
    return int(said["height"]), int(said["width"])


def write_dat(path: Path, events: Events, size: tuple[int, int]) -> None:
    """Write events, in order of time, of a sensor of (height, width) px."""
    lines = ("Data file containing CD events.", "Version 2", f"Height {size[0]}", f"Width {size[1]}")
    head = "".join(f"% {line}\n" for line in lines).encode() + bytes((CHANGES[1], ROW.itemsize))
    with writing(path) as temporary:
        temporary.write_bytes(head + packed(events).tobytes())


def boxes_path(recording: Path) -> Path:
    """The file of a recording's boxes: 17-04-13_td.dat -> 17-04-13_bbox.npy."""
    return recording.with_name(f"{recording.stem.removesuffix('_td')}_bbox.npy")


def read_boxes(path: Path) -> NDArray[np.void]:
    """The boxes of a recording, by time, as `BOX`: the upper left corner, width and height in px of the sensor.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    content = read_bytes(path)
    try:
        found = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:  # its header is text of Python's
        raise InputError(f"{path}: no array of boxes ({str(error)[:60]}); copy it again") from None
    names = found.dtype.names or ()
    out = np.zeros(len(found) if found.ndim == 1 else 0, BOX)
    for name in BOX.names or ():
        called = name if name in names else OLDER.get(name, name)
        if called in names and found.ndim == 1:
            out[name] = _numbers(path, called, found[called], 0xFF if name == "class_id" else None)
        elif name in ("t", "x", "y", "w", "h", "class_id"):
            raise InputError(
                f"{path}: boxes without {name}, but {', '.join(names) or 'plain numbers'}; it is no _bbox.npy"
            )
    corners = np.stack([out[name] for name in ("x", "y", "w", "h")])
    if not np.isfinite(corners).all():
        raise InputError(f"{path}: box {int((~np.isfinite(corners)).any(0).argmax())} is not finite; correct it")
    return out[np.argsort(out["t"], kind="stable")]


def _numbers(path: Path, name: str, values: NDArray[Any], most: int | None) -> NDArray[Any]:
    """A field of boxes; what it can not be would be cast in silence, class 256 to 0."""
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise InputError(f"{path}: {name} of its boxes is {values.dtype} {list(values.shape)}, no numbers; correct it")
    wrong = ~np.isfinite(values) if name in ("t", "ts") else np.zeros(len(values), bool)
    wrong |= (values < 0) | (values > most) | (values % 1 != 0) if most is not None else False
    if wrong.any():
        raise InputError(f"{path}: box {int(wrong.argmax())} has {name} {values[wrong][0]:g}; correct it")
    return values


def write_boxes(path: Path, boxes: NDArray[np.void]) -> None:
    """Write boxes of `BOX`."""
    with writing(path) as temporary, temporary.open("wb") as file:
        np.save(file, boxes)
