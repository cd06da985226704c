"""What lies in a folder of runs, read anew only where it changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.reporting.record import FILE, Record, read_record
from utils.reporting.results import read_rows

LIVE = 300  # seconds since it last wrote, after which a run that is not finished looks as if it were cut
CLOCK = 15  # seconds after which a page that tells ages is another one
TABLES = ("results.csv", "points.csv", "trials.csv")
PICTURES = (".png", ".jpg", ".svg")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunView:
    """A run as pages show it; of one whose record cannot be read the reason stands in ``error``."""

    folder: Path
    touched: float
    record: Record | None
    rows: tuple[Row, ...] = ()
    error: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def started(self) -> float:
        """When it began; of one without record, when it last wrote."""
        return self.record.started if self.record else self.touched

    @property
    def state(self) -> str:
        """``finished``, ``live``, ``cut`` (not finished, and silent for minutes), ``broken``."""
        if self.record is None:
            return "broken"
        if self.record.finished:
            return "finished"
        return "live" if time.time() - self.touched < LIVE else "cut"

    @property
    def pictures(self) -> list[Path]:
        """Those that lie in its folder, curves first."""
        found = sorted(path for path in self.folder.iterdir() if path.suffix in PICTURES)
        return sorted(found, key=lambda path: path.suffix != ".png")


@dataclass(frozen=True)
class Spot:
    """A network that a run measured: what it costs and what it scores."""

    run: str
    script: str
    moment: str
    size: float
    score: float
    heading: str

    @property
    def label(self) -> str:
        """Run and moment in it."""
        return f"{self.run}, {self.moment}" if self.moment else self.run


def read_runs(place: Path) -> list[RunView]:
    """All runs, the newest first."""
    return sorted((_run(path) for path in _records(place)), key=lambda run: -run.started)


def stamp(place: Path) -> str:
    """Another text whenever a file of some run is another one; four times a minute while one is written."""
    newest, count = 0, 0
    for path in _records(place):
        for entry in os.scandir(path.parent):
            newest, count = max(newest, entry.stat().st_mtime_ns), count + 1
    age = time.time() - newest / 1e9
    return f"{newest:x}-{count:x}-{min(age, LIVE + CLOCK) // CLOCK:.0f}"


def spots(runs: list[RunView]) -> list[Spot]:
    """Every network that a finished run measured, with its file's size."""
    found = []
    for run in runs:
        if run.record and run.record.finished and run.record.task:
            headline, heading = run.record.task.headline, run.record.task.score.heading
            for moment, numbers in moments(run.record):
                size, score = numbers.get("bytes"), numbers.get(headline)
                if isinstance(size, int | float) and size and isinstance(score, int | float):
                    found.append(Spot(run.name, run.record.script, moment, size, score, heading))
    return found


def moments(record: Record) -> list[tuple[str, Row]]:
    """(name, metrics) of what a record measured: the run itself, or before, after, each stage of a chain."""
    if record.task is None:
        return []
    headline = record.task.headline
    if headline in record.metrics:
        return [("", record.metrics)]
    inner = record.metrics.get("stages") or record.metrics
    return [(name, row) for name, row in inner.items() if isinstance(row, dict) and headline in row]


def _records(place: Path) -> Iterator[Path]:
    return place.glob(f"*/{FILE}")


def _run(path: Path) -> RunView:
    stamps = tuple(_stamp(path.parent / name) for name in (FILE, *TABLES))
    record, rows, error = _read(path.parent, stamps)
    touched = max(entry.stat().st_mtime for entry in os.scandir(path.parent))
    return RunView(path.parent, touched, record, rows, error)


@lru_cache(maxsize=4096)
def _read(folder: Path, stamps: tuple[tuple[int, int], ...]) -> tuple[Record | None, tuple[Row, ...], str]:
    """What a run's files say; ``stamps`` are theirs, so that it is read once."""
    try:
        record, error = read_record(folder), ""
    except InputError as wrong:
        record, error = None, str(wrong)
    found = next((rows for name in TABLES if (rows := read_rows(folder / name))), [])
    return record, tuple(found), error


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
