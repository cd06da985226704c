"""The annotations of two published sets that have a format of their own: VisDrone-DET and BDD100K."""

from __future__ import annotations

import json
from pathlib import Path

from tqdm import tqdm

from utils.data.images import image_size
from utils.data.text import read_text
from utils.detection.label_writer import Annotated, Findings, clipped
from utils.errors import InputError

# categories 1 to 10; 0 are regions to be ignored, 11 is everything else
VISDRONE = ("pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor")
# BDD100K renamed three of its ten classes in 2020
BDD100K = {"pedestrian": "person", "bicycle": "bike", "motorcycle": "motor"}


def read_visdrone(folder: Path, found: Findings) -> list[Annotated]:
    """The images of a split, which holds images/ and annotations/; ignored regions and "others" are left out.

    A row is ``left, top, width, height, score, category, truncation, occlusion``, in px.

    Raises:
        InputError: a row is malformed, or there is not one image.
    """
    images = sorted((folder / "images").glob("*.jpg"))
    if not images:
        raise InputError(f"{folder / 'images'}: not one .jpg; unpack the split so that its images are there")
    items = []
    for image in tqdm(images, f"reading {folder.name}", delay=2, leave=False, disable=None):
        place = folder / "annotations" / f"{image.stem}.txt"
        if not place.is_file():
            raise InputError(f"{place}: no such file, the annotations of {image.name}; unpack the split again")
        size, objects = image_size(image), []
        for number, line in enumerate(read_text(place).splitlines(), start=1):
            try:
                left, top, width, height, _, category = (int(word) for word in line.split(",")[:6])
            except ValueError:
                raise InputError(f"{place}:{number}: '{line[:60]}' does not begin with six whole numbers") from None
            if not 1 <= category <= len(VISDRONE):
                found.other_class += 1
                continue
            box = clipped(f"{place}:{number}", (left, top, left + width, top + height), size, found)
            if box is not None:
                objects.append((VISDRONE[category - 1], box))
        items.append(Annotated(image.absolute(), tuple(objects)))
    return items


def read_bdd100k(labels: Path, images: Path, found: Findings) -> list[Annotated]:
    """The images of one json, by its frames; objects without a box (lanes, drivable areas) are left out.

    Raises:
        InputError: the json is not BDD100K's, or an image is missing.
    """
    try:
        frames = json.loads(read_text(labels))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{labels}: cannot be read ({error}); fetch the detection labels again") from None
    items = []
    for frame in tqdm(frames, f"reading {labels.name}", delay=2, leave=False, disable=None):
        if not isinstance(frame, dict) or "name" not in frame:
            raise InputError(f"{labels}: a frame without a name ({str(frame)[:60]}); these are not BDD100K's labels")
        image = images / frame["name"]
        if not image.is_file():
            raise InputError(f"{labels}: its image {frame['name']} is not in {images}; unpack the images there")
        size, objects = image_size(image), []
        for label in frame.get("labels") or ():
            if not label.get("box2d"):
                found.shapeless += 1
                continue
            corners = [float(label["box2d"][key]) for key in ("x1", "y1", "x2", "y2")]
            box = clipped(f"{labels}: {frame['name']}", corners, size, found)
            if box is not None:
                objects.append((BDD100K.get(label.get("category"), str(label.get("category"))), box))
        items.append(Annotated(image.absolute(), tuple(objects)))
    return items
