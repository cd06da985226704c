"""Lists of images as tables: a row an image, its path and its class.

The columns are found by their names (path, file, filename, image; label, class, category, target), or are the first
two where no row names them; they are parted by commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data.text import read_text
from utils.errors import InputError

PATHS = ("path", "filepath", "file_path", "file", "filename", "file_name", "image", "image_path", "img", "name", "id")
LABELS = ("label", "labels", "class", "class_name", "category", "target", "classname")


@dataclass(frozen=True)
class ListedImage:
    """One row: the image as it is written, its class as it is written, the number of its line."""

    image: str
    label: str
    line: int


def read_csv(path: Path) -> tuple[ListedImage, ...]:
    """The rows of a table.

    Raises:
        InputError: it is missing or empty, or a row has no class.
    """
    status = path.stat() if path.is_file() else None
    return _rows(path, (status.st_size, status.st_mtime_ns) if status else None)


def write_csv(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write images and their classes as ``read_csv`` reads them, whatever signs their names have."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "class"), *rows])


@functools.lru_cache(maxsize=8)
def _rows(path: Path, stamp: object) -> tuple[ListedImage, ...]:
    text = read_text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = [
        (n, [cell.strip() for cell in row])
        for n, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1)
    ]
    rows = [(n, row) for n, row in rows if any(row)]
    if not rows:
        raise InputError(f"{path}: the list of images is empty; write rows of an image's path and its class")
    image, label, named = _columns(rows[0][1])
    found = []
    for number, row in rows[named:]:
        if len(row) <= max(image, label) or not row[image] or not row[label]:
            raise InputError(
                f"{path}:{number}: '{delimiter.join(row)[:40]}' is no path and class; write both, or take the row away"
            )
        found.append(ListedImage(row[image], row[label], number))
    if not found:
        raise InputError(f"{path}: has a heading and no row; write rows of an image's path and its class")
    return tuple(found)


def _columns(heading: Sequence[str]) -> tuple[int, int, bool]:
    """The columns of paths and classes, and whether the row names them."""
    words = [word.lower() for word in heading]
    image = next((words.index(word) for word in PATHS if word in words), None)
    label = next((words.index(word) for word in LABELS if word in words), None)
    if image is None or label is None:
        return 0, 1, False
    return image, label, True
