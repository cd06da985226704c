"""``report.html``: what compress.py did, on one page that can be sent on; written from the files of its run alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.files import write_text
from utils.reporting.html import sections
from utils.reporting.record import Record, read_record
from utils.reporting.results import read_rows

NAME = "report.html"
TABLES = ("epochs", "gammas", "channels", "layers", "pr_curves", "classes")  # csv files beside the record
PICTURES = "detections"  # folder of pictures named <row>-<column>-<heading>.jpg

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class ReportPage:
    """What a page is made from: a record, the tables beside it (none: empty), pictures by row and heading."""

    record: Record
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pictures: list[dict[str, Path]] = field(default_factory=list)


def write_report(folder: Path | str) -> Path:
    """Write ``report.html`` into the folder of a finished compress.py run.

    Raises:
        InputError: there is no record, or the folder cannot be written.
    """
    report = load(Path(folder))
    return write_text(report.record.folder / NAME, render(report))


def load(folder: Path) -> ReportPage:
    """Read a run's record and whatever of its tables and pictures is there.

    Raises:
        InputError: there is no record.
    """
    tables = {name: read_rows(folder / f"{name}.csv") for name in TABLES}
    rows: dict[str, dict[str, Path]] = {}
    for path in sorted((folder / PICTURES).glob("*-*-*.jpg")):
        row, _, heading = path.stem.split("-", 2)
        rows.setdefault(row, {})[heading.replace("_", " ")] = path
    return ReportPage(read_record(folder), tables, list(rows.values()))


def render(report: ReportPage) -> str:
    """The page, complete in itself: style, charts and pictures are inside it."""
    record, tables = report.record, report.tables
    parts = [
        sections.headline(record),
        sections.stages(record),
        sections.pictures(report.pictures),
        sections.quality(tables),
        sections.cut(tables),
        sections.integers(tables),
        sections.training(tables),
        sections.reproduce(record),
    ]
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return PAGE.format(title=sections.title(record), style=style, body="\n".join(parts))
