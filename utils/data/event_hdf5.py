"""Events in HDF5, read by h5py: the layouts that data sets are published in.

``CD/events`` or ``events``, rows with fields x, y, p, t (Metavision, 1 Mpx); or a group ``CD``, ``events`` or the file
itself with one array for each of x, y, p (or pol, polarity) and t (or ts, time). ``t_offset``, us, is added to every
time (DSEC). Sensors are as the attributes ``height`` and ``width``, or ``geometry`` (1280x720), say.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.data.events import Events, in_order
from utils.errors import InputError
from utils.numbers import is_whole

GROUPS = ("CD", "events", "CD/events")
NUMBERS = "biuf"  # kinds of a column
LOOKED_AT = 1000  # times at either end
NAMES = {"t": ("t", "ts", "time", "timestamp"), "x": ("x",), "y": ("y",), "p": ("p", "pol", "polarity")}


@dataclass(frozen=True)
class Hdf5Recording:
    """A file of which only what is asked for is read; ``columns`` are h5py's data sets by t, x, y, p.

    ``rows`` is their number; ``offset``, us, what is added to every time.
    """

    path: Path
    size: tuple[int, int] | None
    columns: Mapping[str, Any]
    rows: int
    offset: int

    def __len__(self) -> int:
        return self.rows

    @property
    def begin(self) -> int:
        """The first event, us."""
        return int(self.columns["t"][0]) + self.offset if self.rows else 0

    @property
    def end(self) -> int:
        """Just after the last event, us."""
        return int(self.columns["t"][self.rows - 1]) + self.offset + 1 if self.rows else 0

    def between(self, begin: int, end: int) -> Events:
        """Events of begin <= t < end, us; found by bisection."""
        moments = (begin - self.offset, end - self.offset)
        return self._part(*(bisect_left(self.columns["t"], moment, 0, self.rows) for moment in moments))

    def whole(self) -> Events:
        """All events."""
        return self._part(0, self.rows)

    def _part(self, first: int, last: int) -> Events:
        try:
            read = {name: np.asarray(column[first:last]) for name, column in self.columns.items()}
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: h5py cannot read its events ({str(error)[:80]}); write it anew without that compression"
            ) from None
        found = {name: _whole(self.path, name, values) for name, values in read.items()}
        positive = (found["p"] > 0).astype(np.int64)  # OFF is 0 or -1
        return in_order(Events(found["t"] + self.offset, found["x"], found["y"], positive), self.path)


def open_hdf5(path: Path) -> Hdf5Recording:
    """An HDF5 file of events.

    Raises:
        InputError: h5py is not there, or the file is no HDF5, or holds no events in a known layout.
    """
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{path}: HDF5 is read by h5py, which is not installed; pip install -r requirements-events.txt"
        ) from None
    try:
        file = h5py.File(path, "r")
        columns, size, offset = _columns(file, h5py), _sensor(file, path), _offset(file, path)
    except (OSError, RuntimeError) as error:
        reason = "no such file" if not path.is_file() else str(error)[:80]
        raise InputError(
            f"{path}: h5py cannot open this recording ({reason}); check the list, or copy it again"
        ) from None
    if columns is None:
        raise InputError(
            f"{path}: holds {', '.join(list(file)[:6]) or 'nothing'}, and no CD/events; see docs/how-to/events.md"
        )
    _check_columns(path, columns)
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise InputError(f"{path}: its t, x, y and p are of lengths {sorted(lengths)}; it is cut off, copy it again")
    return Hdf5Recording(path, size, columns, lengths.pop(), offset)


def _check_columns(path: Path, columns: Mapping[str, Any]) -> None:
    """Refuse what is no row of numbers, and times in another unit, before a window of them is looked for."""
    for name, column in columns.items():
        shape = getattr(column, "shape", None)
        if shape is None or len(shape) != 1 or column.dtype.kind not in NUMBERS:
            what = "a group" if shape is None else f"{column.dtype} {list(shape)}"
            raise InputError(f"{path}: its {name} is {what}, not one row of numbers; write it as that")
    times = columns["t"]
    for part in (slice(0, LOOKED_AT), slice(max(0, len(times) - LOOKED_AT), None)):
        _whole(path, "t", np.asarray(times[part]))


def _whole(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Values as whole numbers: us, px, polarities. Seconds would all be rounded to one moment."""
    with np.errstate(invalid="ignore"):
        found: NDArray[np.int64] = values.astype(np.int64)
    wrong = found != values if name != "p" else np.zeros(0, bool)
    if name in "xy":
        wrong |= found < 0
    if wrong.any():
        unit = "us (a second has 1e6)" if name == "t" else "px of the sensor, from 0 up"
        raise InputError(f"{path}: its {name} holds {values[wrong][0]:g}; write it in whole {unit}")
    return found


class _Field:
    """One field of rows, as if it were an array of its own."""

    def __init__(self, rows: Any, name: str) -> None:
        self.rows, self.name = rows, name

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows."""
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the field."""
        return self.rows.dtype[self.name]

    def __getitem__(self, key: Any) -> Any:
        return self.rows[key][self.name]


def _columns(file: Any, h5py: Any) -> dict[str, Any] | None:
    """t, x, y, p of the first layout that the file has."""
    for place in (*GROUPS, None):
        found = file if place is None else file.get(place)
        if found is None:
            continue
        rows = isinstance(found, h5py.Dataset)
        held = (found.dtype.names or ()) if rows else tuple(found)
        chosen = {name: next((each for each in known if each in held), None) for name, known in NAMES.items()}
        if all(chosen.values()):
            return {name: _Field(found, str(each)) if rows else found[each] for name, each in chosen.items()}
    return None


def _sensor(file: Any, path: Path) -> tuple[int, int] | None:
    """(height, width) as attributes of the file, or of its events, say."""
    for place in (file, *(file[name] for name in GROUPS if name in file)):
        said = [place.attrs.get(name) for name in ("height", "width")]
        geometry = place.attrs.get("geometry")
        if None in said and geometry is not None:
            text = geometry.decode(errors="replace") if isinstance(geometry, bytes) else str(geometry)
            said = text.lower().split("x")[::-1]
        if None in said:
            continue
        words = [str(np.asarray(value).reshape(-1)[0]).removesuffix(".0") for value in said]
        if len(words) != 2 or not all(is_whole(word) and int(word) for word in words):
            raise InputError(f"{path}: its attributes say {' and '.join(words)} px, no size of a sensor; correct them")
        return int(words[0]), int(words[1])
    return None


def _offset(file: Any, path: Path) -> int:
    """What its ``t_offset`` adds to every time, us."""
    if "t_offset" not in file:
        return 0
    said = np.asarray(file["t_offset"][()]).reshape(-1)
    if len(said) != 1 or said.dtype.kind not in NUMBERS or said[0] != int(said[0]):
        raise InputError(f"{path}: its t_offset is {str(said)[:40]}, not a number of us; correct it")
    return int(said[0])
