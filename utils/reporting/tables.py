"""Numbers as people read them, and the tables they stand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from terminaltables import AsciiTable

Values = Mapping[str, Any]  # numbers; of a spread its two ends; None or missing where there is none


def number(value: float) -> str:
    """``1.23 M``, ``66.6 M``, ``12.3 k``, ``950``."""
    return _scaled(value, ("", "k", "M", "G", "T"), 1000)


def size(value: float) -> str:
    """Bytes as ``45.6 MB`` (10^6), ``950 B``."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"), 1000)


def energy(picojoules: float) -> str:
    """Picojoules as ``12.3 uJ``."""
    return _scaled(picojoules, ("pJ", "nJ", "uJ", "mJ", "J"), 1000)


def change(before: float | None, after: float | None) -> str:
    """``-85.1 %``, ``+3.0 %``; empty where there is nothing to compare with."""
    if not before or after is None:
        return ""
    return f"{100 * (after - before) / before:+.1f} %"


def points(before: float | None, after: float | None) -> str:
    """Difference of two scores in points of a hundred: ``-1.3 pt``."""
    return "" if before is None or after is None else f"{100 * (after - before):+.1f} pt"


def span(ends: Sequence[float]) -> str:
    """``5.1-6.2 ms``: the middle half of repeated timings."""
    return f"{ends[0]:.3g}-{ends[1]:.3g} ms"


def nothing(before: Any, after: Any) -> str:
    """No change is told."""
    return ""


# name in a record -> (heading, how a value is written, how a difference is written)
COLUMNS: dict[str, tuple[str, Callable[[Any], str], Callable[[Any, Any], str]]] = {
    "map50": ("mAP@.5", "{:.4f}".format, points),
    "map": ("mAP@.5:.95", "{:.4f}".format, points),
    "precision": ("P", "{:.3f}".format, points),
    "recall": ("R", "{:.3f}".format, points),
    "f1": ("F1", "{:.3f}".format, points),
    "params": ("parameters", number, change),
    "macs": ("MACs", number, change),
    "bops": ("BOPs", number, change),
    "bytes": ("file", size, change),
    "latency_ms": ("latency", "{:.3g} ms".format, change),
    "latency_ms_spread": ("  middle half", span, nothing),
    "latency8_ms": ("latency of 8", "{:.3g} ms".format, change),
    "latency8_ms_spread": ("  middle half", span, nothing),
    "spikes": ("spikes", number, change),
    "sops": ("SOPs", number, change),
    "energy_pj": ("energy", energy, change),
}
STAGE_COLUMNS = ("map50", "map", "params", "macs", "bytes", "latency_ms", "energy_pj")


def comparison_table(title: str, columns: Mapping[str, Values], names: Sequence[str] = tuple(COLUMNS)) -> str:
    """Metrics as rows, moments (before, after, …) as columns, and the change from the first to the last.

    Args:
        title: of the table.
        columns: moment -> metrics by their record names; a metric that no moment has gets no row.
        names: the metrics wanted, in order.
    """
    moments = list(columns.values())
    rows = [["", *columns, "change"]] if len(moments) > 1 else [["", *columns]]
    for name in names:
        values = [moment.get(name) for moment in moments]
        if all(value is None for value in values):
            continue
        heading, write, differ = COLUMNS[name]
        row = [heading, *("-" if value is None else write(value) for value in values)]
        known = [value for value in values if value is not None]
        rows.append([*row, differ(known[0], known[-1]) if len(known) > 1 else ""] if len(moments) > 1 else row)
    return plain_table(title, rows)


def stage_table(stages: Mapping[str, Values], *, title: str = "stages") -> str:
    """A row a stage: mAP@.5, mAP@.5:.95, parameters, MACs, file, latency, energy; under each number its change.

    Args:
        stages: stage -> metrics by their record names; the first one is what changes are counted from.
        title: of the table.
    """
    first = next(iter(stages.values()))
    rows = [["stage", *(COLUMNS[name][0] for name in STAGE_COLUMNS)]]
    for stage, metrics in stages.items():
        row = [stage]
        for name in STAGE_COLUMNS:
            _, write, differ = COLUMNS[name]
            value = metrics.get(name)
            changed = "" if metrics is first or value is None else differ(first.get(name), value)
            row.append("-" if value is None else f"{write(value)} ({changed})" if changed else write(value))
        rows.append(row)
    return plain_table(title, rows)


def plain_table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts, the first one a heading; all but the first column flush right."""
    table = AsciiTable([list(row) for row in rows], title)
    table.justify_columns = dict.fromkeys(range(1, len(rows[0])), "right")
    fits = len(title) < table.table_width - 2  # else the package leaves the title away
    return table.table if fits else f"{title}\n{table.table}"


def _scaled(value: float, units: Sequence[str], base: int) -> str:
    """Three significant digits and the unit that keeps the number below ``base``."""
    for unit in units:
        if abs(value) < base - 0.5 or unit == units[-1]:
            break
        value /= base
    return f"{value:.3g} {unit}".strip()
