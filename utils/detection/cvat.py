"""CVAT's own xml ("CVAT for images 1.1") and the table that Roboflow exports (_annotations.csv)."""

from __future__ import annotations

import csv
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.data.manifest import path_of
from utils.data.text import read_text
from utils.detection.box_units import shares_of
from utils.detection.label_writer import Annotated, Findings
from utils.errors import InputError

Px = tuple[float, float, float, float]
SHAPES = ("polygon", "polyline", "points", "mask", "cuboid", "ellipse", "skeleton")  # no boxes
COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def read_cvat(path: Path, images: Sequence[Path], found: Findings) -> dict[str, list[Annotated]]:
    """The images of an annotations.xml by their subset ("" for none); shapes that are no boxes are counted.

    Args:
        path: the xml.
        images: folders in which an image may lie.
        found: what was odd.

    Raises:
        InputError: it is another xml, has tracks of a video, or an image is not there.
    """
    try:
        root = ElementTree.fromstring(read_text(path))
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: no valid xml ({error}); export it again") from None
    if root.tag != "annotations" or root.find("track") is not None:
        fact = "has the tracks of a video" if root.tag == "annotations" else "is another tool's xml"
        raise InputError(f"{path}: {fact}; export the task as 'CVAT for images', as YOLO or as COCO")
    made: dict[str, list[Annotated]] = {}
    for element in root.iter("image"):
        name = element.get("name") or ""
        found.shapeless += sum(len(element.findall(shape)) for shape in SHAPES)
        boxes = [(str(box.get("label")), _corners(path, name, box)) for box in element.iter("box")]
        said = (_whole(element.get("height")), _whole(element.get("width")))
        item = _annotated(path, _image(path, images, name), said, boxes, found)
        made.setdefault(element.get("subset") or "", []).append(item)
    if not made:
        raise InputError(f"{path}: no <image> in it; export the task again")
    return made


def read_table(path: Path, found: Findings) -> list[Annotated]:
    """The images of an _annotations.csv that lies beside them.

    Raises:
        InputError: a column is missing, a number is none, or an image is not there.
    """
    rows = list(csv.DictReader(read_text(path).splitlines()))
    lacking = [name for name in COLUMNS if rows and name not in rows[0]]
    if lacking or not rows:
        raise InputError(f"{path}: no column {lacking[0] if lacking else COLUMNS[0]}; a row is {','.join(COLUMNS)}")
    boxes: dict[str, list[tuple[str, Px]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            corners = tuple(float(row[key]) for key in COLUMNS[4:])
        except (TypeError, ValueError):
            raise InputError(f"{path}:{number}: {', '.join(COLUMNS[4:])} must be numbers; repair the row") from None
        boxes.setdefault(row["filename"], []).append((row["class"], corners))  # type: ignore[arg-type]
        sizes[row["filename"]] = (_whole(row["height"]), _whole(row["width"]))
    return [_annotated(path, _image(path, [path.parent], name), sizes[name], of, found) for name, of in boxes.items()]


def _annotated(
    path: Path, image: Path, said: tuple[int, int], boxes: Sequence[tuple[str, Px]], found: Findings
) -> Annotated:
    place = f"{path}: {image.name}"
    inside = shares_of(place, image, said, [(place, corners) for _, corners in boxes], False, found)
    return Annotated(image, tuple((name, box) for (name, _), box in zip(boxes, inside, strict=True) if box is not None))


def _corners(path: Path, image: str, box: ElementTree.Element) -> Px:
    """(x1, y1, x2, y2) px; of a turned box those of the upright one round it."""
    try:
        x1, y1, x2, y2 = (float(box.get(key) or "") for key in ("xtl", "ytl", "xbr", "ybr"))
        turn = math.radians(float(box.get("rotation") or 0))
    except ValueError:
        raise InputError(f"{path}: {image}: a box without four numbers; export it again") from None
    width, height = x2 - x1, y2 - y1
    high = (abs(width * math.sin(turn)) + abs(height * math.cos(turn))) / 2
    wide = (abs(width * math.cos(turn)) + abs(height * math.sin(turn))) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return (x1, y1, x2, y2) if not turn else (x - wide, y - high, x + wide, y + high)


def _image(path: Path, folders: Sequence[Path], name: str) -> Path:
    name = path_of(path, name.replace("\\", "/"))
    for folder in folders:
        for candidate in (folder / name, folder / Path(name).name):
            if name and candidate.is_file():
                return candidate.absolute()
    raise InputError(
        f"{path}: its image {name or '(without a name)'} is not in {folders[0]}; export it with its images"
    )


def _whole(said: object) -> int:
    try:
        return int(float(str(said)))
    except (ValueError, OverflowError):
        return 0


def subsets(made: Mapping[str, list[Annotated]]) -> tuple[list[Annotated], list[Annotated]] | None:
    """The images to train and to validate on, where the subsets are called so."""
    parts = {name.casefold(): items for name, items in made.items()}
    valid = next((parts[name] for name in ("val", "valid", "validation", "test") if name in parts), None)
    return (parts["train"], valid) if "train" in parts and valid else None
