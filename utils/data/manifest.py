"""A ``.data`` file: which images there are to train and to validate on, and what their classes are called.

    classes = 3
    train = mine/train.txt        # a list of images, one path a line, or a folder of images
    valid = mine/valid.txt
    names = mine.names            # one class a line; where labels is a file of classes' words, these may do
    labels = mine/labels          # optional: the folder of <image's name>.txt; else .../images/... -> .../labels/...
    flip = 0.5                    # optional: share of images mirrored left to right in training
    mosaic = 1                    # optional: share of training samples made of four images
    scale = 0.4                   # optional: they are enlarged or reduced by up to this share
    diagonal = 30                 # optional, of recordings of events: smaller boxes do not count, px of the sensor
    side = 10                     # optional, likewise: boxes of which a side is smaller
    skip = 500000                 # optional, likewise: nor do those of the beginning, us

Paths are looked up beside the ``.data`` file, then in the current folder. Which folders will do in place of a ``.data``
file is the task's to know, see ``utils/detection/open_data.py``.
"""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from utils.data.csv_list import read_csv
from utils.data.folders import IMAGE_SUFFIXES, files_of_set
from utils.data.text import STRANGE, read_text
from utils.errors import InputError
from utils.numbers import is_whole

log = logging.getLogger(__name__)

SAMPLE = Path(__file__).resolve().parents[2] / "data/digits.data"  # what --data is where nothing is said
KEYS = ("classes", "train", "valid", "names", "labels", "flip", "mosaic", "scale", "diagonal", "side", "skip")
IGNORED = (
    "backup",
    "eval",
    "results",
    "map",
    "top",
    "difficult",
    "tree",
)  # Darknet knows them; nothing here asks for them
LONGEST = 255  # bytes of one part of a path, on the file systems there are


@dataclass(frozen=True)
class Manifest:
    """A read ``.data`` file; every path in it is absolute.

    ``train`` and ``valid`` are list files or folders of images, ``labels`` the folder of label files where they are
    not beside the images. ``flip``, ``mosaic`` and ``scale`` are how far training may change such images without
    making others of them, see ``transforms.Jitter``; 0..1. ``diagonal``, ``side`` (px of the sensor) and ``skip`` (us)
    say which boxes of recordings of events do not count: smaller ones, and earlier ones. ``numbers`` are the numbers in
    ``names`` of the classes of the label files, where a network has them in another order; () where they are the same.
    """

    path: Path
    classes: int
    names: tuple[str, ...]
    train: Path
    valid: Path
    labels: Path | None = None
    flip: float = 0.5
    mosaic: float = 1.0
    scale: float = 0.4
    diagonal: float = 0.0
    side: float = 0.0
    skip: float = 0.0
    numbers: tuple[int, ...] = field(default=(), repr=False)


def read_manifest(place: Path | str) -> Manifest:
    """Read and check a ``.data`` file.

    Raises:
        InputError: something in it is missing, unknown or contradicts itself; the message says what and the remedy.
    """
    path = Path(place)
    if not path.is_file():
        raise InputError(f"{path}: no such .data file; pass --data FILE.data, or the folder of a VOC set")
    values = _read_keys(path)
    if "labels" in values and "names" not in values and _existing(path, "labels", values["labels"]).is_file():
        values["names"] = values["labels"]  # as Darknet has it: a file there are the words of classes
    for key in ("classes", "train", "valid", "names"):
        if key not in values:
            raise InputError(f"{path}: no '{key} =' line; it needs classes, train, valid and names, or give the folder")
    classes = _classes(path, *values["classes"])
    names = read_names(_existing(path, "names", values["names"]))
    if len(names) != classes:
        where = f"{path}:{values['classes'][1]}"
        raise InputError(f"{where}: classes = {classes}, but {values['names'][0]} names {len(names)}; make them agree")
    shares: dict[str, Any] = {
        key: _share(path, key, *values[key]) for key in ("flip", "mosaic", "scale") if key in values
    } | {key: _amount(path, key, *values[key]) for key in ("diagonal", "side", "skip") if key in values}
    return Manifest(
        path=path.absolute(),
        classes=classes,
        names=names,
        train=_existing(path, "train", values["train"]),
        valid=_existing(path, "valid", values["valid"]),
        labels=_existing(path, "labels", values["labels"]) if "labels" in values else None,
        **shares,
    )


def read_list(path: Path) -> list[Path]:
    """The images of a list file (one path a line, ``#`` starts a comment; a .csv's rows) or of a folder, in order.

    A relative path is looked up beside the list, then in the current folder.

    Raises:
        InputError: there is no such list, or nothing in it, or a folder holds images and recordings.
    """
    if path.is_dir():
        images = files_of_set(path)
        if not images:
            raise InputError(f"{path}: no image in this folder; known are {' '.join(IMAGE_SUFFIXES)}")
        list_text(images)
        return images
    if not path.is_file():
        raise InputError(f"{path}: no such list of images; correct the path in the .data file")
    if path.suffix.lower() == ".csv":
        rows = [path_of(f"{path}:{row.line}", row.image) for row in read_csv(path)]
    else:
        lines = enumerate((line.strip() for line in read_text(path).splitlines()), start=1)
        rows = [path_of(f"{path}:{number}", line) for number, line in lines if line and not line.startswith("#")]
    if not rows:
        raise InputError(f"{path}: the list of images is empty; write one path a line")
    folder = path.absolute().parent
    exists = functools.lru_cache(maxsize=None)(Path.is_dir)  # one look at each folder, not at each of 100,000 images

    def resolve(row: str) -> Path:
        beside = folder / row
        return beside if Path(row).is_absolute() or exists(beside.parent) else Path(row).absolute()

    return [resolve(row) for row in rows]


def list_text(images: Iterable[Path]) -> str:
    """A list of images as ``read_list`` reads it.

    Raises:
        InputError: a name can not be written in it.
    """
    rows = [str(image) for image in images]
    for row in rows:
        if "\n" in row or "\r" in row or row.encode(errors="replace").decode() != row:
            raise InputError(
                f"{row.encode(errors='replace').decode()!r}: its name is not UTF-8, or two lines; rename it"
            )
    return "".join(f"{row}\n" for row in rows)


def path_of(place: object, row: str) -> str:
    """The row, where it can be a path at all.

    Raises:
        InputError: it can not; no file system would even be asked for it.
    """
    if "\0" in row or any(len(part.encode()) > LONGEST for part in Path(row).parts):
        raise InputError(f"{place}: {row[:40]!r} … is no path, but too long or no text; correct it")
    return row


def _read_keys(path: Path) -> dict[str, tuple[str, int]]:
    """Each key's value and line number."""
    values: dict[str, tuple[str, int]] = {}
    for number, raw in enumerate(read_text(path).splitlines(), start=1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        place, (key, equals, value) = f"{path}:{number}", (part.strip() for part in line.partition("="))
        if not equals or not value:
            raise InputError(f"{place}: '{line[:40]}' is not 'key = value' ({', '.join(KEYS)}); or give the folder")
        if key not in KEYS + IGNORED:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(KEYS)}"
            raise InputError(f"{place}: unknown key '{key}'; {hint}")
        values[key] = (value, number)
    return values


def _existing(path: Path, key: str, entry: tuple[str, int]) -> Path:
    value, number = path_of(path, entry[0]), entry[1]
    for candidate in (path.absolute().parent / value, Path(value).absolute()):
        if candidate.exists():
            return candidate
    raise InputError(f"{path}:{number}: {key} = {value}: no such file, beside the .data file or in {Path.cwd()}")


def _classes(path: Path, value: str, number: int) -> int:
    if not is_whole(value) or int(value) < 1:
        raise InputError(f"{path}:{number}: classes = {value}: must be a whole number, 1 or more")
    return int(value)


def _share(path: Path, key: str, value: str, number: int) -> float:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"{path}:{number}: {key} = {value}: must be a number from 0 to 1")
    return share


def _amount(path: Path, key: str, value: str, number: int) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise InputError(f"{path}:{number}: {key} = {value}: must be a number from 0 up")
    return amount


def read_names(path: Path) -> tuple[str, ...]:
    """The classes of a file of names, one a line.

    Raises:
        InputError: a name holds bytes that are no text.
    """
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    for name in names:
        if STRANGE in name:
            raise InputError(f"{path}: the class '{name}' is not UTF-8; iconv -f GB18030 -t UTF-8 converts the file")
    return names


def in_order(manifest: Manifest, names: Sequence[str], place: str) -> Manifest:
    """The data with its classes in the order of a network's ``names``, found by name.

    Raises:
        InputError: a class has no such name in the network of ``place``.
    """
    ours, theirs = [plain_name(name) for name in manifest.names], [plain_name(name) for name in names]
    if ours == theirs:
        return manifest
    strange = next((name for name, plain in zip(manifest.names, ours, strict=True) if plain not in theirs), None)
    if strange is not None or len(set(ours)) < len(ours):
        raise InputError(
            f"{place}: knows {', '.join(names)[:80]}, {manifest.path} has '{strange or manifest.names[0]}'; "
            f"call the classes alike in its file of names, or train it for these: train.py -pt --weights {place}"
        )
    log.warning("%s: its classes are in another order than those of %s; mapped by name", manifest.path, place)
    return replace(manifest, names=tuple(names), numbers=tuple(theirs.index(name) for name in ours))


def plain_name(name: str) -> str:
    """A name without what people write one way or another."""
    return name.casefold().replace("_", " ").replace("-", " ")


def same_classes(
    known: int, manifest: Manifest, place: str, names: Sequence[str], does: str = "tells {} classes apart"
) -> Manifest:
    """The data with its classes in the order of ``names``, those of a network that knows ``known`` of them.

    Raises:
        InputError: the data has another number of classes, or others than ``names``.
    """
    if known != manifest.classes:
        raise InputError(
            f"{place}: {does.format(known)}, {manifest.path} has {manifest.classes}; "
            f"give the --data it was trained on, or train it for these: train.py -pt --weights {place}"
        )
    return in_order(manifest, names, place) if len(names) == manifest.classes else manifest


def open_place(
    place: Path | str, folder: Callable[[Path], Manifest], lays_out: str, sample: str, prepare: Callable[[], Path]
) -> Manifest:
    """Read a folder, by ``folder``, or a ``.data`` file, of a task that the sample set of boxes does not serve.

    Args:
        place: what ``--data`` says.
        folder: reads a folder.
        lays_out: what a folder of this task holds.
        sample: the name of the task's own sample set.
        prepare: composes it unless it is there.

    Raises:
        InputError: it is another task's sample set, or something in it is wrong.
    """
    path = Path(place)
    if path.resolve() == SAMPLE:
        raise InputError(
            f"--data {place}: the sample set has boxes alone; give --data a folder with {lays_out}, "
            f"or leave it away for {sample}"
        )
    if path.resolve().parent == SAMPLE.parent and path.name == sample:
        prepare()
    return folder(path.absolute()) if path.is_dir() else read_manifest(path)
