"""results.csv: one row an epoch, columns by name, written whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import write_text

QUOTE = "'"
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_rows(path: Path | str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows under the columns that any of them has, in the order they first appear; None is an empty cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({column: plain(column) for column in columns})
    writer.writerows({key: plain(value) for key, value in row.items()} for row in rows)
    return write_text(path, text.getvalue())


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """What ``write_rows`` wrote: numbers as numbers, empty cells as None; no rows when there is no file."""
    if not Path(path).is_file():
        return []
    with Path(path).open(newline="", encoding="utf-8") as stream:
        return [{unquoted(key): _value(cell) for key, cell in row.items()} for row in csv.DictReader(stream)]


def plain(cell: Any) -> Any:
    """A cell that a spreadsheet takes for a text, though it begins as a formula: a class may be called ``=1+1``."""
    return f"{QUOTE}{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def unquoted(cell: str) -> str:
    """The inverse of ``plain``."""
    return cell[1:] if cell.startswith(tuple(QUOTE + sign for sign in FORMULA)) else cell


def _value(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return unquoted(cell) or None
