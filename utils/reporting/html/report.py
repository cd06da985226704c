"""``report.html``: what compress.py did, on one page that can be sent on; written from the files of its run alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.files import write_text
from utils.reporting.facts import Column, Described, TaskFacts
from utils.reporting.html import sections
from utils.reporting.html.hardware import hardware
from utils.reporting.html.page import whole_page
from utils.reporting.record import Record, read_record
from utils.reporting.results import read_rows
from utils.reporting.tables import COSTS

NAME = "report.html"
TABLES = ("epochs", "gammas", "channels", "layers", "hardware")  # csv files beside the record, as the task's own are


@dataclass(frozen=True)
class ReportPage:
    """What a page is made from: a record, its task, tables beside it (none: empty), pictures by row and heading."""

    record: Record
    task: TaskFacts
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pictures: list[dict[str, Path]] = field(default_factory=list)


def write_report(folder: Path | str, task: Described | None = None) -> Path:
    """Write ``report.html`` into the folder of a finished compress.py run.

    ``task`` is that of a record which does not carry it.

    Raises:
        InputError: there is no record, or the folder cannot be written.
    """
    report = load(Path(folder), task)
    return write_text(report.record.folder / NAME, render(report))


def load(folder: Path, task: Described | None = None) -> ReportPage:
    """Read a run's record and whatever of its tables and pictures is there.

    Pictures lie in a folder that is called as the task says, as <row>-<column>-<heading>.jpg.

    Raises:
        InputError: there is no record.
    """
    record = read_record(folder)
    facts = record.task or (TaskFacts.of(task) if task else _guessed(record))
    names = [*TABLES, *(chart.table for chart in facts.charts)]
    tables = {name: read_rows(folder / f"{name}.csv") for name in names}
    rows: dict[str, dict[str, Path]] = {}
    for path in sorted((folder / facts.pictures).glob("*-*-*.jpg")):
        row, _, heading = path.stem.split("-", 2)
        rows.setdefault(row, {})[heading.replace("_", " ")] = path
    return ReportPage(record, facts, tables, list(rows.values()))


def _guessed(record: Record) -> TaskFacts:
    """What the numbers of a record that carries no task are: those of its stages that are no costs."""
    first = next(iter(record.metrics["stages"].values()))
    names = [name for name, value in first.items() if name not in COSTS and isinstance(value, int | float)]
    columns = tuple(Column(name, name, name) for name in names)
    return TaskFacts("unknown", names[min(1, len(names) - 1)], names[0], columns)


def render(report: ReportPage) -> str:
    """The page, complete in itself: style, charts and pictures are inside it."""
    record, tables, task = report.record, report.tables, report.task
    parts = [
        sections.headline(record, task),
        sections.stages(record, task),
        sections.decided(record, task),
        sections.pictures(report.pictures, task),
        sections.quality(tables, task),
        sections.cut(tables),
        sections.integers(tables),
        hardware(record.metrics.get("hardware"), tables.get("hardware", [])),
        sections.training(tables, task),
        sections.reproduce(record),
    ]
    return whole_page(sections.title(record), "\n".join(parts))
