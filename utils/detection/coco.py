"""Sets annotated in COCO's json as manifests: one file of annotations a split, images in a folder beside it.

Only boxes are read. Crowd regions are left out, because a label file can not say that a box is many objects; so are
annotations that have a segmentation alone. The set itself is only read.

Source: the format of cocodataset.org/#format-data, object detection.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.data.images import image_size
from utils.detection.label_writer import (
    Annotated,
    Corners,
    Findings,
    class_names,
    clipped,
    random_split,
    refuse_taken,
    unit_of,
    write_set,
)
from utils.errors import InputError

log = logging.getLogger(__name__)

Row = dict[str, Any]


def convert(
    annotations: Sequence[Path],
    images: Sequence[Path],
    out: Path,
    *,
    classes: Sequence[str] = (),
    valid: float = 0.2,
    seed: int = 0,
) -> Findings:
    """Write ``out.data``, ``out.names`` and the folder ``out`` (lists, labels) for a set in COCO's format.

    Args:
        annotations: the json to train on and, if there is one, that to validate on; a single one is split at random.
        images: the folder of each; a single one serves both.
        out: without a suffix; must not exist.
        classes: in this order; objects of others are left out. Empty: all categories, in the order of their ids.
        valid: share of the images to validate on where there is one json.
        seed: of that split.

    Raises:
        InputError: a json is none of COCO's or contradicts itself, an image is missing, or ``out`` is taken.
    """
    refuse_taken(out)
    if len(annotations) > 2 or len(images) not in (1, len(annotations)):
        raise InputError(
            f"{len(annotations)} annotation files and {len(images)} folders of images; "
            "give one file or two (to train, to validate), and one folder or one for each"
        )
    found, folders = Findings(), list(images) * (len(annotations) // len(images))
    read = [read_images(path, folder, found) for path, folder in zip(annotations, folders, strict=True)]
    known = read[0][1]
    if any(names != known for _, names in read):
        raise InputError(f"{annotations[1]}: other categories than {annotations[0]}; give two files of one set")
    if len(read) == 2:
        splits = {"train": read[0][0], "val": read[1][0]}
    else:
        items = read[0][0]
        if len(items) < 2:
            raise InputError(
                f"{annotations[0]}: {len(items)} images; at least two are needed, to train and validate on"
            )
        train, val = random_split(len(items), valid, seed)
        splits = {"train": [items[i] for i in train], "val": [items[i] for i in val]}
    names = class_names(splits, classes, annotations[0], known)
    write_set(out, splits, names, found, mark=", ".join(str(path.resolve()) for path in annotations))
    return found


def read_images(annotations: Path, folder: Path, found: Findings) -> tuple[list[Annotated], list[str]]:
    """The images of one json, in its order, those without objects too, and its categories in the order of their ids.

    Raises:
        InputError: the json is none of COCO's or contradicts itself, or an image is missing or unreadable.
    """
    content = _load(annotations)
    categories = _by_id(annotations, content["categories"], "categories", "name")
    names = [str(categories[number]["name"]) for number in sorted(categories)]
    if len(set(names)) != len(names):
        raise InputError(f"{annotations}: two categories have one name; rename one")
    rows = _by_id(annotations, content["images"], "images", "file_name")
    objects = _objects(annotations, content["annotations"], categories, rows.keys())
    items = []
    for number, row in tqdm(rows.items(), f"reading {annotations.name}", delay=2, leave=False, disable=None):
        image = _image(annotations, folder, str(row["file_name"]))
        said = (int(row.get("height") or 0), int(row.get("width") or 0))
        unit = unit_of(f"{annotations}: image {number}", said, image_size(image), found)
        boxes = [
            (str(categories[o["category_id"]]["name"]), _box(annotations, o, unit, found)) for o in objects[number]
        ]
        items.append(Annotated(image, tuple((name, box) for name, box in boxes if box is not None)))
    return items, names


def _load(path: Path) -> dict[str, list[Row]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the json of COCO's annotations") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no valid json ({error}); repair it or fetch it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{path}: no list '{key}', so no COCO detection json; give the one named instances_…")
    return content


def _by_id(path: Path, rows: list[Row], kind: str, key: str) -> dict[int, Row]:
    """The rows by their ids, in the file's order."""
    found: dict[int, Row] = {}
    for row in rows:
        if not isinstance(row, dict) or "id" not in row or key not in row:
            raise InputError(f"{path}: one of '{kind}' has no 'id' or no '{key}': {str(row)[:60]}; repair it")
        if row["id"] in found:
            raise InputError(f"{path}: two of '{kind}' have the id {row['id']}; number them apart")
        found[row["id"]] = row
    return found


def _objects(path: Path, rows: list[Row], categories: dict[int, Row], images: Any) -> dict[int, list[Row]]:
    """The annotations of each image."""
    objects: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        place = f"{path}: annotation {row.get('id') if isinstance(row, dict) else row}"
        if not isinstance(row, dict) or row.get("image_id") not in images:
            raise InputError(f"{place}: is of no image in the file; repair the file")
        if row.get("category_id") not in categories:
            raise InputError(f"{place}: category_id {row.get('category_id')} is not among the categories; add it there")
        objects[row["image_id"]].append(row)
    return objects


def _box(path: Path, row: Row, unit: tuple[int, int], found: Findings) -> Corners | None:
    """(x1, y1, x2, y2; 0..1) of an annotation, or None where there is no box to learn."""
    if row.get("iscrowd"):
        found.crowd += 1
        return None
    box = row.get("bbox")
    if not box:
        found.shapeless += 1
        return None
    place = f"{path}: annotation {row.get('id')}"
    good = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and math.isfinite(v) for v in box)
    if not good:
        raise InputError(f"{place}: bbox {str(box)[:60]} is not four numbers [x, y, width, height]; repair it")
    x, y, width, height = map(float, box)
    return clipped(place, (x, y, x + max(0.0, width), y + max(0.0, height)), unit, found)


def _image(path: Path, folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / Path(name).name):
        if candidate.is_file():
            return candidate.absolute()
    raise InputError(f"{path}: its image {name} is not in {folder}; add it or give the folder that holds it")
