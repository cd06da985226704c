"""DVS-Gesture as it is published: long recordings, of which a table of times cuts out gestures."""

from __future__ import annotations

import csv
from pathlib import Path

from utils.data.event_clips import Clip
from utils.data.manifest import Manifest, read_list
from utils.data.text import read_text
from utils.errors import InputError

TRIALS = ("trials_to_train.txt", "trials_to_test.txt")
GESTURES = (
    *("hand clapping", "right hand wave", "left hand wave", "right hand clockwise", "right hand counter clockwise"),
    *("left hand clockwise", "left hand counter clockwise", "forearm roll", "drums", "guitar", "other gestures"),
)  # in the order of their numbers, 1 to 11
COLUMNS = ("class", "startTime_usec", "endTime_usec")


def gesture_folder(folder: Path) -> Manifest | None:
    """DVS-Gesture as it is unpacked; None where it is something else. A mirrored gesture is another one."""
    if not all((folder / name).is_file() for name in TRIALS):
        return None
    train, valid = (folder / name for name in TRIALS)
    return Manifest(folder, len(GESTURES), GESTURES, train, valid, flip=0.0)


def table_of(recording: Path) -> Path:
    """The table of a recording's gestures: user01_led.aedat -> user01_led_labels.csv."""
    return recording.with_name(f"{recording.stem}_labels.csv")


def gestures_in(recording: Path, classes: int) -> list[tuple[Clip, int]]:
    """The gestures of a recording and the class of each, 0 for the first.

    Raises:
        InputError: the table is missing or damaged.
    """
    table = table_of(recording)
    found = []
    for number, row in enumerate(csv.DictReader(read_text(table).splitlines()), start=2):
        try:
            label, begin, end = (int(row[name]) for name in COLUMNS)
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{table}:{number}: not {', '.join(COLUMNS)} in whole numbers; copy it again") from None
        if not 1 <= label <= classes or begin >= end:
            raise InputError(f"{table}:{number}: class {label} from {begin} to {end} us is no gesture; correct it")
        found.append((Clip(recording, begin, end), label - 1))
    return found


def clips_in(images: Path, classes: int) -> list[tuple[Clip, int]] | None:
    """The gestures of a list of recordings; None where the first has no table."""
    paths = read_list(images)
    if not table_of(paths[0]).is_file():
        return None
    return [each for path in paths for each in gestures_in(path, classes)]
