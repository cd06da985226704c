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

from utils.data.events import Events, in_order
from utils.errors import InputError

GROUPS = ("CD", "events", "CD/events")
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
            found = {name: np.asarray(column[first:last]).astype(np.int64) for name, column in self.columns.items()}
        except OSError as error:
            raise InputError(
                f"{self.path}: h5py cannot read its events ({str(error)[:80]}); write it anew without that compression"
            ) from None
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
    except OSError as error:
        reason = "no such file" if not path.is_file() else str(error)[:80]
        raise InputError(
            f"{path}: h5py cannot open this recording ({reason}); check the list, or copy it again"
        ) from None
    columns = _columns(file, h5py)
    if columns is None:
        raise InputError(
            f"{path}: holds {', '.join(list(file)[:6]) or 'nothing'}, and no CD/events; see docs/how-to/events.md"
        )
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise InputError(f"{path}: its t, x, y and p are of lengths {sorted(lengths)}; it is cut off, copy it again")
    offset = int(np.asarray(file["t_offset"][()]).reshape(-1)[0]) if "t_offset" in file else 0
    return Hdf5Recording(path, _sensor(file), columns, lengths.pop(), offset)


class _Field:
    """One field of rows, as if it were an array of its own."""

    def __init__(self, rows: Any, name: str) -> None:
        self.rows, self.name = rows, name

    def __len__(self) -> int:
        return len(self.rows)

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


def _sensor(file: Any) -> tuple[int, int] | None:
    """(height, width) as attributes of the file, or of its events, say."""
    for place in (file, *(file[name] for name in GROUPS if name in file)):
        if "height" in place.attrs and "width" in place.attrs:
            return int(place.attrs["height"]), int(place.attrs["width"])
        geometry = place.attrs.get("geometry")
        geometry = geometry.decode() if isinstance(geometry, bytes) else geometry
        if (
            isinstance(geometry, str)
            and len(words := geometry.lower().split("x")) == 2
            and all(map(str.isdigit, words))
        ):
            return int(words[1]), int(words[0])
    return None
