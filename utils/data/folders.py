"""Which files of a folder a set is made of: images, or recordings of event cameras, by the endings of their names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from utils.data.text import say_once
from utils.errors import InputError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
EVENT_SUFFIXES = (".aedat", ".aedat4", ".bin", ".dat", ".h5", ".hdf5")  # of recordings
STRAY = 10  # times as many images as recordings: these are no part of the set (.bin and .h5 are of others, too)


def is_recording(path: Path) -> bool:
    """Whether a file is a recording of events, by its name."""
    return path.suffix.lower() in EVENT_SUFFIXES


def files_of_set(folder: Path) -> list[Path]:
    """The images in a folder and those below it, or the recordings, in order; [] where there are none.

    Raises:
        InputError: it holds both.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES + EVENT_SUFFIXES)
    return of_one_kind(folder, files)


def of_one_kind(place: Path, files: Sequence[Path]) -> list[Path]:
    """The files, where they are of one kind; the images among a folder's, where recordings are rare.

    Raises:
        InputError: they are of both kinds.
    """
    images, recordings = parts = list[Path](), list[Path]()
    for path in files:
        parts[is_recording(path)].append(path)
    if not recordings or not images:
        return list(files)
    both = f"{place}: holds {len(recordings)} recordings of events ({recordings[0].name}) and {len(images)} images"
    if place.is_dir() and len(images) > STRAY * len(recordings):
        say_once(log, logging.WARNING, f"{both}; the images alone are taken")
        return images
    raise InputError(f"{both} ({images[0].name}); a set is of one kind, take the others out or list what it is made of")
