"""Pascal VOC sets (a folder of xml files beside a folder of images) as manifests.

The set itself is only read: labels and lists are written elsewhere, images stay where they are.
"""

from __future__ import annotations

import hashlib
import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from utils.data.images import image_size
from utils.data.lock import locked
from utils.data.manifest import IMAGE_SUFFIXES
from utils.detection.label_writer import (
    MARK,
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

Difficult = Literal["keep", "skip"]
Places = tuple[Path, Path]  # the folders of annotations and of images
ANNOTATIONS, IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images")
CONVERTED = Path("runs/data")  # where a folder given as --data is converted to, from the current folder


def convert(
    folder: Path,
    out: Path,
    *,
    classes: Sequence[str] = (),
    valid: float = 0.2,
    seed: int = 0,
    difficult: Difficult = "keep",
    note: str = "",
) -> Findings:
    """Write ``out.data``, ``out.names`` and the folder ``out`` (lists, labels) for the VOC set in ``folder``.

    Args:
        folder: holds Annotations/ (or annotations/), JPEGImages/ (or images/) and perhaps train.txt and val.txt, which
            may also be in ImageSets/Main/; without them the images are split at random.
        out: without a suffix; must not exist.
        classes: in this order; objects of others are left out. Empty: all that occur, by name.
        valid: share of the images to validate on where the set has no lists.
        seed: of that split.
        difficult: objects so marked are kept, or left out as VOC's own evaluation leaves them out.
        note: a comment for the ``.data`` file.

    Raises:
        InputError: the folder is no VOC set, a file in it is wrong, or ``out`` is taken.
    """
    refuse_taken(out)
    folder, found = folder.resolve(), Findings()
    splits = _splits(folder, valid, seed)
    read = {split: read_images(folder, stems, found, difficult=difficult) for split, stems in splits.items()}
    write_set(out, read, class_names(read, classes, folder), found, mark=f"{folder} {note}")
    return found


def read_images(
    folder: Path, stems: Sequence[str], found: Findings, *, difficult: Difficult = "keep", places: Places | None = None
) -> list[Annotated]:
    """The images of a VOC set with these stems; what is odd is counted in ``found``.

    ``places`` are the folders of annotations and of images where a set does not call them as VOC does.

    Raises:
        InputError: an annotation is wrong, or its image is not there.
    """
    places = places or (_subfolder(folder, ANNOTATIONS), _subfolder(folder, IMAGES))
    return [_annotated(places, stem, found, difficult) for stem in stems]


def is_voc(folder: Path) -> bool:
    """Whether the folder holds annotations and images as VOC names them."""
    return any((folder / name).is_dir() for name in ANNOTATIONS) and any((folder / name).is_dir() for name in IMAGES)


def manifest_of_folder(folder: Path) -> Path:
    """The ``.data`` file of a VOC set under runs/data, converted when it is new or has changed."""
    folder = folder.resolve()
    note = f"({_fingerprint(folder)})"
    with locked(CONVERTED / ".lock"):
        number = 1
        while True:
            out = CONVERTED / (folder.name if number == 1 else f"{folder.name}-{number}")
            data = Path(f"{out}.data")
            if not data.exists() and not out.exists():
                log.warning("%s: converted to %s: %s", folder, data, convert(folder, out, note=note))
                return data
            if data.exists() and data.read_text(encoding="utf-8").startswith(f"{MARK}{folder} {note}\n"):
                return data
            number += 1


def _fingerprint(folder: Path) -> str:
    """Changes when an annotation or a list of the set does."""
    files = sorted([*folder.rglob("*.xml"), *folder.rglob("*.txt")])
    rows = "".join(f"{p.relative_to(folder)} {p.stat().st_size} {p.stat().st_mtime_ns}\n" for p in files)
    return hashlib.sha256(rows.encode()).hexdigest()[:16]


def _subfolder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise InputError(f"{folder}: no folder {' or '.join(names)} in it, so no VOC set; give the folder that holds them")


def _splits(folder: Path, valid: float, seed: int) -> dict[str, list[str]]:
    """The stems of the images to train and to validate on: the set's own lists, else at random."""
    for place in (folder, folder / "ImageSets" / "Main"):
        lists = {split: place / f"{split}.txt" for split in ("train", "val")}
        if all(path.is_file() for path in lists.values()):
            return {split: read_stems(path) for split, path in lists.items()}
    stems = sorted(path.stem for path in _subfolder(folder, ANNOTATIONS).glob("*.xml"))
    if len(stems) < 2:
        raise InputError(f"{folder}: {len(stems)} annotations; at least two are needed, to train and to validate on")
    train, val = random_split(len(stems), valid, seed)
    return {"train": [stems[i] for i in train], "val": [stems[i] for i in val]}


def read_stems(path: Path) -> list[str]:
    """The stems a list names, one a line.

    Raises:
        InputError: the list is empty.
    """
    rows = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if not rows:
        raise InputError(f"{path}: the list is empty; name an image a line, or remove both lists for a random split")
    return [Path(row).stem if Path(row).suffix.lower() in IMAGE_SUFFIXES else Path(row).name for row in rows]


def _annotated(places: Places, stem: str, found: Findings, difficult: Difficult) -> Annotated:
    """One image with its objects; clipped to the image, those without area left out."""
    path = places[0] / f"{stem}.xml"
    if not path.is_file():
        image = _image(places[1], stem, path)
        log.warning("%s: no annotation of this image; taken as one without objects", image)
        return Annotated(image, ())
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: no valid xml ({error}); repair it or take it from the set") from None
    image = _image(places[1], Path(root.findtext("filename") or stem).name, path)
    unit = unit_of(path, _said(path, root), image_size(image), found)
    objects = []
    for element in root.iter("object"):
        box = _box(path, element, unit, found)
        if box is None:
            continue
        if (element.findtext("difficult") or "0").strip() == "1":
            if difficult == "skip":
                found.skipped_difficult += 1
                continue
            found.difficult += 1
        objects.append(((element.findtext("name") or "").strip(), box))
    return Annotated(image, tuple(objects))


def _image(images: Path, name: str, source: Path) -> Path:
    """The image an annotation is of: by its file name, else by the annotation's own, with any suffix."""
    for candidate in (name, *(f"{source.stem}{s}" for suffix in IMAGE_SUFFIXES for s in (suffix, suffix.upper()))):
        if (images / candidate).is_file():
            return (images / candidate).absolute()
    raise InputError(f"{source}: its image {name} is not in {images}; add it or take the annotation from the set")


def _said(path: Path, root: ElementTree.Element) -> tuple[int, int]:
    """(height, width) the xml says its boxes are in; (0, 0) where it does not say."""
    try:
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except ValueError:
        raise InputError(f"{path}: its <size> is no number of pixels; repair it") from None
    return (height, width) if height > 0 and width > 0 else (0, 0)


def _box(path: Path, element: ElementTree.Element, unit: tuple[int, int], found: Findings) -> Corners | None:
    """(x1, y1, x2, y2; 0..1) of an object, or None where it has no area. Corners are taken as labelImg writes them."""
    try:
        corners = [float(element.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError:
        name = element.findtext("name")
        raise InputError(f"{path}: an object ({name}) without a <bndbox> of four numbers; repair it") from None
    return clipped(path, corners, unit, found)
