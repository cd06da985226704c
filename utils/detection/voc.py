"""Pascal VOC sets (a folder of xml files beside a folder of images) as manifests.

The set itself is only read: labels and lists are written elsewhere, images stay where they are.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from utils.data.conversions import kept, refuse_taken
from utils.data.folders import IMAGE_SUFFIXES
from utils.data.manifest import path_of
from utils.data.text import read_text
from utils.detection.box_units import are_shares, shares_of
from utils.detection.label_writer import Annotated, Findings, class_names, write_set
from utils.detection.split_lists import TRAIN, lists_in, split
from utils.detection.voc_xml import read_voc_xml
from utils.errors import InputError
from utils.files import no_file

log = logging.getLogger(__name__)

Difficult = Literal["keep", "skip"]
Places = tuple[Path, Path]  # the folders of annotations and of images
NAMED = 20  # files that are wrong, in a message
ANNOTATIONS, IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images")
VALID_PARTS = ("val", "valid", "validation", "test")  # folders of the images to validate on; the first that is there


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
        folder: holds Annotations/ (or annotations/) and JPEGImages/ (or images/), or xml files beside their images;
            and perhaps lists, here or in ImageSets/Main/, see ``split_lists``.
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
    divided = _parts(folder)
    if divided:
        parts = [(each, _stems(each)) for each in divided]
        found.split = f"split: its folders {divided[0][0].name} and {divided[1][0].name}"
    else:
        places = _places(folder)
        chosen = split(folder, _stems(places), read_stems, valid, seed)
        parts, found.split = [(places, [*chosen.train]), (places, [*chosen.valid])], chosen.told
    read = {
        name: read_images(folder, stems, found, difficult=difficult, places=places)
        for name, (places, stems) in zip(("train", "val"), parts, strict=True)
    }
    if divided or not any(kind in lists_in(folder) for kind in TRAIN):
        for images in dict.fromkeys(places[1] for places, _ in parts):
            _tell_left_out(images, {each.image for part in read.values() for each in part}, found)
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
    places = places or _places(folder)
    read, wrong = [], {}
    for stem in stems:
        try:
            read.append(_annotated(places, stem, found, difficult))
        except InputError as error:
            wrong[f"{stem}.xml"] = str(error)
    if wrong:
        more = f" (of {len(wrong)} such: {', '.join(list(wrong)[:NAMED])})" if len(wrong) > 1 else ""
        raise InputError(next(iter(wrong.values())) + more)
    return read


def is_voc(folder: Path) -> bool:
    """Whether the folder holds annotations and images as VOC names them, or xml files beside images."""
    named = any((folder / name).is_dir() for name in ANNOTATIONS) and any((folder / name).is_dir() for name in IMAGES)
    plain = named and not any(any((folder / name).glob("*.json")) for name in ANNOTATIONS)
    return plain or _beside(folder) is not None or _by_content(folder) is not None or _parts(folder) is not None


def told_places(folder: Path) -> str:
    """In words, where a set's annotations and images are."""
    places = _parts(folder) or (_places(folder),)
    names = dict.fromkeys(f"{path.relative_to(folder)}/" for place in places for path in place if path != folder)
    return ", ".join(names) or "xml beside the images"


def manifest_of_folder(folder: Path) -> Path:
    """The ``.data`` file of a VOC set under runs/data, converted when it is new or has changed."""
    folder = folder.resolve()
    files = [*folder.rglob("*.xml"), *folder.rglob("*.txt")]
    return kept(folder, files, lambda out, note: convert(folder, out, note=note))


def _beside(folder: Path) -> Path | None:
    """The folder in which xml files lie beside images, where annotations have no folder of their own."""
    if any((folder / name).is_dir() for name in ANNOTATIONS):
        return None
    return next((place for place in (folder, *(folder / name for name in IMAGES)) if any(place.glob("*.xml"))), None)


def _places(folder: Path) -> Places:
    beside = _beside(folder)
    if beside:
        return beside, beside
    return _by_content(folder) or (_subfolder(folder, ANNOTATIONS), _subfolder(folder, IMAGES))


def _by_content(folder: Path) -> Places | None:
    """The one folder of xml files and the one of images, whatever they are called; None where they are not two."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    annotations = [path for path in inside if _has(path, (".xml",))]
    images = [path for path in inside if path not in annotations and _has(path, IMAGE_SUFFIXES)]
    named = [path for path in images if path.name in IMAGES] or images
    return (annotations[0], named[0]) if len(annotations) == 1 and len(named) == 1 else None


def _parts(folder: Path) -> tuple[Places, Places] | None:
    """The places to train and to validate on, where a set has a folder for each part."""
    roots = [(folder, folder)] + ([found] if (found := _roots(folder)) else [])
    for boxes, images in roots:
        for inner in (("{}", "{}"), *((f"{{}}/{a}", f"{{}}/{i}") for a in ANNOTATIONS for i in IMAGES)):
            there = {
                part: (boxes / inner[0].format(part), images / inner[1].format(part))
                for part in ("train", *VALID_PARTS)
            }
            full = {part: place for part, place in there.items() if _has(place[0], (".xml",)) and place[1].is_dir()}
            valid = next((full[part] for part in VALID_PARTS if part in full), None)
            if "train" in full and valid:
                return full["train"], valid
    return None


def _roots(folder: Path) -> Places | None:
    """The folders that hold a folder for each part."""
    named = [
        next((folder / name for name in names if (folder / name / "train").is_dir()), None)
        for names in (ANNOTATIONS, IMAGES)
    ]
    return (named[0], named[1]) if named[0] and named[1] else None


def _has(folder: Path, suffixes: Sequence[str]) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in suffixes for path in folder.iterdir())


def _stems(places: Places) -> list[str]:
    return sorted(path.stem for path in places[0].glob("*.xml"))


def _tell_left_out(images: Path, read: Collection[Path], found: Findings) -> None:
    """Images that neither an annotation nor a list names: they may show no object, or have been forgotten."""
    there = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    left = [path.name for path in there if path.absolute() not in read]
    if left:
        found.unlabelled += len(left)
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        found.notes.append(
            f"{images}: left out for want of an annotation: {', '.join(left[:NAMED])}{more}; a train.txt that names "
            "all images trains on them as on images without objects"
        )
        log.warning("%s", found.notes[-1])


def _subfolder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise InputError(f"{folder}: no folder {' or '.join(names)} in it, so no VOC set; give the folder that holds them")


def read_stems(path: Path) -> list[str]:
    """The stems a list names, one a line.

    Raises:
        InputError: the list is empty.
    """
    rows = [path_of(path, line.strip()) for line in read_text(path).splitlines() if line.strip()]
    if not rows:
        raise InputError(f"{path}: the list is empty; name an image a line, or remove both lists for a random split")
    return [Path(row).stem if Path(row).suffix.lower() in IMAGE_SUFFIXES else Path(row).name for row in rows]


def _annotated(places: Places, stem: str, found: Findings, difficult: Difficult) -> Annotated:
    """One image with its objects; clipped to the image, those without area left out."""
    path = places[0] / f"{stem}.xml"
    reason = no_file(path)
    if reason not in ("", "no such file"):
        raise InputError(f"{path}: {reason}; put the image's annotation there, or nothing")
    if reason:
        image = _image(places[1], stem, path)
        log.warning("%s: no annotation of this image; taken as one without objects", image)
        return Annotated(image, ())
    said = read_voc_xml(path)
    image = _image(places[1], Path(said.filename or stem).name, path)
    if said.filename and (places[1] / said.filename).is_file() and not image.samefile(places[1] / said.filename):
        found.note("renamed", f"{path}: names the image {said.filename}, and is taken as of {image.name} beside it")
    corners = [each.corners for each in said.objects]
    shares = are_shares(corners)
    if shares:
        found.note("shares", f"{path}: its boxes are in 0..1, taken as shares of the image")
    boxes = shares_of(path, image, said.size, [(path, box) for box in corners], shares, found)
    objects = []
    for each, box in zip(said.objects, boxes, strict=True):
        if box is None:
            continue
        if each.difficult:
            if difficult == "skip":
                found.skipped_difficult += 1
                continue
            found.difficult += 1
        objects.append((each.name, box))
    return Annotated(image, tuple(objects))


def _image(images: Path, name: str, source: Path) -> Path:
    """The image an annotation is of: the one of its own name, else the one that it says.

    Raises:
        InputError: there is none, or more than one.
    """
    suffixes = [s for suffix in IMAGE_SUFFIXES for s in (suffix, suffix.upper())]
    if Path(name).stem == source.stem and (images / name).is_file():
        return (images / name).absolute()
    own = [path for suffix in suffixes if (path := images / f"{source.stem}{suffix}").is_file()]
    if len(own) > 1:
        raise InputError(f"{source}: {own[0].name} and {own[1].name} may both be its image; say which in <filename>")
    if own:
        return own[0].absolute()
    if (images / name).is_file():
        return (images / name).absolute()
    raise InputError(f"{source}: its image {name} is not in {images}; add it or take the annotation from the set")
