"""Folders of masks as Pascal VOC and COCO publish them, as ``.data`` files; pictures are only read.

VOC's masks lie there as PNG, its ImageSets/Segmentation says which pictures have one. COCO's are drawn once from its
json: where objects lie over each other the smaller one is seen; a crowd region does not count; what is no object has
a class of its own, number 0, as in VOC.

Source: cocodataset.org/#format-data, object detection.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from utils.data.conversions import kept, publish
from utils.data.manifest import list_text, path_of, read_names
from utils.data.source_ids import write_ids
from utils.data.text import read_text
from utils.errors import InputError
from utils.segmentation.run_lengths import decoded

Row = dict[str, Any]
BACKGROUND = "background"
UNCOUNTED = 255  # as open_data has it
VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()
CAMVID = "sky building pole road pavement tree sign fence car pedestrian cyclist".split()  # 11: none of them
PARTS = ("train", "val")
FIELDS = {
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"id", "image_id", "category_id", "segmentation"},
    "categories": {"id", "name"},
}
PARTS_OF_PIXEL, FINE = 4, 8  # to a side, of which an outline is made; bits of one, in which OpenCV takes corners


def voc_folder(folder: Path, names: Path | None) -> Path | None:
    """The ``.data`` file of JPEGImages, SegmentationClass and ImageSets/Segmentation; None: it is no such folder.

    Raises:
        InputError: a picture of a list has no file.
    """
    lists = [folder / "ImageSets" / "Segmentation" / f"{part}.txt" for part in PARTS]
    if not all(path.is_file() for path in lists):
        return None

    def convert(out: Path, note: str) -> str:
        found = [[_picture(folder / "JPEGImages", path, stem) for stem in read_text(path).split()] for path in lists]

        def write(build: Path) -> None:
            build.mkdir()
            for part, images in zip(PARTS, found, strict=True):
                (build / f"{part}.txt").write_text(list_text(images), encoding="utf-8")

        publish(out, write, read_names(names) if names else [BACKGROUND, *VOC], f"{folder.resolve()} {note}")
        return f"Pascal VOC's masks: {len(found[0])} pictures to train on, {len(found[1])} to validate on"

    return kept(folder, [*lists, *([names] if names else [])], convert, of="masks")


def _picture(folder: Path, listed: Path, stem: str) -> Path:
    found = folder / f"{stem}.jpg"
    if not found.is_file():
        raise InputError(f"{listed}: {stem} is not in {folder}; add it, or take it from the list")
    return found.absolute()


def coco_folder(folder: Path) -> Path | None:
    """The ``.data`` file of annotations/instances_train….json and instances_val….json; None: it is no such folder.

    Raises:
        InputError: a json contradicts itself, or a picture is missing.
    """
    found = [sorted(folder.glob(f"annotations/instances_{part}*.json")) for part in PARTS]
    if not all(found):
        return None
    jsons = [paths[0] for paths in found]

    def convert(out: Path, note: str) -> str:
        contents = [_content(path) for path in jsons]
        names = [str(row["name"]) for row in _categories(contents[0])]
        if names != [str(row["name"]) for row in _categories(contents[1])]:
            raise InputError(f"{jsons[1]}: other categories than {jsons[0]}; give two files of one set")

        def write(build: Path) -> None:
            for part, path, content in zip(PARTS, jsons, contents, strict=True):
                images = _drawn(path, content, _images_of(folder, path), build / "masks")
                (build / f"{part}.txt").write_text(list_text(images), encoding="utf-8")
            _write_ids(build, contents)

        labels = f"labels = {out.name}/masks\n"
        publish(out, write, [BACKGROUND, *names], f"{folder.resolve()} {note}", labels)
        return f"COCO's masks ({', '.join(path.name for path in jsons)}), drawn as PNG"

    return kept(folder, jsons, convert, of="masks")


def _images_of(folder: Path, path: Path) -> Path:
    """The pictures of instances_train2017.json: train2017/ or images/train2017/."""
    name = path.stem.removeprefix("instances_")
    for place in (folder / name, folder / "images" / name):
        if place.is_dir():
            return place
    raise InputError(f"{path}: its pictures are neither in {folder / name} nor in {folder / 'images' / name}")


def _content(path: Path) -> dict[str, list[Row]]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no valid json ({error}); repair it or fetch it again") from None
    for key, fields in FIELDS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and fields <= row.keys() for row in rows):
            said = ", ".join(sorted(fields))
            raise InputError(f"{path}: no list '{key}' whose rows have {said}; give COCO's instances json")
    if len(content["categories"]) >= UNCOUNTED:
        raise InputError(f"{path}: {len(content['categories'])} categories; a mask tells {UNCOUNTED - 1} apart")
    return content


def _categories(content: dict[str, list[Row]]) -> list[Row]:
    return sorted(content["categories"], key=lambda row: int(row["id"]))


def _write_ids(build: Path, contents: Sequence[dict[str, list[Row]]]) -> None:
    """The json's own numbers; what is no object has none, and results leave it out."""
    categories = {str(row["name"]): row["id"] for row in _categories(contents[0])}
    images = {Path(str(row["file_name"])).stem: row["id"] for content in contents for row in content["images"]}
    write_ids(build, {BACKGROUND: None, **categories}, images)


def _drawn(path: Path, content: dict[str, list[Row]], folder: Path, masks: Path) -> list[Path]:
    """Write the mask of each picture; returns the pictures."""
    numbers = {row["id"]: number for number, row in enumerate(_categories(content), 1)}
    objects = defaultdict[Any, list[Row]](list)
    for row in content["annotations"]:
        if row["category_id"] not in numbers:
            raise InputError(f"{path}: annotation {row['id']}: its category_id is not among the categories; add it")
        objects[row["image_id"]].append(row)
    images, place = list[Path](), masks / folder.name
    place.mkdir(parents=True, exist_ok=True)
    for row in tqdm(content["images"], f"drawing masks of {path.name}", delay=2, leave=False, disable=None):
        image = folder / path_of(path, str(row["file_name"]))
        if not image.is_file():
            raise InputError(f"{path}: its picture {row['file_name']} is not in {folder}; add it")
        cv2.imwrite(str(place / f"{image.stem}.png"), mask_of(path, row, objects[row["id"]], numbers))
        images.append(image.absolute())
    return images


def mask_of(path: Path, image: Row, objects: Sequence[Row], numbers: dict[Any, int]) -> NDArray[np.uint8]:
    """The mask of a picture, uint8 [height, width]: the largest object first, crowds before all.

    Raises:
        InputError: an outline or a run-length code is none.
    """
    mask = np.zeros((int(image["height"]), int(image["width"])), np.uint8)
    order = sorted(objects, key=lambda row: (not row.get("iscrowd"), -float(row.get("area", 0))))
    for row in order:
        number = UNCOUNTED if row.get("iscrowd") else numbers[row["category_id"]]
        shape = row["segmentation"]
        try:
            if isinstance(shape, dict):
                mask[decoded(shape, mask.shape)] = number
            else:
                _fill(mask, [np.asarray(each, float).reshape(-1, 2) for each in shape], number)
        except (ValueError, TypeError, KeyError, cv2.error):
            raise InputError(f"{path}: annotation {row['id']}: its segmentation is no outline and no runs") from None
    return mask


def _fill(mask: NDArray[np.uint8], outlines: Sequence[NDArray[np.float64]], number: int) -> None:
    """Set the pixels of which more than half lies in the outlines, [n, 2] corners (x, y) each, in px."""
    every = np.concatenate(outlines)
    left, top = np.floor(every.min(0)).clip(0, mask.shape[::-1]).astype(int)
    right, bottom = np.ceil(every.max(0)).clip(0, mask.shape[::-1]).astype(int)
    if left >= right or top >= bottom:
        return
    parts = np.zeros(((bottom - top) * PARTS_OF_PIXEL, (right - left) * PARTS_OF_PIXEL), np.uint8)
    for outline in outlines:  # one by one, else where two lie over each other would be outside
        corners = (outline - (left, top)) * PARTS_OF_PIXEL - 0.5  # OpenCV counts from the middle of a pixel
        cv2.fillPoly(parts, [np.rint(corners * 2**FINE).astype(np.int32)], 255, shift=FINE)
    share = cv2.resize(parts, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    mask[top:bottom, left:right][share > 127] = number
