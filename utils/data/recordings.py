"""Recordings of event cameras, each format behind one door: what was seen from one moment to another.

recording = open_recording("moorea_2019_td.dat")
events = recording.between(1_000_000, 1_250_000)        us; t, x, y, p
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.data.events import Events, in_order
from utils.data.folders import EVENT_SUFFIXES, is_recording, of_one_kind
from utils.data.manifest import Manifest, read_list
from utils.data.prophesee import open_dat
from utils.errors import InputError
from utils.files import no_file

NMNIST_BYTES = 5  # of an event


class Recording(Protocol):
    """A file of events; times are us from the file's own zero."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the sensor, px; None where the format does not say."""

    @property
    def begin(self) -> int:
        """The first event."""

    @property
    def end(self) -> int:
        """Just after the last event."""

    def __len__(self) -> int: ...

    def between(self, begin: int, end: int) -> Events:
        """Events of begin <= t < end."""

    def whole(self) -> Events:
        """All of them."""


@dataclass(frozen=True)
class HeldRecording:
    """One that is read as a whole, since its format leaves no choice or it is small."""

    path: Path
    size: tuple[int, int] | None
    events: Events

    def __len__(self) -> int:
        return len(self.events)

    @property
    def begin(self) -> int:
        """The first event, us."""
        return int(self.events.t[0]) if len(self.events) else 0

    @property
    def end(self) -> int:
        """Just after the last event, us."""
        return int(self.events.t[-1]) + 1 if len(self.events) else 0

    def between(self, begin: int, end: int) -> Events:
        """Events of begin <= t < end, us."""
        return self.events.between(begin, end)

    def whole(self) -> Events:
        """All events."""
        return self.events


def open_recording(path: Path | str) -> Recording:
    """A recording, by the ending of its name.

    Raises:
        InputError: no such file, a format that is not known, or a file that is damaged.
    """
    path = Path(path)
    opener = _openers().get(path.suffix.lower())
    if opener is None:
        raise InputError(f"{path}: recordings end in {' or '.join(EVENT_SUFFIXES)}; give one of those")
    if reason := no_file(path):
        raise InputError(f"{path}: {reason}; check the list")
    return opener(path)


def _openers() -> dict[str, Callable[[Path], Recording]]:
    from utils.data import aedat, event_hdf5  # h5py and aedat are asked for by few

    return {
        ".bin": lambda path: HeldRecording(path, None, read_nmnist(path)),
        ".dat": open_dat,
        ".aedat": lambda path: HeldRecording(path, *aedat.read_aedat(path)),
        ".aedat4": lambda path: HeldRecording(path, *aedat.read_aedat4(path)),
        ".h5": event_hdf5.open_hdf5,
        ".hdf5": event_hdf5.open_hdf5,
    }


def read_events(path: Path | str) -> Events:
    """All events of a recording.

    Raises:
        InputError: as ``open_recording``.
    """
    return open_recording(path).whole()


def holds_recordings(place: Path) -> bool:
    """Whether a list or folder is of recordings of events, and not of images.

    Raises:
        InputError: it is of both.
    """
    return is_recording(of_one_kind(place, read_list(place))[0])


def of_recordings(manifest: Manifest) -> bool:
    """Whether a set is of recordings of events, and not of images.

    Raises:
        InputError: it is of both.
    """
    train, valid = holds_recordings(manifest.train), holds_recordings(manifest.valid)
    if train != valid:
        words = ("recordings of events", "images")
        there = f"{words[not train]} to train on, {words[not valid]} to validate on"
        raise InputError(f"{manifest.path}: {there}; a set is of one kind, correct train and valid")
    return train


def check_keys(manifest: Manifest, *, recordings: bool) -> None:
    """Refuse keys of a ``.data`` file that cannot act on what its lists hold.

    Raises:
        InputError: names the key.
    """
    usual = Manifest(manifest.path, 1, ("",), manifest.train, manifest.valid)
    idle = ("scale",) if recordings else ("diagonal", "side", "skip")
    for key in idle:
        if getattr(manifest, key) != getattr(usual, key):
            what = "images, these are recordings of events" if recordings else "recordings of events, these are images"
            raise InputError(f"{manifest.path}: '{key} =' acts on {what}; take the line away")


def check_plain(place: Path, *, grey: bool) -> None:
    """Refuse what cannot act on recordings.

    Raises:
        InputError: ``grey`` was asked for.
    """
    if grey:
        raise InputError(f"--gray-scale: {place} holds recordings of events, which have no colours; leave it away")


def read_nmnist(path: Path | str) -> Events:
    """N-MNIST's format: 40 bits an event, x, y, one bit of polarity, 23 bits of time.

    Source: Orchard et al., Converting static image datasets to spiking neuromorphic datasets using saccades, 2015.
    """
    content = np.frombuffer(_read(Path(path)), np.uint8)
    if len(content) % NMNIST_BYTES or not len(content):
        raise InputError(
            f"{path}: {len(content)} bytes are not whole events of {NMNIST_BYTES}; it is cut off or of another format"
        )
    rows = content.reshape(-1, NMNIST_BYTES).astype(np.int64)
    t = (rows[:, 2] & 0x7F) << 16 | rows[:, 3] << 8 | rows[:, 4]
    return in_order(Events(t, rows[:, 0], rows[:, 1], rows[:, 2] >> 7), path)


def read_dat(path: Path | str, begin: int = 0, duration: int | None = None) -> Events:
    """Prophesee's .dat, or ``duration`` us of it from ``begin`` on."""
    found = open_dat(Path(path))
    return found.between(begin, found.end if duration is None else begin + duration)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read this recording ({error.strerror}); check the list") from error
