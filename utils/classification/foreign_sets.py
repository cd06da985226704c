"""Sets of classes that are no two folders of pictures: tables, arrays, one folder; what is made of them is kept."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.classification.arrays import ArrayFiles, ImageArrays
from utils.data.conversions import kept, publish
from utils.data.csv_list import ListedImage, read_csv, write_csv
from utils.data.folders import EVENT_SUFFIXES, IMAGE_SUFFIXES
from utils.data.manifest import Manifest, list_text, plain_name, read_list, read_manifest, read_names
from utils.data.set_apart import set_apart
from utils.data.text import say_once
from utils.errors import InputError
from utils.numbers import is_whole

log = logging.getLogger(__name__)

VALID_TABLES = ("val", "valid", "validation", "test")
NAMES = ("names.txt", "classes.txt")
SHARE, SEED = 0.2, 0  # set apart where a set has no part to validate on, and of that choice


def unpacked(folder: Path, arrays: ArrayFiles) -> Path:
    """The ``.data`` file of a set of arrays, its pictures written as PNG under runs/data, once."""

    def convert(out: Path, note: str) -> str:
        held = arrays.read()
        more = "" if held.mirrored else "flip = 0\n"
        publish(out, lambda build: _write(build, held), held.names, f"{folder.resolve()} {note}", more, lists="csv")
        sizes = f"{len(held.train[1]):,} images to train on, {len(held.valid[1]):,} to validate on"
        height, width, channels = held.train[0].shape[1:]
        colour = "grey" if channels == 1 else "RGB"
        return f"{held.kind}: {sizes}, {len(held.names)} classes, {height}x{width} px, {colour}"

    return kept(folder, arrays.files, convert)


def _write(build: Path, held: ImageArrays) -> None:
    """A PNG an image in a folder a class, and both lists, whose images are in the order of the arrays."""
    folders = [_folder_name(name) for name in held.names]
    build.mkdir()
    total = len(held.train[1]) + len(held.valid[1])
    with tqdm(total=total, desc="writing pictures", unit=" images", delay=2, leave=False, disable=None) as progress:
        for part, (pixels, labels) in (("train", held.train), ("val", held.valid)):
            for name in folders:
                (build / part / name).mkdir(parents=True, exist_ok=True)
            listed = []
            for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                place = Path(part) / folders[int(label)] / f"{number:05d}.png"
                cv2.imwrite(str(build / place), np.ascontiguousarray(image[..., ::-1]))
                listed.append((str(place), held.names[int(label)]))
                progress.update()
            write_csv(build / f"{part}.csv", listed)


def _folder_name(name: str) -> str:
    """What a class's folder is called: its name, without what leads elsewhere ("T-shirt/top")."""
    return re.sub(r"[^\w .+-]", "_", name).strip(". ") or "_"


def split_folder(folder: Path, names: Sequence[str]) -> Path:
    """The ``.data`` file of a folder with a folder a class and no parts: a seeded share of its images validates."""
    images = [
        path
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES + EVENT_SUFFIXES
    ]

    def convert(out: Path, note: str) -> str:
        train, valid = _apart(folder, [f"{path.parent.name}-{path.name}" for path in images])

        def write(build: Path) -> None:
            build.mkdir()
            for part, chosen in (("train", train), ("val", valid)):
                (build / f"{part}.txt").write_text(list_text(images[i] for i in chosen), encoding="utf-8")

        publish(out, write, names, f"{folder.resolve()} {note}")
        return f"a folder a class, {len(names)} of them; {_told(train, valid)}"

    return kept(folder, images, convert)


def csv_manifest(place: Path, tables: Mapping[str, Path]) -> Manifest:
    """A set of .csv lists: one to train and one to validate on, or one of which a seeded share validates.

    Raises:
        InputError: they contradict each other, or several could be meant.
    """
    train = tables.get("train") or (next(iter(tables.values())) if len(tables) == 1 else None)
    valid = next((tables[name] for name in VALID_TABLES if name in tables), None)
    if train is None:
        raise InputError(
            f"{place}: lists {', '.join(sorted(tables))}.csv, none of them train.csv; name one so, or give --data one"
        )
    if valid in (None, train):
        return read_manifest(_split_table(place, train))
    assert valid is not None
    names = _names_of(train)
    strange = _stranger(valid, names)
    if strange is not None:
        raise InputError(
            f"{valid}:{strange.line}: class '{strange.label}' is none of {train.name}; correct it, or take the row away"
        )
    say_once(log, logging.INFO, f"{place}: .csv lists {train.name} and {valid.name}, {len(names)} classes")
    return Manifest(place.absolute(), len(names), names, train.absolute(), valid.absolute())


def _split_table(place: Path, table: Path) -> Path:
    rows, names = read_csv(table), _names_of(table)
    images = read_list(table)

    def convert(out: Path, note: str) -> str:
        train, valid = _apart(table, [row.image for row in rows])

        def write(build: Path) -> None:
            build.mkdir()
            for part, chosen in (("train", train), ("val", valid)):
                write_csv(build / f"{part}.csv", [(str(images[i]), rows[i].label) for i in chosen])

        publish(out, write, names, f"{place.resolve()} {note}", lists="csv")
        return f"one .csv list, {table.name}, {len(names)} classes; {_told(train, valid)}"

    return kept(place, [table, *_names_files(table)], convert)


def _names_files(table: Path) -> list[Path]:
    return [path for name in NAMES if (path := table.parent / name).is_file()][:1]


def _names_of(table: Path) -> tuple[str, ...]:
    """The classes of a list: those of a file of names beside it, else all that it names; numbers in their order."""
    written = sorted({row.label for row in read_csv(table)})
    files = _names_files(table)
    if files:
        names = read_names(files[0])
        strange = _stranger(table, names)
        if strange is not None:
            raise InputError(
                f"{table}:{strange.line}: class '{strange.label}' is none of {files[0]}; correct one of them"
            )
        return names
    return tuple(sorted(written, key=int)) if all(map(is_whole, written)) else tuple(written)


def labels_of_table(table: Path, manifest: Manifest, number_of: Callable[[str], int | None]) -> list[int]:
    """The class of each row: by its name, or by its number where a file of names says what that is.

    Raises:
        InputError: a row has a class that the data has not.
    """
    found = []
    for row in read_csv(table):
        label = number_of(row.label)
        if label is None and _numbered(row.label, manifest.names):
            number = int(row.label)
            label = manifest.numbers[number] if manifest.numbers else number
        if label is None:
            raise InputError(
                f"{table}:{row.line}: class '{row.label}' is none of {', '.join(manifest.names)[:80]}; correct it"
            )
        found.append(label)
    return found


def _numbered(label: str, names: Sequence[str]) -> bool:
    """Whether a label is a class's number; classes that are called by numbers go by name alone."""
    return is_whole(label) and int(label) < len(names) and not all(map(is_whole, names))


def _stranger(table: Path, names: Sequence[str]) -> ListedImage | None:
    """The first row whose class is none of the names."""
    known = {plain_name(name) for name in names}
    return next(
        (row for row in read_csv(table) if plain_name(row.label) not in known and not _numbered(row.label, names)), None
    )


def _apart(place: Path, names: Sequence[str]) -> tuple[list[int], list[int]]:
    if len(names) < 2:
        raise InputError(f"{place}: {len(names)} images; at least two are needed, to train and to validate on")
    return set_apart(names, SHARE, SEED)


def _told(train: Sequence[int], valid: Sequence[int]) -> str:
    parts = f"{len(train):,} images to train on, {len(valid):,} to validate on"
    return f"{parts} (no second part, so {SHARE:.0%} by seed {SEED})"
