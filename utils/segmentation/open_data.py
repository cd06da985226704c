"""What ``--data`` may name for masks: pictures, and a picture of class numbers for each.

    mine/images/train/1.jpg   mine/masks/train/1.png        and mine/names.txt, a class a line

or a ``.data`` file, whose ``labels`` is the folder of masks. A mask
is a PNG of grey numbers or of a palette; a number that is no class is what the cfg says to ignore, or 255.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from utils.data.manifest import Manifest, open_place, read_names
from utils.errors import InputError
from utils.segmentation.sample import NAME, prepare_sample

NAMES = ("names.txt", "classes.txt")
VALID = ("val", "valid", "test")
IMAGES, MASKS = ("images", "JPEGImages"), ("masks", "SegmentationClass")  # a folder of the one, of the other
IGNORED = 255  # the border of a fitted picture, and Pascal VOC's contours


def open_data(place: Path | str) -> Manifest:
    """Read a folder or a ``.data`` file.

    Raises:
        InputError: something in it is missing or contradicts itself; the message says what and the remedy.
    """
    return open_place(place, _folder, "images/, masks/ and names.txt", NAME, prepare_sample)


def mask_path(image: Path, manifest: Manifest) -> Path:
    """The mask of an image, whether it is there or not: in the folder of masks, or where ``images`` is ``masks``."""
    if manifest.labels is not None:
        below = manifest.labels / image.parent.name / f"{image.stem}.png"
        return below if below.parent.is_dir() else manifest.labels / f"{image.stem}.png"
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
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "1"):
                raise InputError(
                    f"{path}: a mask of mode {picture.mode}; save it as a PNG of grey class numbers, or with a palette"
                )
            return np.array(picture, np.uint8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such mask; put one there, or take its image from the list") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: a corrupt mask ({error}); replace it, or take its image from the list") from None


def _folder(folder: Path) -> Manifest:
    images = next((folder / name for name in IMAGES if (folder / name).is_dir()), None)
    names = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if images is None or names is None:
        raise InputError(
            f"{folder}: masks are read of images/, masks/ and names.txt (a class a line); make them, or a .data file"
        )
    classes = read_names(names)
    valid = next((images / name for name in VALID if (images / name).is_dir()), None)
    if not (images / "train").is_dir() or valid is None:
        raise InputError(f"{images}: no train/ and val/ in it; part the images, and the masks alike")
    return Manifest(folder, len(classes), classes, images / "train", valid)
