"""What ``--data`` may name for masks: pictures, and a picture of class numbers for each.

    mine/images/train/1.jpg   mine/masks/train/1.png        and mine/names.txt, a class a line

or CamVid's train/ and trainannot/, val/ and valannot/ as SegNet's authors gave it out, or Pascal VOC's and COCO's
folders as they are published (``published_sets.py``), or a ``.data`` file, whose ``labels`` is the folder of masks. A
mask is a PNG of grey numbers or of a palette; a number that is no class is what the cfg says to ignore, or 255.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from utils.data.conversions import kept, publish
from utils.data.folders import IMAGE_SUFFIXES
from utils.data.manifest import SAMPLE, Manifest, list_text, open_place, read_list, read_manifest, read_names
from utils.data.overlaps import check_lists
from utils.data.recordings import check_keys
from utils.data.sample_set import is_sample
from utils.data.set_apart import set_apart
from utils.errors import InputError
from utils.files import no_file
from utils.segmentation.published_sets import CAMVID, coco_folder, voc_folder
from utils.segmentation.sample import NAME, prepare_sample

NAMES = ("names.txt", "classes.txt")
VALID = ("val", "valid", "test")
SHARE, SEED = 0.2, 0  # set apart where a folder has no parts, and of that choice
IGNORED = 255  # the border of a fitted picture, and Pascal VOC's contours
IMAGES, MASKS = ("images", "JPEGImages"), ("masks", "SegmentationClass")  # a folder of the one, of the other
ANNOTATED = "annot"  # behind the name of a folder of pictures: that of their masks

log = logging.getLogger(__name__)


def open_data(place: Path | str) -> Manifest:
    """Read a folder or a ``.data`` file.

    Raises:
        InputError: something in it is missing or contradicts itself, or two pictures have one mask; the message says
            what and the remedy.
    """
    manifest = read_set(place)
    check_lists(manifest, mask_path, "mask")
    return manifest


def read_set(place: Path | str) -> Manifest:
    """The same, its images not looked at."""
    manifest = open_place(place, _folder, "images/, masks/ and names.txt", NAME, prepare_sample)
    check_keys(manifest, recordings=False)
    return manifest


def is_of_masks(place: Path) -> bool:
    """Whether a folder, or a ``.data`` file, is of pictures with masks: the first picture has one, or would have."""
    if place.is_dir():
        return _annotated(place / "train") or any(
            (place / images).is_dir() and (place / masks).is_dir() for images, masks in zip(IMAGES, MASKS, strict=True)
        )
    if is_sample(place, NAME):
        return True
    if not place.is_file() or place.suffix.lower() == ".csv" or place.resolve() == SAMPLE:
        return False
    manifest = read_manifest(place)
    first = read_list(manifest.train)[0]
    return mask_path(first, manifest) != first and mask_path(first, manifest).is_file()


def mask_path(image: Path, manifest: Manifest) -> Path:
    """The mask of an image, there or not: in the folder of masks, in that beside its own, or where images is masks."""
    if manifest.labels is not None:
        below = manifest.labels / image.parent.name / f"{image.stem}.png"
        return below if below.parent.is_dir() else manifest.labels / f"{image.stem}.png"
    if _annotated(image.parent):
        return image.parent.with_name(f"{image.parent.name}{ANNOTATED}") / f"{image.stem}.png"
    parts = list(image.parts)
    for k in range(len(parts) - 1, -1, -1):
        if parts[k] in IMAGES:
            parts[k] = MASKS[IMAGES.index(parts[k])]
            break
    return Path(*parts).with_suffix(".png")


def read_mask(path: Path) -> np.ndarray:
    """The class numbers of a mask, uint8 [H, W].

    Raises:
        InputError: it is missing, damaged, or coloured without a palette.
    """
    if reason := no_file(path):
        raise InputError(f"{path}: {reason.replace('file', 'mask')}; put a mask there, or take its image from the list")
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "1"):
                raise InputError(
                    f"{path}: a mask of mode {picture.mode}; save it as a PNG of 8-bit grey class numbers or a palette"
                )
            return np.array(picture, np.uint8)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: a corrupt mask ({error}); replace it, or take its image from the list") from None


def _folder(folder: Path) -> Manifest:
    images = next((folder / name for name in IMAGES if (folder / name).is_dir()), None)
    names = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    published = voc_folder(folder, names) or (coco_folder(folder) if names is None else None)
    if published is not None:
        return read_manifest(published)
    if _annotated(folder / "train"):
        return _camvid(folder, names)
    if images is None or names is None:
        raise InputError(
            f"{folder}: masks are read of images/, masks/ and names.txt (a class a line), or CamVid's, VOC's or COCO's "
            "folder; make them, or a .data file"
        )
    classes = read_names(names)
    valid = next((images / name for name in VALID if (images / name).is_dir()), None)
    if valid is None and not any(path.is_dir() for path in images.iterdir()):
        return read_manifest(_split_folder(folder, images, names))
    if not (images / "train").is_dir() or valid is None:
        raise InputError(f"{images}: no train/ and val/ in it; part the images, and the masks alike")
    return Manifest(folder, len(classes), classes, images / "train", valid)


def _annotated(pictures: Path) -> bool:
    """Whether a folder of pictures has one of masks beside it, as train/ has trainannot/."""
    return pictures.is_dir() and pictures.with_name(f"{pictures.name}{ANNOTATED}").is_dir()


def _camvid(folder: Path, names: Path | None) -> Manifest:
    valid = next((folder / name for name in VALID if _annotated(folder / name)), None)
    if valid is None:
        raise InputError(f"{folder}: train/ and trainannot/, but no val/ and valannot/ beside them; part the images")
    if names is None:
        log.info("%s: no names.txt, so CamVid's names: %s", folder, ", ".join(CAMVID))
    classes = read_names(names) if names else tuple(CAMVID)
    return Manifest(folder, len(classes), classes, folder / "train", valid)


def _split_folder(folder: Path, images: Path, names: Path) -> Path:
    """The ``.data`` file of a folder without parts: a seeded share of its pictures validates."""
    found = [path for path in sorted(images.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    if len(found) < 2:
        raise InputError(f"{images}: {len(found)} pictures; at least two are needed, to train and to validate on")

    def convert(out: Path, note: str) -> str:
        train, valid = set_apart([path.name for path in found], SHARE, SEED)

        def write(build: Path) -> None:
            build.mkdir()
            for part, chosen in (("train", train), ("val", valid)):
                (build / f"{part}.txt").write_text(list_text(found[i] for i in chosen), encoding="utf-8")

        publish(out, write, read_names(names), f"{folder.resolve()} {note}")
        parts = f"{len(train)} pictures to train on, {len(valid)} to validate on"
        return f"pictures and their masks; {parts} (no parts, so {SHARE:.0%} by seed {SEED})"

    return kept(folder, [*found, names], convert, of="masks")
