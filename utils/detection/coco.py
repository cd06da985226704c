"""Sets annotated in COCO's json as manifests: one file of annotations a split, images in a folder beside it.

Only boxes are read. Crowd regions are left out, because a label file can not say that a box is many objects; so are
annotations that have a segmentation alone. The set itself is only read.

Source: the format of cocodataset.org/#format-data, object detection.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.data.conversions import refuse_taken
from utils.data.manifest import path_of
from utils.data.set_apart import set_apart
from utils.data.text import read_text
from utils.detection.box_units import are_shares, shares_of
from utils.detection.label_writer import Annotated, Findings, class_names, write_set
from utils.errors import InputError

Row = dict[str, Any]
Id = int | str
LARGEST = 1e9  # px; what is not finite is not below
Named = tuple[str, str, tuple[float, float, float, float]]  # class, place, corners


def convert(
    annotations: Sequence[Path],
    images: Sequence[Path],
    out: Path,
    *,
    classes: Sequence[str] = (),
    valid: float = 0.2,
    seed: int = 0,
    mark: str = "",
) -> Findings:
    """Write ``out.data``, ``out.names`` and the folder ``out`` (lists, labels) for a set in COCO's format.

    Args:
        annotations: the json to train on and, if there is one, that to validate on; a single one is split at random.
        images: the folder of each; a single one serves both.
        out: without a suffix; must not exist.
        classes: in this order; objects of others are left out. Empty: all categories, in the order of their ids.
        valid: share of the images to validate on where there is one json.
        seed: of that split.
        mark: a comment for the ``.data`` file (default: the json files).

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
        train, val = set_apart([item.image.name for item in items], valid, seed)
        splits = {"train": [items[i] for i in train], "val": [items[i] for i in val]}
    names = class_names(splits, classes, annotations[0], known)
    write_set(out, splits, names, found, mark=mark or ", ".join(str(path.resolve()) for path in annotations))
    return found


def read_images(annotations: Path, folder: Path, found: Findings) -> tuple[list[Annotated], list[str]]:
    """The images of one json, in its order, those without objects too, and its categories in the order of their ids.

    Raises:
        InputError: the json is none of COCO's or contradicts itself, or an image is missing or unreadable.
    """
    content = _load(annotations)
    categories = _by_id(annotations, content["categories"], "categories", "name")
    roots = _unused_roots(content)
    numbers = [number for number in categories if str(number) not in roots]
    order = sorted(numbers, key=lambda number: (isinstance(number, str), number))
    names = [" ".join(str(categories[number]["name"]).split()) for number in order]
    if not all(names):
        raise InputError(f"{annotations}: a category without a name; give it one")
    if len(set(names)) != len(names):
        raise InputError(f"{annotations}: two categories have one name; rename one")
    rows = _by_id(annotations, content["images"], "images", "file_name")
    found.categories = dict(zip(names, order, strict=True))
    objects = _objects(annotations, content["annotations"], found, rows.keys())
    shares = are_shares([corners for each in objects.values() for _, _, corners in each])
    found.shares += len(rows) if shares else 0
    items = []
    for number, row in tqdm(rows.items(), f"reading {annotations.name}", delay=2, leave=False, disable=None):
        image = _image(annotations, folder, str(row["file_name"]))
        placed = [(place, corners) for _, place, corners in objects[number]]
        boxes = shares_of(f"{annotations}: image {number}", image, _said(annotations, row), placed, shares, found)
        named = tuple((name, box) for (name, _, _), box in zip(objects[number], boxes, strict=True) if box is not None)
        items.append(Annotated(image, named, number))
    return items, names


def _unused_roots(content: dict[str, list[Row]]) -> set[str]:
    """Ids of categories that only stand over the others (Roboflow's first one): named as their super, and of no box."""
    used = {str(row.get("category_id")) for row in content["annotations"] if isinstance(row, dict)}
    supers = {str(row.get("supercategory")) for row in content["categories"] if row.get("supercategory") != row["name"]}
    return {str(row["id"]) for row in content["categories"] if str(row["name"]) in supers} - used


def _load(path: Path) -> dict[str, list[Row]]:
    try:
        content = json.loads(read_text(path))
    except InputError as error:
        raise InputError(f"{str(error).partition(';')[0]}; give the json of COCO's annotations") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no valid json ({error}); repair it or fetch it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{path}: no list '{key}', so no COCO detection json; give the one named instances_…")
    return content


def _by_id(path: Path, rows: list[Row], kind: str, key: str) -> dict[Id, Row]:
    """The rows by their ids, in the file's order."""
    found: dict[Id, Row] = {}
    for row in rows:
        if not isinstance(row, dict) or "id" not in row or key not in row:
            raise InputError(f"{path}: one of '{kind}' has no 'id' or no '{key}': {str(row)[:60]}; repair it")
        if not isinstance(row["id"], int | str):
            raise InputError(f"{path}: one of '{kind}' has the id {str(row['id'])[:60]}; number them")
        if row["id"] in found:
            raise InputError(f"{path}: two of '{kind}' have the id {row['id']}; number them apart")
        found[row["id"]] = row
    return found


def _objects(path: Path, rows: list[Row], found: Findings, images: Collection[Id]) -> dict[Id, list[Named]]:
    """The boxes of each image; ``found`` knows the categories."""
    names = {number: name for name, number in found.categories.items()}
    objects: dict[Id, list[Named]] = defaultdict(list)
    for row in rows:
        place = f"{path}: annotation {row.get('id') if isinstance(row, dict) else row}"
        image, category = (row.get("image_id"), row.get("category_id")) if isinstance(row, dict) else (None, None)
        if not isinstance(image, int | str) or image not in images:
            raise InputError(f"{place}: is of no image in the file; repair the file")
        if not isinstance(category, int | str) or category not in names:
            raise InputError(f"{place}: category_id {category} is not among the categories; add it there")
        corners = _corners(place, row, found)
        if corners is not None:
            objects[image].append((names[category], place, corners))
    return objects


def _corners(place: str, row: Row, found: Findings) -> tuple[float, float, float, float] | None:
    """(x1, y1, x2, y2) of an annotation as written, or None where there is no box to learn."""
    if row.get("iscrowd"):
        found.crowd += 1
        return None
    box = row.get("bbox")
    if not box:
        found.shapeless += 1
        return None
    good = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and abs(v) < LARGEST for v in box)
    if not good:
        raise InputError(f"{place}: bbox {str(box)[:60]} is not four numbers [x, y, width, height]; repair it")
    x, y, width, height = map(float, box)
    return x, y, x + max(0.0, width), y + max(0.0, height)


def _said(path: Path, row: Row) -> tuple[int, int]:
    """(height, width) that the json says; 0 where it does not."""
    try:
        return int(row.get("height") or 0), int(row.get("width") or 0)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{path}: image {row['id']}: its height and width are no numbers; repair it") from None


def _image(path: Path, folder: Path, name: str) -> Path:
    name = path_of(path, name.replace("\\", "/"))
    for candidate in (folder / name, folder / Path(name).name):
        if candidate.is_file():
            return candidate.absolute()
    raise InputError(f"{path}: its image {name} is not in {folder}; add it or give the folder that holds it")
