"""A set of recordings with classes looked at before it is trained on: counts, what is wrong, a sheet of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.classification.recordings import EventDataset, clips_of
from utils.classification.show import training_sheet
from utils.data.event_frames import FrameRule
from utils.data.event_look import LookedAtRecording, largest, recording_rows, with_recording
from utils.data.look_over import absent_classes, found_in, in_both, look_over
from utils.data.manifest import Manifest
from utils.errors import InputError
from utils.reporting.class_bars import class_bars
from utils.reporting.dataset_report import DatasetReport, report_dataset
from utils.reporting.tables import plain_table

SHEET = FrameRule(3, frame="count")  # how the sheet shows them

Splits = Mapping[str, Sequence[LookedAtRecording]]
Counts = Mapping[str, Sequence[int]]


def check_gestures(data: Path, manifest: Manifest) -> DatasetReport:
    """Look at every recording of a set; the report goes to ``runs/check-NAME``.

    Raises:
        InputError: a list is missing or wrong, or a recording tells no class.
    """
    splits = look_over(manifest, lambda path: with_recording(LookedAtRecording(path=path)))
    counts: dict[str, list[int]] = {}
    for split, place in (("train", manifest.train), ("valid", manifest.valid)):
        labels = clips_of(place, manifest)[1]
        counts[split] = [labels.count(number) for number in range(manifest.classes)]
    common = max(range(manifest.classes), key=counts["train"].__getitem__)
    share = counts["valid"][common] / max(1, sum(counts["valid"]))
    errors, warnings = found_in(splits)
    warnings += absent_classes(manifest.names, counts, "recording")
    return report_dataset(
        data,
        (manifest.path, manifest.train, manifest.valid),
        tables(manifest, splits, counts),
        (list(dict.fromkeys(errors)), list(dict.fromkeys(warnings))),
        {"splits": {split: {"recordings": len(items)} for split, items in splits.items()}, "blind": {"top1": share}},
        f"without looking at an event, answering each '{manifest.names[common]}': top-1 {share:.4f}",
        lambda folder: _draw(manifest, splits, counts, folder),
    )


def tables(manifest: Manifest, splits: Splits, counts: Counts) -> list[str]:
    """Recordings of the splits, how many there are of each class."""
    rows = recording_rows(splits)
    rows.append(["recordings in the other list too", *(f"{len(in_both(splits, s)):,}" for s in splits)])
    classes = [["class", *(f"{split} samples" for split in splits)]]
    classes += [[name, *(f"{counts[s][n]:,}" for s in splits)] for n, name in enumerate(manifest.names)]
    return [plain_table(manifest.path.name, rows), plain_table("classes", classes)]


def _draw(manifest: Manifest, splits: Splits, counts: Counts, folder: Path) -> list[Path]:
    bars = class_bars(manifest.names, counts, "Samples of each class", "samples", folder / "classes.png")
    try:
        dataset = EventDataset(manifest.train, manifest, largest(splits), frames=SHEET, cache="off")
        return [bars, training_sheet(folder / "samples.jpg", dataset, manifest.names)]
    except InputError:  # a recording is damaged, which is told
        return [bars]
