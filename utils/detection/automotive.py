"""Folders of Prophesee's automotive recordings, Gen1 and 1 Mpx: train/, val/ and test/ of _td.dat and _bbox.npy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.data.folders import files_of_set, is_recording
from utils.data.manifest import Manifest, read_names
from utils.data.prophesee import boxes_path
from utils.data.recordings import open_recording
from utils.errors import InputError

HALF_SECOND = 500_000.0  # us at the beginning of a recording that do not count


@dataclass(frozen=True)
class Automotive:
    """One of the data sets: its name, its classes by number, the least diagonal and side of a box that counts, px.

    Source: de Tournemire et al., arXiv 2001.08499, for the first; Perot et al., NeurIPS 2020, for the second. The least
    side is that of the evaluation which came with them.
    """

    called: str
    names: tuple[str, ...]
    diagonal: float
    side: float


KNOWN = {  # by the sensor's (height, width), px
    (240, 304): Automotive("Gen1", ("car", "pedestrian"), 30.0, 10.0),
    (720, 1280): Automotive(
        "1 Mpx", ("pedestrian", "two wheeler", "car", "truck", "bus", "traffic sign", "traffic light"), 60.0, 20.0
    ),
}


def recordings_folder(folder: Path) -> tuple[Manifest, str] | None:
    """A folder of recordings with boxes, and in words what it is; None where it is of something else.

    Raises:
        InputError: it has no part to train or to validate on, or nothing tells its classes.
    """
    folder = folder.absolute()
    parts = {name: folder / name for name in ("train", "val", "valid", "test") if _labelled(folder / name)}
    if not parts:
        return None
    valid = [parts[name] for name in ("val", "valid", "test") if name in parts]
    if "train" not in parts or not valid:
        raise InputError(
            f"{folder}: recordings with boxes in {', '.join(parts)} alone; train/ and val/ (or test/) are needed"
        )
    names = next(iter(sorted(folder.glob("*.names"))), None)
    size = open_recording(_labelled(parts["train"])[0]).size
    known = KNOWN.get(size) if size else None
    if names is None and known is None:
        shown = f"{size[1]}x{size[0]} px" if size else "a sensor of unknown size"
        raise InputError(f"{folder}: recordings of {shown}, whose classes are not known; put a .names file into it")
    classes = read_names(names) if names else known.names if known else ()
    manifest = Manifest(folder, len(classes), classes, parts["train"], valid[0])
    if known is None:
        return manifest, "recordings of events with boxes"
    manifest = replace(manifest, diagonal=known.diagonal, side=known.side, skip=HALF_SECOND)
    return manifest, f"Prophesee's automotive recordings ({known.called})"


def _labelled(part: Path) -> Sequence[Path]:
    """The recordings of a folder that have boxes."""
    if not part.is_dir():
        return []
    found = sorted(path for path in part.rglob("*") if is_recording(path))
    return [path for path in found if boxes_path(path).is_file()]


def refuse_unlabelled(folder: Path) -> None:
    """Say of a folder of recordings, which nothing else was recognised in, what it lacks.

    Raises:
        InputError: it holds recordings, and no more images than may lie beside them.
    """
    found = [path for path in files_of_set(folder) if is_recording(path)]
    if found:
        raise InputError(
            f"{folder}: holds {len(found)} recordings of events ({found[0].name}), without boxes (NAME_bbox.npy) in "
            "train/ and val/, and without train/CLASS/ and test/CLASS/; see docs/how-to/events.md"
        )
