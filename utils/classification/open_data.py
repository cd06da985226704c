"""What ``--data`` may name for classes: a folder with a folder a class, or a ``.data`` file of Darknet's kind.

    mine/train/cat/1.jpg                  ImageNet's layout; test, val and valid are names for the other part
    mine/val/dog/7.jpg
    mine/train.csv mine/val.csv           a row an image: path, class
    cifar-10-batches-py/ MNIST/raw/       CIFAR-10 and -100, python and binary; IDX

Without a second part a seeded share is set apart, each image by its own name.
In a ``.data`` file ``labels`` is Darknet's file of the words by which a path tells its class (default: ``names``).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from utils.classification.arrays import recognise
from utils.classification.foreign_sets import csv_manifest, labels_of_table, split_folder, unpacked
from utils.classification.gestures import gesture_folder
from utils.classification.sample import NAME, prepare_sample
from utils.data.folders import EVENT_SUFFIXES, IMAGE_SUFFIXES
from utils.data.manifest import SAMPLE, Manifest, open_place, plain_name, read_list, read_manifest, read_names
from utils.data.overlaps import check_lists
from utils.data.prophesee import boxes_path
from utils.data.recordings import check_keys, holds_recordings
from utils.data.sample_set import is_sample
from utils.errors import InputError

MOST = 20  # images whose labels are looked for where nothing says what a set is of
VALID = ("val", "valid", "validation", "test")


def open_data(place: Path | str) -> Manifest:
    """Read a folder or a ``.data`` file.

    Raises:
        InputError: something in it is missing or contradicts itself; the message says what and the remedy.
    """
    manifest = read_set(place)
    check_lists(manifest)
    return manifest


def read_set(place: Path | str) -> Manifest:
    """The same, its images not looked at."""
    path = Path(place)
    if path.suffix.lower() == ".csv" and path.is_file():
        return csv_manifest(path, {path.stem.lower(): path.absolute()})
    manifest = open_place(place, _folder, "train/CLASS/ and val/CLASS/", NAME, prepare_sample)
    check_keys(manifest, recordings=False)
    return manifest


def is_of_classes(place: Path) -> bool:
    """Whether a folder or file is laid out as a set of classes; a ``.data`` file is, where its images have no label."""
    if place.is_dir():
        if recognise(place) is not None or _tables(place) or gesture_folder(place):
            return True
        parts = {path.name.lower(): path for path in place.iterdir() if path.is_dir()}
        train = parts.get("train")
        return _only_classes(train or place) and not (place / "Annotations").is_dir()
    if is_sample(place, NAME) or place.suffix.lower() == ".csv":
        return True
    if not place.is_file() or place.resolve() == SAMPLE:
        return False
    manifest = read_manifest(place)
    images = read_list(manifest.train)[:MOST]
    labels = manifest.labels
    if labels is not None:
        return labels.is_file()  # Darknet's words; boxes have a folder there
    return not any(_boxed(image) for image in images) and _tell_classes(images, manifest)


def _boxed(image: Path) -> bool:
    """Whether a label file of boxes is where one would be: beside the image, or where ``images`` is ``labels``."""
    parts = ["labels" if part in ("images", "JPEGImages") else part for part in image.parts]
    beside = (Path(*parts).with_suffix(".txt"), image.with_suffix(".txt"), boxes_path(image))
    return any(path.is_file() for path in beside)


def _tell_classes(images: Sequence[Path], manifest: Manifest) -> bool:
    try:
        labels_of(images, manifest, manifest.train)
    except InputError:
        return False
    return True


def labels_of(images: Sequence[Path], manifest: Manifest, place: Path) -> list[int]:
    """The class of each image: its folder's, or else that of the one word that its path contains.

    Args:
        images: their files.
        manifest: says the classes.
        place: the list or the folder they are of; of a folder, its own folders are the classes.

    Raises:
        InputError: an image tells no class, or more than one.
    """
    number_of = functools.partial(_number_of, *_by_name(manifest.names), manifest.path)
    if place.suffix.lower() == ".csv" and place.is_file():
        return labels_of_table(place, manifest, number_of)
    words = _words(manifest)
    folder = place if place.is_dir() else None
    found = []
    for image in images:
        name = image.relative_to(folder).parts[0] if folder else image.parent.name
        label = number_of(name)
        found.append(_by_word(image, words, place) if label is None else label)
    return found


def _by_name(names: Sequence[str]) -> tuple[Mapping[str, list[int]], Mapping[str, list[int]]]:
    """The classes of each name, as it is written and without what people write one way or another."""
    exact, plain = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for number, name in enumerate(names):
        exact[name].append(number)
        plain[plain_name(name)].append(number)
    return dict(exact), dict(plain)


def _number_of(exact: Mapping[str, list[int]], plain: Mapping[str, list[int]], place: Path, name: str) -> int | None:
    found = exact.get(name) or plain.get(plain_name(name), [])
    if len(found) > 1:
        raise InputError(f"{place}: '{name}' may be {len(found)} of its classes; give each a name of its own")
    return found[0] if found else None


@functools.lru_cache(maxsize=16)
def _folder(folder: Path) -> Manifest:
    gestures = gesture_folder(folder)  # before .csv lists: its tables of times are .csv files
    if gestures is not None:
        return gestures
    arrays = recognise(folder)
    if arrays is not None:
        return read_manifest(unpacked(folder, arrays))
    tables = _tables(folder)
    if tables:
        return csv_manifest(folder, tables)
    parts = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    train, valid = parts.get("train"), [parts[name] for name in VALID if name in parts]
    if train is None and not valid and parts and _only_classes(folder):
        manifest = read_manifest(split_folder(folder, _classes(folder)))
        return replace(manifest, flip=0.0) if holds_recordings(manifest.train) else manifest
    if train is None or not valid:
        raise InputError(
            f"{folder}: classes are read of folders train/CLASS/ and val/CLASS/ (or valid, test), of a folder a class, "
            "of .csv lists, of CIFAR's files and of IDX; make them, or write a .data file"
        )
    names = _classes(train)
    other = _classes(valid[0])
    if not set(other) <= set(names):
        strange = sorted(set(other) - set(names))[0]
        raise InputError(f"{valid[0] / strange}: {train} has no such class; rename the folder or take it away")
    if holds_recordings(train):
        return Manifest(folder, len(names), names, train, valid[0], flip=0.0)
    return Manifest(folder, len(names), names, train, valid[0])


def _tables(folder: Path) -> dict[str, Path]:
    """The .csv lists of a folder by what they are called."""
    return {path.stem.lower(): path for path in sorted(folder.glob("*.csv"))}


def _only_classes(folder: Path) -> bool:
    """Whether the folders in a folder hold images themselves, as those of classes do; some may be empty, not all."""
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    inner = [path for path in inner if any(path.iterdir())]
    return len(inner) > 1 and all(
        any(each.suffix.lower() in IMAGE_SUFFIXES + EVENT_SUFFIXES for each in path.iterdir()) for path in inner
    )


def _classes(part: Path) -> tuple[str, ...]:
    found = sorted(path for path in part.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise InputError(f"{part}: holds no folder of a class; put images into {part.name}/CLASS/")
    loose = next((path for path in part.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), None)
    if loose is not None:
        raise InputError(f"{loose}: an image beside the folders of classes; put it into one of them")
    return tuple(path.name for path in found)


def _words(manifest: Manifest) -> dict[str, int]:
    """What Darknet looks for in paths (fill_truth in data.c), with the class that it stands for."""
    if manifest.labels is None:
        return {name: number for number, name in enumerate(manifest.names)}
    words = read_names(manifest.labels)
    if len(words) != manifest.classes:
        raise InputError(
            f"{manifest.labels}: {len(words)} labels for {manifest.classes} classes of {manifest.path}; "
            "write one a class, in their order"
        )
    return {word: manifest.numbers[n] if manifest.numbers else n for n, word in enumerate(words)}


def _by_word(image: Path, words: Mapping[str, int], place: Path) -> int:
    found = [word for word in words if word in str(image)]
    if len(found) != 1:
        fact = f"more than one class: {', '.join(found[:3])}" if found else "no class"
        raise InputError(f"{place}: {image} tells {fact}; put it into a folder that is named as its class")
    return words[found[0]]
