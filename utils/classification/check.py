"""A set of classes looked at before it is trained on: counts, what is wrong, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.classification.dataset import ClassDataset
from utils.classification.event_check import check_gestures
from utils.classification.open_data import labels_of, read_set
from utils.classification.show import training_sheet
from utils.data.look_over import LookedAt, absent_classes, found_in, in_both, look_over, with_picture
from utils.data.manifest import Manifest, read_list
from utils.data.recordings import of_recordings
from utils.errors import InputError
from utils.reporting.class_bars import class_bars
from utils.reporting.dataset_report import DatasetReport, report_dataset
from utils.reporting.tables import plain_table

SIDE = 96  # px of an image on the sheet
UNEVEN = 10  # times as many images of one class as of another are worth a word

Splits = Mapping[str, Sequence[LookedAt]]


def check(data: Path) -> DatasetReport:
    """Look at every image of a set; pictures, all problems and a record go to ``runs/check-NAME``.

    Raises:
        InputError: the set or a list is missing or wrong, or an image tells no class.
    """
    manifest = read_set(data)
    if of_recordings(manifest):
        return check_gestures(data, manifest)
    splits = look_over(manifest, lambda path: with_picture(LookedAt(path=path)))
    labels = {
        split: labels_of(read_list(place), manifest, place)
        for split, place in (("train", manifest.train), ("valid", manifest.valid))
    }
    counts = {split: _counts(found, manifest.classes) for split, found in labels.items()}
    common = int(np.argmax(counts["train"]))
    share = counts["valid"][common] / len(labels["valid"])
    blind = f"without looking at a picture, answering each '{manifest.names[common]}': top-1 {share:.4f}"
    return report_dataset(
        data,
        (manifest.path, manifest.train, manifest.valid),
        tables(manifest, splits, counts),
        problems(manifest, splits, labels, counts),
        {"splits": {split: _numbers(splits, split) for split in splits}, "blind": {"top1": share}},
        blind,
        lambda folder: _draw(manifest, counts, folder),
    )


def problems(
    manifest: Manifest, splits: Splits, labels: Mapping[str, Sequence[int]], counts: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[str]]:
    """Errors and warnings."""
    errors, warnings = found_in(splits)
    warnings += _two_classes(manifest, splits, labels)
    warnings += absent_classes(manifest.names, counts, "image")
    there = [count for count in counts["train"] if count]
    if there and max(there) > UNEVEN * min(there):
        most, least = (manifest.names[list(counts["train"]).index(count)] for count in (max(there), min(there)))
        warnings.append(f"train: {max(there)} images of {most}, {min(there)} of {least}; per-class accuracy tells more")
    return list(dict.fromkeys(errors)), list(dict.fromkeys(warnings))


def _two_classes(manifest: Manifest, splits: Splits, labels: Mapping[str, Sequence[int]]) -> list[str]:
    """Pictures that are said to be of two classes."""
    first: dict[bytes, tuple[Path, int]] = {}
    found = []
    for split, items in splits.items():
        for seen, label in zip(items, labels[split], strict=True):
            path, known = first.setdefault(seen.pixels, (seen.path, label)) if seen.pixels else (seen.path, label)
            if known != label:
                names = f"{manifest.names[known]} and {manifest.names[label]}"
                found.append(f"{path}, {seen.path}: one picture, two classes, {names}")
    return found


def tables(manifest: Manifest, splits: Splits, counts: Mapping[str, Sequence[int]]) -> list[str]:
    """Counts of the splits, images of each class."""
    numbers = {split: _numbers(splits, split) for split in splits}
    rows = [["", *splits], *([key, *(f"{numbers[s][key]:,}" for s in splits)] for key in numbers["train"])]
    rows.append(["images, px (median)", *(_median(items) for items in splits.values())])
    classes = [["class", *(f"{split} images" for split in splits)]]
    classes += [[name, *(f"{counts[s][n]:,}" for s in splits)] for n, name in enumerate(manifest.names)]
    return [plain_table(manifest.path.name, rows), plain_table("classes", classes)]


def _numbers(splits: Splits, split: str) -> dict[str, int]:
    items = splits[split]
    return {
        "images": len(items),
        "images in the other list too": len(in_both(splits, split)),
        "unreadable images": sum(seen.shape is None for seen in items),
        "sizes": len({seen.shape for seen in items if seen.shape}),
    }


def _counts(labels: Sequence[int], classes: int) -> list[int]:
    counted = Counter(labels)
    return [counted[number] for number in range(classes)]


def _median(items: Sequence[LookedAt]) -> str:
    sizes = np.array([seen.shape[::-1] for seen in items if seen.shape], float).reshape(-1, 2)
    return "x".join(f"{value:.0f}" for value in np.median(sizes, axis=0)) if len(sizes) else "-"


def _draw(manifest: Manifest, counts: Mapping[str, Sequence[int]], folder: Path) -> list[Path]:
    bars = class_bars(manifest.names, counts, "Images of each class", "images", folder / "classes.png")
    try:
        dataset = ClassDataset(manifest.train, manifest, (SIDE, SIDE), cache="off", unreadable="replace")
        return [bars, training_sheet(folder / "samples.jpg", dataset, manifest.names)]
    except InputError:  # hardly an image can be read, which is told
        return [bars]
