"""The numbers that a set's own source gives its images and classes, for results in the source's format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.data.manifest import Manifest
from utils.data.text import read_text
from utils.errors import InputError

IDS = "coco_ids.json"  # in the folder of the lists
Id = int | str


def write_ids(folder: Path, categories: Mapping[str, Id | None], images: Mapping[str, Id]) -> None:
    """Keep the numbers of classes by name (None: no class of the source's) and of images by their files' stems."""
    (folder / IDS).write_text(json.dumps({"categories": categories, "images": images}), encoding="utf-8")


def ids_of(images: Sequence[Path], manifest: Manifest | None) -> tuple[Sequence[Id], Sequence[Any] | None]:
    """The id of each image and the number of each class of ``names``; None where these are the classes' own.

    Ids of images and categories are those of the json that the set was made of; else classes have their numbers, and
    images their stems, as numbers where no two would be one.

    Raises:
        InputError: the file of those ids is damaged.
    """
    place = manifest.valid.parent / IDS if manifest else None
    if manifest is None or place is None or not place.is_file():
        return _own_ids(images), None
    try:
        known = json.loads(read_text(place))
        categories = [known["categories"][name] for name in manifest.names]
        return [known["images"][image.stem] for image in images], categories
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{place}: no ids for this set ({error}); delete it, or convert the set again") from None


def _own_ids(images: Sequence[Path]) -> Sequence[Id]:
    """An id for each image, no two alike unless they are one file: its number, its stem, or its path."""
    stems = [image.stem for image in images]
    numbers: list[Id] = [int(stem) if stem.isdecimal() else stem for stem in stems]
    different = len(set(images))
    return next((ids for ids in (numbers, stems) if len(set(ids)) == different), [str(image) for image in images])
