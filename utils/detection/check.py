"""A set looked at before it is trained on: a table, what is wrong, and pictures to see whether the labels fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.data import transforms
from utils.data.images import UnreadableImageError, read_image, save_picture
from utils.data.look_over import SPLITS
from utils.data.manifest import Manifest
from utils.data.recordings import of_recordings
from utils.detection import augment as boxed
from utils.detection.dataset_stats import Seen, Survey, survey
from utils.detection.dvs_sample import prepare_if_dvs
from utils.detection.event_check import check_events
from utils.detection.open_data import read_manifest
from utils.detection.pictures import batch_mosaic
from utils.detection.sample import prepare_if_sample
from utils.detection.trivial_baseline import TrivialBaseline, trivial_baseline
from utils.reporting.dataset_report import DatasetReport, report_dataset
from utils.reporting.figures import save_figure
from utils.reporting.tables import plain_table

SMALL, LARGE = 32, 96  # px: COCO's limits, as sides of a square of the box's area
SHOWN, SIDE = 16, 416  # images on the sheet, and px of each
POINTS = 20_000  # dots in the picture of the boxes
COLOURS = {"train": "#2166ac", "valid": "#d6604d"}


def check(data: Path) -> DatasetReport:
    """Look at every image and label of a set; pictures, all problems and a record go to ``runs/check-NAME``.

    Raises:
        InputError: the ``.data`` file or a list is missing or wrong.
    """
    prepare_if_sample(data)
    prepare_if_dvs(data)
    manifest = read_manifest(data)
    if of_recordings(manifest):
        return check_events(data, manifest)
    found = survey(manifest)
    blind = baseline(found)
    trivial = (
        f"without looking at a picture, answering each with every class's mean training box: mAP@.5 {blind.map50:.4f}, "
        f"{blind.overlapped:.0%} of the boxes to validate on overlap it by more than half"
    )
    return report_dataset(
        data,
        (manifest.path, manifest.train, manifest.valid),
        tables(found),
        (found.errors, found.warnings),
        {"splits": {split: split_numbers(found, split) for split in SPLITS}, "blind": vars(blind)},
        trivial,
        lambda folder: draw(found, folder),
    )


def split_numbers(found: Survey, split: str) -> dict[str, int]:
    """The counts of one split, by name."""
    items, sides = found.splits[split], np.sqrt(found.sizes(split).prod(1))
    return {
        "images": len(items),
        "boxes": sum(len(seen.boxes) for seen in items),
        "images without boxes": sum(not len(seen.boxes) for seen in items),
        "images without label file": sum(not seen.labelled for seen in items),
        "images in the other list too": len(found.in_both(split)),
        "unreadable images": sum(seen.shape is None for seen in items),
        f"boxes under {SMALL}x{SMALL} px": int((sides < SMALL).sum()),
        f"boxes from {SMALL}x{SMALL} px": int(((sides >= SMALL) & (sides < LARGE)).sum()),
        f"boxes from {LARGE}x{LARGE} px": int((sides >= LARGE).sum()),
    }


def baseline(found: Survey) -> TrivialBaseline:
    """What boxes that never look reach on the validation images."""
    train, valid = ([seen.boxes for seen in found.splits[split]] for split in SPLITS)
    return trivial_baseline(train, valid, found.manifest.names)


def tables(found: Survey) -> list[str]:
    """Counts of the splits, sizes of images and boxes, boxes and images of each class."""
    numbers = {split: split_numbers(found, split) for split in SPLITS}
    rows = [["", *SPLITS], *([key, *(f"{numbers[s][key]:,}" for s in SPLITS)] for key in numbers["train"])]
    rows.append(
        [
            "images, px (median)",
            *(_median([seen.shape[::-1] for seen in found.splits[s] if seen.shape]) for s in SPLITS),
        ]
    )
    rows.append(["boxes, px (median)", *(_median(found.sizes(s)) for s in SPLITS)])
    classes = [["class", *(f"{split} {kind}" for split in SPLITS for kind in ("boxes", "images"))]]
    counts = {split: (found.count(split), _images(found.splits[split])) for split in SPLITS}
    for number, name in enumerate(found.manifest.names):
        classes.append([name, *(f"{kind.get(number, 0):,}" for split in SPLITS for kind in counts[split])])
    return [plain_table(found.manifest.path.name, rows), plain_table("classes", classes)]


def _images(items: Sequence[Seen]) -> dict[int, int]:
    """How many images show each class."""
    found: dict[int, int] = {}
    for seen in items:
        for label in np.unique(seen.boxes[:, 0]).astype(int).tolist():
            found[label] = found.get(label, 0) + 1
    return found


def _median(sizes: Any) -> str:
    values = np.asarray(sizes, dtype=float).reshape(-1, 2)
    return "x".join(f"{value:.0f}" for value in np.median(values, axis=0)) if len(values) else "-"


def draw(found: Survey, folder: Path) -> list[Path]:
    """classes.png, boxes.png, and samples.jpg where an image can be read."""
    paths = [_classes(found, folder / "classes.png"), _boxes(found, folder / "boxes.png")]
    return paths + _samples(found, folder / "samples.jpg")


def _classes(found: Survey, path: Path) -> Path:
    """Boxes of each class, in both splits."""
    names = found.manifest.names
    figure, axis = _figure(max(6.0, 0.3 * len(names) + 2), 4.5)
    places = np.arange(len(names))
    for i, split in enumerate(SPLITS):
        counts = found.count(split)
        heights = [counts[number] for number in range(len(names))]
        label = f"{split}, {sum(heights):,} boxes"
        axis.bar(places + 0.4 * (i - 0.5), heights, 0.4, color=COLOURS[split], label=label)
    axis.set_xticks(places, names, rotation=90 if len(names) > 6 else 0, fontsize=8 if len(names) > 20 else 10)
    axis.set_yscale("symlog", linthresh=10)
    axis.set(title="Boxes of each class", ylabel="boxes", xlim=(-0.8, len(names) - 0.2))
    axis.legend(frameon=False)
    return save_figure(figure, path)


def _boxes(found: Survey, path: Path) -> Path:
    """Width against height of the boxes, px of the original images."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axis = _figure(6.5, 6.0)
    rng = np.random.Generator(np.random.PCG64(0))
    for split in SPLITS:
        sizes = found.sizes(split)
        shown = sizes[rng.permutation(len(sizes))[:POINTS]]
        axis.scatter(*shown.T, s=6, alpha=0.35, linewidths=0, color=COLOURS[split], label=f"{split}, {len(sizes):,}")
    edges = np.array(axis.get_xlim() + axis.get_ylim()).clip(1)
    line = np.geomspace(max(1.0, edges.min()), max(2.0, edges.max()), 50)
    for side in (SMALL, LARGE):
        axis.plot(line, side**2 / line, color="0.5", linewidth=0.8, linestyle="--")
    limits = (max(0.5, line[0]), line[-1] * 1.1)
    axis.set(title="Sizes of the boxes", xlabel="width, px", ylabel="height, px", xscale="log", yscale="log")
    axis.set(xlim=limits, ylim=limits, aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(LogLocator(base=2, numticks=12))
        side.set_major_formatter("{x:g}")
        side.set_minor_locator(NullLocator())
    for marker in axis.legend(frameon=False, title=f"dashed: {SMALL}x{SMALL}, {LARGE}x{LARGE} px").legend_handles:
        marker.set(alpha=1, sizes=[24])
    return save_figure(figure, path)


def _samples(found: Survey, path: Path) -> list[Path]:
    """A sheet of labelled training images, a random choice, those with objects first."""
    good = [seen for seen in found.splits["train"] if seen.shape]
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(good)).tolist()
    chosen = sorted(order, key=lambda i: not len(good[i].boxes))[:SHOWN]
    images: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for number in chosen:
        try:
            image, rows = _letterboxed(good[number])
        except UnreadableImageError:  # gone since it was looked at
            continue
        targets.append(np.insert(rows, 0, len(images), axis=1))
        images.append(image)
    if not images:
        return []
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    save_picture(path, batch_mosaic(batch, torch.from_numpy(np.concatenate(targets)).float(), _short(found.manifest)))
    return [path]


def _letterboxed(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    image = read_image(seen.path)
    box = transforms.fit((image.shape[0], image.shape[1]), (SIDE, SIDE))
    corners = boxed.place(boxed.to_corners(seen.boxes), box.scaled, box.pad)
    return transforms.letterbox(image, box), boxed.to_shares(corners, box.size)


def _short(manifest: Manifest) -> list[str]:
    return [name[:24] for name in manifest.names]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
