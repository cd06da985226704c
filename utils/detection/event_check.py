"""A set of recordings with boxes looked at before it is trained on: what is there, what counts, what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from utils.data.event_clips import Clip
from utils.data.event_frames import picture
from utils.data.event_look import LookedAtRecording, recording_rows, with_recording
from utils.data.events import counted
from utils.data.look_over import absent_classes, found_in, in_both, look_over
from utils.data.manifest import Manifest
from utils.data.pictures import save_square, spread
from utils.data.prophesee import boxes_path, read_boxes
from utils.detection.pictures import draw_boxes
from utils.detection.recordings import Labelled, labelled
from utils.errors import InputError
from utils.reporting.class_bars import class_bars
from utils.reporting.dataset_report import DatasetReport, report_dataset
from utils.reporting.tables import plain_table

SHOWN, BEFORE = 9, 50_000  # moments on the sheet, and us of events before each
NOTHING = Labelled([], [], 0, 0)


@dataclass(kw_only=True)
class LabelledRecording(LookedAtRecording):
    """``rows`` are all boxes of its file, ``moments`` those that count."""

    rows: int = 0
    moments: Labelled = NOTHING


Splits = Mapping[str, Sequence[LabelledRecording]]


def check_events(data: Path, manifest: Manifest) -> DatasetReport:
    """Look at every recording of a set and its boxes; the report goes to ``runs/check-NAME``.

    Raises:
        InputError: a list is missing or wrong.
    """

    def look(path: Path) -> LabelledRecording:
        seen = LabelledRecording(path=path)
        with_recording(seen)
        return seen if seen.errors else _with_boxes(seen, manifest)

    splits = look_over(manifest, look)
    counts = {split: _counts(items, manifest.classes) for split, items in splits.items()}
    said = (
        f"boxes count from a diagonal of {manifest.diagonal:g} px and a side of {manifest.side:g} px on, after the "
        f"first {manifest.skip / 1e6:g} s"
        if manifest.skip or manifest.diagonal or manifest.side
        else "every box counts"
    )
    return report_dataset(
        data,
        (manifest.path, manifest.train, manifest.valid),
        tables(manifest, splits, counts),
        problems(manifest, splits, counts),
        {"splits": {split: _numbers(items) for split, items in splits.items()}},
        said,
        lambda folder: _draw(manifest, splits, counts, folder),
    )


def _with_boxes(seen: LabelledRecording, manifest: Manifest) -> LabelledRecording:
    try:
        rows = read_boxes(boxes_path(seen.path))
        seen.moments = labelled(seen.path, manifest, 0)
    except InputError as error:
        seen.errors.append(str(error))
        return seen
    seen.rows = len(rows)
    if len(rows) and seen.shape:
        high, wide = seen.shape
        x, y, w, h = (rows[name].astype(np.float64) for name in ("x", "y", "w", "h"))
        outside = (x >= wide) | (y >= high) | (x + w <= 0) | (y + h <= 0)
        if outside.any():
            seen.warnings.append(f"{boxes_path(seen.path)}: {int(outside.sum())} boxes are outside of the sensor")
        if (flat := int((np.minimum(w, h) <= 0).sum())) > 0:
            seen.warnings.append(f"{boxes_path(seen.path)}: {flat} boxes without area")
    return seen


def problems(manifest: Manifest, splits: Splits, counts: Mapping[str, Sequence[int]]) -> tuple[list[str], list[str]]:
    """Errors and warnings."""
    errors, warnings = found_in(splits)
    for split, items in splits.items():
        if not any(seen.moments.clips for seen in items):
            errors.append(
                f"{split}: not one box counts in {len(items)} recordings; there is nothing to learn or to measure"
            )
    warnings += absent_classes(manifest.names, counts, "box that counts")
    return list(dict.fromkeys(errors)), list(dict.fromkeys(warnings))


def tables(manifest: Manifest, splits: Splits, counts: Mapping[str, Sequence[int]]) -> list[str]:
    """Recordings and boxes of the splits, boxes of each class that count."""
    rows = recording_rows(splits)
    numbers = {split: _numbers(items) for split, items in splits.items()}
    rows += [[key, *(f"{numbers[s][key]:,}" for s in splits)] for key in next(iter(numbers.values()))]
    rows.append(["recordings in the other list too", *(f"{len(in_both(splits, s)):,}" for s in splits)])
    classes = [["class", *(f"{split} boxes" for split in splits)]]
    classes += [[name, *(f"{counts[s][n]:,}" for s in splits)] for n, name in enumerate(manifest.names)]
    return [plain_table(manifest.path.name, rows), plain_table("classes", classes)]


def _numbers(items: Sequence[LabelledRecording]) -> dict[str, int]:
    return {
        "boxes": sum(seen.rows for seen in items),
        "moments with boxes that count": sum(len(seen.moments.clips) for seen in items),
        "boxes that are too early": sum(seen.moments.early for seen in items),
        "boxes that are too small": sum(seen.moments.small for seen in items),
    }


def _counts(items: Sequence[LabelledRecording], classes: int) -> list[int]:
    found = Counter(int(row[0]) for seen in items for rows in seen.moments.boxes for row in rows)
    return [found[number] for number in range(classes)]


def _draw(manifest: Manifest, splits: Splits, counts: Mapping[str, Sequence[int]], folder: Path) -> list[Path]:
    bars = class_bars(manifest.names, counts, "Boxes of each class that count", "boxes", folder / "classes.png")
    moments = [
        (clip, rows, seen.shape)
        for seen in splits["train"]
        for clip, rows in zip(seen.moments.clips, seen.moments.boxes, strict=True)
        if seen.shape
    ]
    cells = [_shown(*moments[i], manifest.names) for i in spread(len(moments), SHOWN)]
    return [bars, save_square(folder / "samples.jpg", cells)] if cells else [bars]


def _shown(clip: Clip, rows: NDArray[np.float32], shape: tuple[int, int], names: Sequence[str]) -> NDArray[np.uint8]:
    """The events just before a moment, and its boxes."""
    end = clip.end or 0
    events = Clip(clip.path, max(0, end - BEFORE), end).events()
    boxes = np.concatenate([rows[:, 1:], np.full((len(rows), 1), np.nan, np.float32), rows[:, :1]], 1)
    return draw_boxes(torch.from_numpy(picture(counted(events, shape)[None])), torch.from_numpy(boxes), names)
