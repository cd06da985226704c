"""Decoded images in a file that is mapped into memory: for sets larger than it, for several processes, for later runs.

A file holds one list, shown in one way. It lies in the user's cache folder (XDG_CACHE_HOME, or ~/.cache) and may be
deleted. Its head has a digest of each image's path, length and time of change; where that is another one, or the file
is cut, it is made anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from utils.data.images import Size
from utils.data.lock import locked
from utils.errors import InputError
from utils.files import writing
from utils.jobs import cores
from utils.memory import in_words

log = logging.getLogger(__name__)

MAGIC = b"DSimage1"  # its number grows whenever the pixels that a setting gives do
HEAD = struct.Struct("<8s32sqq")  # magic, digest, how many images, where their table begins
ROW = 5  # int64: where an image's bytes begin, its height and width, those of the picture that it was; 0: unreadable
AT_ONCE = 512  # images that are decoded before they are written, so that memory does not fill with them

Loaded = tuple[np.ndarray | None, Size]


class MappedImages:
    """The images of such a file: uint8 [H, W, C] each, or None where it could not be read; ``originals`` their sizes.

    Raises:
        ValueError: it is none, of other images, or cut.
    """

    def __init__(self, path: Path, digest: bytes) -> None:
        self._path, self._digest = path, digest
        with path.open("rb") as handle:
            magic, found, count, table = HEAD.unpack(handle.read(HEAD.size).ljust(HEAD.size, b"\0"))
            if magic != MAGIC or found != digest or path.stat().st_size != table + 8 * ROW * count:
                raise ValueError(path)
            handle.seek(table)
            self._rows = np.fromfile(handle, np.int64).reshape(count, ROW)
        self._bytes = np.memmap(path, np.uint8, "r", shape=(table,))
        self.originals: list[Size] = [(int(h), int(w)) for h, w in self._rows[:, 3:]]

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedImages, (self._path, self._digest)  # a process that is not forked maps it too

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray | None:
        begin, height, width = self._rows[index, :3].tolist()
        if not height:
            return None
        following = self._rows[index + 1, 0] if index + 1 < len(self) else len(self._bytes)
        return np.array(self._bytes[begin:following]).reshape(height, width, -1)

    @property
    def lacking(self) -> list[int]:
        """The numbers of the images that could not be read."""
        return np.flatnonzero(self._rows[:, 1] == 0).tolist()


@dataclass(frozen=True)
class Wanted:
    """Which images are to be mapped: those of ``paths``, a list's at ``place``, as ``shown`` says in words.

    ``load`` gives one by its number, below ``count``; ``room`` is what all take, bytes. Pixels depend on ``paths`` and
    ``shown`` alone.
    """

    place: Path
    shown: str
    paths: Sequence[Path]
    count: int
    load: Callable[[int], Loaded]
    room: int

    @property
    def file(self) -> Path:
        """Where they are kept; a list that is shown otherwise has another file, one that changes the same."""
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkspike"
        name = hashlib.sha256(f"{self.place.absolute()}\n{self.shown}".encode("utf-8", "surrogateescape"))
        return folder / f"images-{name.hexdigest()[:16]}.bin"

    @property
    def digest(self) -> bytes:
        """Of everything that the pixels depend on."""
        found = hashlib.sha256(f"{MAGIC!r} {cv2.__version__} {self.shown}\n".encode())
        for path in self.paths:
            try:
                state = path.stat()
                words = f"{path} {state.st_size} {state.st_mtime_ns}\n"
            except OSError:
                words = f"{path}\n"
            found.update(words.encode("utf-8", "surrogateescape"))
        return found.digest()


def map_images(wanted: Wanted, still: Callable[[MappedImages], bool] = lambda _: True) -> MappedImages:
    """The images of a file that is there and fits them; of one that is made now, where there is none.

    ``still`` says whether those that could not be read then cannot be read now. A second process waits for the first.

    Raises:
        InputError: the disk has no room for them.
    """
    file, digest = wanted.file, wanted.digest
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--cache disk: {file.parent}: {error.strerror}; set XDG_CACHE_HOME to another folder"
        ) from None
    with locked(file.with_suffix(".lock")):
        there = file.is_file()
        try:
            found = MappedImages(file, digest) if there else None
        except ValueError:
            found = None
        if found is not None and still(found):
            log.info("--cache disk: %s, as it is", file)
            return found
        _make(wanted, file, digest)
        words = "made anew, since images have changed" if there else "made"
        log.info("--cache disk: %s, %s, %s", file, in_words(file.stat().st_size), words)
        return MappedImages(file, digest)


def _make(wanted: Wanted, file: Path, digest: bytes) -> None:
    free = shutil.disk_usage(file.parent).free
    if wanted.room > free:
        raise InputError(
            f"--cache disk: {wanted.place}: {wanted.count} images take {in_words(wanted.room)}, {file.parent} has "
            f"{in_words(free)} left; set XDG_CACHE_HOME to a folder with more, or use --cache off"
        )
    with writing(file) as temporary, temporary.open("wb") as handle:
        handle.write(bytes(HEAD.size))
        rows = []
        for image, original in loaded(wanted.count, wanted.load):
            height, width = (0, 0) if image is None else image.shape[:2]
            rows.append((handle.tell(), height, width, *original))
            if image is not None:
                handle.write(np.ascontiguousarray(image).data)
        table = handle.tell()
        handle.write(np.array(rows, np.int64).reshape(-1, ROW).tobytes())
        handle.seek(0)
        handle.write(HEAD.pack(MAGIC, digest, len(rows), table))


def loaded(count: int, load: Callable[[int], Loaded]) -> Iterator[Loaded]:
    """Images by their numbers, in order, made on all cores some hundred ahead; a bar where it takes a while."""
    bar = {"desc": "reading images", "total": count, "delay": 2, "leave": False, "disable": None}
    # a copy of stderr, because the threads hush the real one nearly all the time
    with ThreadPoolExecutor(cores()) as pool, os.fdopen(os.dup(2), "w") as shown:
        parts = (range(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE))
        yield from tqdm((each for part in parts for each in pool.map(load, part)), file=shown, **bar)
