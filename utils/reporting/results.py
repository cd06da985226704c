"""results.csv: one row an epoch, columns by name, written whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import write_text


def write_rows(path: Path | str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows under the columns that any of them has, in the order they first appear; None is an empty cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """What ``write_rows`` wrote: numbers as numbers, empty cells as None; no rows when there is no file."""
    if not Path(path).is_file():
        return []
    with Path(path).open(newline="", encoding="utf-8") as stream:
        return [{key: _value(cell) for key, cell in row.items()} for row in csv.DictReader(stream)]


def _value(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
