"""The results of a sweep as one SQLite file: a row a point, and every number of every stage of it.

sqlite3 runs/sweep/results.sqlite "select percent, map, bytes from points order by bytes"
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from utils.files import writing

Row = Mapping[str, Any]
Number = tuple[int, str, str, float]  # point, stage, name, value


def write_database(path: Path | str, points: Sequence[Row], stages: Sequence[Mapping[str, Row]]) -> Path:
    """Write the file, whole or not at all.

    Args:
        path: of the file.
        points: what the columns of table ``points`` hold; its ``id`` counts them from 0.
        stages: of each point its stages' metrics, for the table ``numbers``; empty where it has none.
    """
    columns = list(dict.fromkeys(key for row in points for key in row))
    named = ", ".join(["id integer primary key", *(_quoted(column) for column in columns)])
    with writing(path) as temporary, closing(sqlite3.connect(temporary)) as base, base:
        base.execute(f"create table points ({named})")
        base.execute("create table numbers (point integer references points, stage text, name text, value real)")
        marks = ", ".join("?" * (len(columns) + 1))
        rows = ((number, *(_plain(row.get(column)) for column in columns)) for number, row in enumerate(points))
        base.executemany(f"insert into points values ({marks})", rows)
        base.executemany("insert into numbers values (?, ?, ?, ?)", _numbers(stages))
    return Path(path)


def read_database(path: Path | str) -> list[dict[str, Any]]:
    """The rows of table ``points``, in order, without their ``id``."""
    with closing(sqlite3.connect(path)) as base:
        base.row_factory = sqlite3.Row
        return [
            {key: row[key] for key in tuple(row.keys()) if key != "id"}
            for row in base.execute("select * from points order by id")
        ]


def _numbers(stages: Sequence[Mapping[str, Row]]) -> Iterator[Number]:
    for point, found in enumerate(stages):
        for stage, metrics in found.items():
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    yield point, stage, name, value


def _quoted(name: str) -> str:
    """A column's name: flags have dashes, and ``id`` is taken."""
    return '"' + (f"{name}_" if name == "id" else name).replace('"', '""') + '"'


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else json.dumps(value, default=str)
