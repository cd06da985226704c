"""What ``--data`` may name: a ``.data`` file, or a folder of images with their annotations.

A Pascal VOC set (xml files) is converted once, see ``voc.py``. Any other folder has YOLO label files and one file of
names; images/train and images/val (or lists, see ``split_lists.py``) are its split, else a seeded one is kept in a
file.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from utils.data import manifest as files
from utils.data.conversions import kept, publish
from utils.data.manifest import IMAGE_SUFFIXES, Manifest, list_text, read_list, read_names
from utils.detection import voc
from utils.detection.overlaps import leaks, shared_labels, turned_by_exif
from utils.detection.sample import prepare_if_sample
from utils.detection.split_lists import Split, lists_in, split
from utils.errors import InputError

log = logging.getLogger(__name__)

NAMES = ("classes.txt", "obj.names", "names.txt")  # what other tools call the file of names
PARTS = ("images/{}", "{}/images", "{}")  # where a folder may have a folder for each part
VALID, SEED = 0.2, 0  # the share set apart where a folder has no split, and of that choice


def open_data(place: Path | str) -> Manifest:
    """Read and check a ``.data`` file or a folder; the embedded sample set is composed first where it is named.

    Raises:
        InputError: something in it is missing, unknown or contradicts itself; the message says what and the remedy.
    """
    prepare_if_sample(place)
    manifest = read_manifest(place)
    lists = [path.stat() for path in (manifest.train, manifest.valid)]
    _look_over(manifest, tuple((each.st_size, each.st_mtime_ns) for each in lists))
    return manifest


def read_manifest(place: Path | str) -> Manifest:
    """Read and check a ``.data`` file, or a folder that is laid out as a set.

    Raises:
        InputError: something in it is missing, unknown or contradicts itself; the message says what and the remedy.
    """
    path = Path(place)
    if path.is_dir():
        names = _names_file(path)
        if not voc.is_voc(path):
            return _yolo_folder(path, names)
        path = voc.manifest_of_folder(path)
    return files.read_manifest(path)


@functools.lru_cache(maxsize=64)
def _look_over(manifest: Manifest, stamps: object) -> None:
    """Refuse images that share a label file, and tell once of images that are in both lists.

    Raises:
        InputError: a list is wrong, or two images read the same labels.
    """
    train, valid = read_list(manifest.train), read_list(manifest.valid)
    shared = shared_labels([*train, *valid], manifest)
    if shared:
        label, (first, second, *_) = next(iter(shared.items()))
        raise InputError(
            f"{first}, {second}: both would have the boxes of {label} ({len(shared)} such files in {manifest.path}); "
            "rename one of each and its label file, or take one from the list"
        )
    both, turned = leaks(train, valid), turned_by_exif([*train, *valid], manifest)
    if turned:
        log.warning(
            "%s: EXIF turns %d images, first %s; their labels must be of the picture as it is shown; "
            "python3 -m utils.data check names all",
            manifest.path, len(turned), turned[0],
        )  # fmt: skip
    if both:
        log.warning(
            "%s: %d of %d images to validate on are trained on too, by content, first %s; so the scores are too good; "
            "python3 -m utils.data check names all",
            manifest.path, len(both), len(valid), both[0],
        )  # fmt: skip


def _names_file(folder: Path) -> Path | None:
    """The one file of names in a folder."""
    found = sorted(folder.glob("*.names"))
    named = [place / name for place in (folder, folder / "labels", folder / "images") for name in NAMES]
    found = found or [path for path in named if path.is_file()][:1]
    return found[0] if len(found) == 1 else None


def _yolo_folder(folder: Path, names: Path | None) -> Manifest:
    """A folder of images and YOLO label files."""
    folder = folder.absolute()
    parts = _parts(folder)
    images = folder / "images" if (folder / "images").is_dir() else folder
    if names and parts and not (lists_in(folder) and parts[1].name != "val"):
        classes = read_names(names)
        return Manifest(folder, len(classes), classes, *parts)
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names or not found:
        raise InputError(
            f"{folder}: a folder given as --data needs Annotations/ and JPEGImages/ (VOC), or images/train, images/val "
            "and one .names file; else write a .data file"
        )
    return files.read_manifest(_split_folder(folder, found, names))


def _parts(folder: Path) -> tuple[Path, Path] | None:
    """The folders to train and to validate on, where a folder has both."""
    for pattern in PARTS:
        train = folder / pattern.format("train")
        valid = [path for kind in ("val", "valid", "test") if (path := folder / pattern.format(kind)).is_dir()]
        if train.is_dir() and valid:
            return train, valid[0]
    return None


def _split_folder(folder: Path, images: Sequence[Path], names: Path) -> Path:
    """The ``.data`` file of a folder without parts: its own lists, or a seeded split, kept under runs/data."""

    def write(build: Path, parts: Split[Path]) -> None:
        build.mkdir()
        for name, part in (("train", parts.train), ("val", parts.valid)):
            (build / f"{name}.txt").write_text(list_text(image.absolute() for image in part), encoding="utf-8")

    def convert(out: Path, note: str) -> str:
        parts = split(folder, images, read_list, VALID, SEED)
        publish(out, lambda build: write(build, parts), read_names(names), f"{folder.resolve()} {note}")
        return f"{len(parts.train)} images to train on, {len(parts.valid)} to validate on, {parts.told}"

    return kept(folder, [*images, names, *lists_in(folder).values()], convert)
