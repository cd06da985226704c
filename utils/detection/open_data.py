"""What ``--data`` may name: a ``.data`` file; or a folder: of a Pascal VOC set, or images/train, images/val, labels/.

A Pascal VOC set (Annotations/*.xml) is converted once, see ``voc.py``. The other kind has one file of names.
"""

from __future__ import annotations

from pathlib import Path

from utils.data import manifest as files
from utils.data.manifest import Manifest, read_names
from utils.detection import voc
from utils.detection.sample import prepare_if_sample
from utils.errors import InputError


def open_data(place: Path | str) -> Manifest:
    """Read and check a ``.data`` file or a folder; the embedded sample set is composed first where it is named.

    Raises:
        InputError: something in it is missing, unknown or contradicts itself; the message says what and the remedy.
    """
    prepare_if_sample(place)
    return read_manifest(place)


def read_manifest(place: Path | str) -> Manifest:
    """Read and check a ``.data`` file, or a folder that is laid out as a set.

    Raises:
        InputError: something in it is missing, unknown or contradicts itself; the message says what and the remedy.
    """
    path = Path(place)
    if path.is_dir():
        if not voc.is_voc(path):
            return _yolo_folder(path)
        path = voc.manifest_of_folder(path)
    return files.read_manifest(path)


def _yolo_folder(folder: Path) -> Manifest:
    """A folder with images/train, images/val and one .names file."""
    folder = folder.absolute()
    train, valid, names = folder / "images" / "train", folder / "images" / "val", sorted(folder.glob("*.names"))
    if not (train.is_dir() and valid.is_dir() and len(names) == 1):
        raise InputError(
            f"{folder}: a folder given as --data needs Annotations/ and JPEGImages/ (VOC), or images/train, images/val "
            "and one .names file; else write a .data file"
        )
    classes = read_names(names[0])
    return Manifest(folder, len(classes), classes, train, valid)
