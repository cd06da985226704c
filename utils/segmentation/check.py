"""A set of masks looked at before it is trained on: counts, what is wrong, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.data.look_over import LookedAt, absent_classes, few, found_in, in_both, look_over, with_picture
from utils.data.manifest import Manifest
from utils.data.overlaps import shared
from utils.errors import InputError
from utils.reporting.class_bars import class_bars
from utils.reporting.dataset_report import DatasetReport, report_dataset
from utils.reporting.tables import plain_table
from utils.segmentation.dataset import MaskDataset
from utils.segmentation.open_data import IGNORED, mask_path, read_mask, read_set
from utils.segmentation.show import training_sheet

SIDE = 256  # px of an image on the sheet


@dataclass(kw_only=True)
class SeenMask(LookedAt):
    """An image with what its mask says: int64 [256] px of each number."""

    pixels_of: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))


Splits = Mapping[str, Sequence[SeenMask]]


def check(data: Path) -> DatasetReport:
    """Look at every image and mask of a set; pictures, all problems and a record go to ``runs/check-NAME``.

    Raises:
        InputError: the set or a list is missing or wrong.
    """
    manifest = read_set(data)
    splits = look_over(manifest, lambda path: _with_mask(with_picture(SeenMask(path=path)), manifest))
    pixels = {split: np.sum([seen.pixels_of for seen in items], axis=0) for split, items in splits.items()}
    common = int(np.argmax(pixels["train"][: manifest.classes]))
    known = pixels["valid"][: manifest.classes]
    share = float(known[common] / max(1, known.sum()))
    miou = share / max(1, int((known > 0).sum()))  # every other class that is there has an IoU of 0
    blind = (
        f"without looking at a picture, answering every pixel '{manifest.names[common]}': mIoU {miou:.4f}, "
        f"pixel accuracy {share:.4f}"
    )
    return report_dataset(
        data,
        (manifest.path, manifest.train, manifest.valid),
        tables(manifest, splits, pixels),
        problems(manifest, splits, pixels),
        {"splits": {s: _numbers(manifest, splits, s) for s in splits}, "blind": {"miou": miou, "accuracy": share}},
        blind,
        lambda folder: _draw(manifest, pixels, folder),
    )


def _with_mask(seen: SeenMask, manifest: Manifest) -> SeenMask:
    """The numbers of the image's mask, and what is wrong with it."""
    path = mask_path(seen.path, manifest)
    try:
        mask = read_mask(path)
    except InputError as error:
        seen.errors.append(str(error))
        return seen
    seen.pixels_of = np.bincount(mask.ravel(), minlength=256)
    if seen.shape and mask.shape != seen.shape:
        seen.errors.append(
            f"{path}: a mask of {mask.shape[0]}x{mask.shape[1]} px for an image of {seen.shape[0]}x{seen.shape[1]}; "
            "save it at the image's size"
        )
    elif not seen.pixels_of[: manifest.classes].any():
        seen.warnings.append(f"{path}: not one pixel of a class")
    return seen


def problems(manifest: Manifest, splits: Splits, pixels: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Errors and warnings."""
    every = [seen for items in splits.values() for seen in items]
    errors, warnings = found_in(splits)
    for mask, users in shared([seen.path for seen in every], manifest, mask_path).items():
        errors.append(f"{mask}: the mask of {len(users)} pictures, {few([str(path) for path in users])}")
    turned = [seen.path for seen in every if seen.turn != 1]
    warnings += [f"{path}: EXIF turns it; its mask must be of the picture as shown" for path in turned]
    absent, total = absent_classes(manifest.names, pixels, "pixel"), np.sum([*pixels.values()], axis=0)
    warnings += absent
    if absent and total[IGNORED]:
        warnings.append(f"{total[IGNORED]:,} pixels are {IGNORED} and do not count; masks of 0 and 255 want 0 and 1")
    strange = (np.flatnonzero(total[manifest.classes : IGNORED]) + manifest.classes).tolist()
    for number in strange:
        first = next(mask_path(seen.path, manifest) for seen in every if seen.pixels_of[number])
        fact = f"{total[number]:,} pixels are {number}, which is no class, first in {first}; "
        if len(strange) == 1:
            warnings.append(f"{fact}only a cfg with [segment] ignore={number} takes that")
        else:  # a cfg ignores one number, and 255
            errors.append(f"{fact}name it in the file of names, or make it 255")
    return list(dict.fromkeys(errors)), list(dict.fromkeys(warnings))


def tables(manifest: Manifest, splits: Splits, pixels: Mapping[str, np.ndarray]) -> list[str]:
    """Counts of the splits, each class's share of the pixels and how many images show it."""
    numbers = {split: _numbers(manifest, splits, split) for split in splits}
    rows = [["", *splits], *([key, *(f"{numbers[s][key]:,}" for s in splits)] for key in numbers["train"])]
    classes = [["class", *(f"{split} {kind}" for split in splits for kind in ("pixels", "images"))]]
    for number, name in enumerate(manifest.names):
        row = [name]
        for split, items in splits.items():
            all_of_them = max(1, int(pixels[split][: manifest.classes].sum()))
            row += [f"{pixels[split][number] / all_of_them:.2%}", f"{sum(bool(s.pixels_of[number]) for s in items):,}"]
        classes.append(row)
    return [plain_table(manifest.path.name, rows), plain_table("classes", classes)]


def _numbers(manifest: Manifest, splits: Splits, split: str) -> dict[str, int]:
    items = splits[split]
    return {
        "images": len(items),
        "images in the other list too": len(in_both(splits, split)),
        "unreadable images": sum(seen.shape is None for seen in items),
        "images without a mask that fits": sum(bool(seen.errors) for seen in items),
        "pixels of no class": int(sum(seen.pixels_of[manifest.classes :].sum() for seen in items)),
    }


def _draw(manifest: Manifest, pixels: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
    known = {split: counts[: manifest.classes] for split, counts in pixels.items()}
    shares = {split: (100 * counts / max(1, counts.sum())).tolist() for split, counts in known.items()}
    bars = class_bars(manifest.names, shares, "Pixels of each class", "% of the pixels", folder / "classes.png")
    try:
        dataset = MaskDataset(manifest.train, manifest, (SIDE, SIDE), cache="off", unreadable="replace")
        return [bars, training_sheet(folder / "samples.jpg", dataset, manifest.names)]
    except InputError:  # masks that do not fit, which is told
        return [bars]
