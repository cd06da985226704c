"""Numbers as people read them, and the tables they stand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from terminaltables import AsciiTable

from utils.reporting.facts import Column, Described, TaskFacts

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


@dataclass(frozen=True)
class NumberStyle:
    """How a metric stands in a table: its heading, how a value is written, how a difference is."""

    heading: str
    write: Callable[[Any], str]
    change: Callable[[Any, Any], str]


COSTS: dict[str, NumberStyle] = {  # by their names in a record; what a network scores is its task's to say
    "params": NumberStyle("parameters", number, change),
    "macs": NumberStyle("MACs", number, change),
    "bops": NumberStyle("BOPs", number, change),
    "bytes": NumberStyle("file", size, change),
    "latency_ms": NumberStyle("latency", "{:.3g} ms".format, change),
    "latency_ms_spread": NumberStyle("  middle half", span, nothing),
    "latency8_ms": NumberStyle("latency of 8", "{:.3g} ms".format, change),
    "latency8_ms_spread": NumberStyle("  middle half", span, nothing),
    "spikes": NumberStyle("spikes", number, change),
    "sops": NumberStyle("SOPs", number, change),
    "energy_pj": NumberStyle("energy", energy, change),
}
STAGE_COSTS = ("params", "macs", "bytes", "latency_ms", "energy_pj")


def styles_of(task: Described) -> dict[str, NumberStyle]:
    """How every metric is written, by its name in a record: the task's own, then the costs."""
    return {column.name: _style(column) for column in task.columns} | COSTS


def _style(column: Column) -> NumberStyle:
    write = f"{{:.{column.digits}f}}".format
    return NumberStyle(column.heading, write, points if column.share else change)


def comparison_table(title: str, moments: Mapping[str, Values], task: Described) -> str:
    """Metrics as rows, moments (before, after, …) as columns, and the change from the first to the last.

    Args:
        title: of the table.
        moments: moment -> metrics by their record names; a metric that no moment has gets no row.
        task: whose metrics these are.
    """
    rows = [["", *moments, "change"]] if len(moments) > 1 else [["", *moments]]
    for name, style in styles_of(task).items():
        values = [moment.get(name) for moment in moments.values()]
        known = [value for value in values if value is not None]
        if not known:
            continue
        row = [style.heading, *("-" if value is None else style.write(value) for value in values)]
        if len(moments) > 1:
            row.append(style.change(known[0], known[-1]) if len(known) > 1 else "")
        rows.append(row)
    return plain_table(title, rows)


def stage_table(stages: Mapping[str, Values], task: Described, *, title: str = "stages") -> str:
    """A row a stage: the task's main numbers, parameters, MACs, file, latency, energy; under each number its change.

    Args:
        stages: stage -> metrics by their record names; the first one is what changes are counted from.
        task: whose metrics these are.
        title: of the table.
    """
    first, styles = next(iter(stages.values())), stage_styles(task)
    rows = [["stage", *(style.heading for style in styles.values())]]
    for stage, metrics in stages.items():
        row = [stage]
        for name, style in styles.items():
            value = metrics.get(name)
            changed = "" if metrics is first or value is None else style.change(first.get(name), value)
            row.append("-" if value is None else f"{style.write(value)} ({changed})" if changed else style.write(value))
        rows.append(row)
    return plain_table(title, rows)


def size_table(sizes: Mapping[str, int], rows: Mapping[str, Values]) -> str:
    """A row a file: its bytes and, of the networks that were measured, MACs and BOPs.

    Args:
        sizes: "float" or the bits of the weights -> bytes on disk; the first one is what changes are counted from.
        rows: of the record; "quantised" is the network that was made, and ends the table.
    """
    table = [["on disk", "bytes", "", "change", "MACs", "BOPs"]]
    first, own = next(iter(sizes.values())), rows["quantised"]
    for name, length in sizes.items():
        head = name if name == "float" else f"weights of {name} bits"
        table.append([head, f"{length:,}", size(length), change(first, length), *_work(rows.get(name, {}))])
    table.append(["this network", f"{own['bytes']:,}", size(own["bytes"]), change(first, own["bytes"]), *_work(own)])
    return plain_table("files", table)


def _work(row: Values) -> list[str]:
    return [number(row[name]) if name in row else "" for name in ("macs", "bops")]


def stage_styles(task: Described) -> dict[str, NumberStyle]:
    """The columns of a table of stages."""
    main = {column.name: _style(column) for column in TaskFacts.of(task).main}
    return main | {name: COSTS[name] for name in STAGE_COSTS}


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
