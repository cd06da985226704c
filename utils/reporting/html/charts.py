"""The page's charts, each from one table; an empty text (or list) where the table is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from utils.reporting.facts import TaskChart, TaskFacts
from utils.reporting.html.svg import Axis, Bars, Line, axis, bar_chart, histogram, line_chart
from utils.reporting.html.words import TINTS, stage

LOSS_TINTS, SCORE_TINTS = (5, 1, 3, 4, 0), (5, 3, 1, 4, 2, 0)  # in this order, again and again; 2 is the teacher's
SPARSITY = {
    "near_zero": "|gamma| < 0.01",
    "safe_percent": "safe to cut",
    "survivable_percent": "half of the signal",
}
NAMED = 12  # classes that a chart can name; of more the scores are drawn in order
Tables = Mapping[str, list[dict[str, Any]]]
Row = Mapping[str, Any]


def curves(tables: Tables, task: TaskFacts) -> list[str]:
    """Losses, scores, sparsity and throughput over all epochs of all trainings."""
    rows = tables.get("epochs", [])
    if not rows:
        return []
    several = any(row.get("stage") for row in rows)
    x = Axis("epoch, all trainings one after the other" if several else "epoch", 0.5, max(2, len(rows)) + 0.5)
    marks = _stretches(rows)
    taught = any(key.startswith("kd_") for row in rows for key in row)
    losses = [Line(name, _points(rows, name), tint) for tint, name in zip(cycle(LOSS_TINTS), task.losses, strict=False)]
    losses += [Line("teacher", _teacher(rows), 2)] if taught else []
    charts = [_over(line_chart, "Loss", losses, x, marks, log=True)]
    brief = [column for column in task.columns if column.brief]
    scores = [Line(c.title, _points(rows, c.name), t) for t, c in zip(cycle(SCORE_TINTS), brief, strict=False)]
    found = [value for line in scores for _, value in line.points]
    share, name = all(column.share for column in brief), "of the averaged weights"
    charts.append(
        line_chart("Validation", scores, x, Axis(name, 0, 1) if share else axis(name, found, zero=True), marks=marks)
    )
    sparse = [Line(name, _points(rows, key), t) for t, (key, name) in zip((5, 3, 1), SPARSITY.items(), strict=True)]
    if any(line.points for line in sparse):
        charts.append(
            line_chart("Sparsity", sparse, x, Axis("share of the channels", 0, 1), marks=marks,
                       note="Measured while the sparse training ran.")
        )  # fmt: skip
    speed = _points(rows, "images_per_second")
    if speed:
        y = axis("of the training alone", [value for _, value in speed], zero=True)
        charts.append(line_chart("Images a second", [Line("images a second", speed, 5)], x, y, marks=marks))
    return charts


def gammas(tables: Tables) -> str:
    """Histogram of |gamma| of the networks before and after the cut."""
    rows = tables.get("gammas", [])
    if not rows:
        return ""
    names = [key for key in rows[0] if key not in ("from", "to")]
    edges = [rows[0]["from"], *(row["to"] for row in rows)]
    counts = {name: [row[name] for row in rows] for name in names}
    lines = [
        Line(f"{stage(name)}, {sum(counts[name]):,}", histogram(edges, counts[name]), TINTS.get(name, 0), filled=True)
        for name in names
    ]
    y = axis("share of the channels", [y for line in lines for _, y in line.points], zero=True)
    x = Axis("|gamma|", edges[0], edges[-1], log=True)
    return line_chart("Gammas of the channels", lines, x, y, note="Beside each name the number of channels.")


def channels(tables: Tables) -> str:
    """Channels of each layer before and after."""
    rows = tables.get("channels", [])
    if not rows:
        return ""
    before, after = ([row[name] or 0 for row in rows] for name in ("before", "after"))
    groups = [Bars(f"before, {sum(before):,}", before, 0), Bars(f"after, {sum(after):,}", after, 3)]
    labels = [str(row["layer"]) for row in rows]
    y = axis("channels", before, zero=True)
    return bar_chart("Channels of each layer", labels, groups, "layer", y, over=True)


def bits(tables: Tables) -> str:
    """Bits of weights and activations of each layer of the integer network."""
    rows = [row for row in tables.get("layers", []) if row["w_bit"] is not None or row["a_bit"] is not None]
    if not rows:
        return ""
    groups = [
        Bars("weights", [row["w_bit"] for row in rows], 3),
        Bars("activations", [row["a_bit"] for row in rows], 1),
    ]
    most = max(row[name] or 0 for row in rows for name in ("w_bit", "a_bit"))
    y = Axis("bits; 32 before", 0, 8 if most <= 8 else 16)
    return bar_chart("Bits of each layer", [str(row["layer"]) for row in rows], groups, "layer", y)


def spikes(tables: Tables) -> str:
    """Spikes a neuron of each layer of the spiking network."""
    rows = [row for row in tables.get("layers", []) if row["neurons"] and row["spikes"] is not None]
    rows = [row for row in rows if row["spikes"] > 0]
    if not rows:
        return ""
    values = [row["spikes"] / row["neurons"] for row in rows]
    y = axis("spikes a neuron and frame", values, zero=True)
    mean = sum(row["spikes"] for row in rows) / sum(row["neurons"] for row in rows)
    labels = [str(row["layer"]) for row in rows]
    message = f"{mean:.2f} spikes a neuron in the mean of the network."
    return bar_chart("Spikes of each layer", labels, [Bars("spikes a neuron", values, 4)], "layer", y, note=message)


def of_task(tables: Tables, chart: TaskChart) -> str:
    """A chart of the task's own."""
    return (_curve if chart.kind == "curve" else _classes)(tables.get(chart.table, []), chart)


def _curve(rows: Sequence[Row], chart: TaskChart) -> str:
    """A line a stage, over a column of 0 to 1."""
    if not rows:
        return ""
    names = [key for key in rows[0] if key != chart.x]
    lines = [
        Line(stage(name), _points(rows, name, chart.x), TINTS.get(name, 0), dashed=name == "spiking") for name in names
    ]
    note = "The spiking network's line lies on the quantised one's." if {"quantised", "spiking"} <= set(names) else ""
    same = all(row.get("quantised") == row.get("spiking") for row in rows)
    return line_chart(chart.title, lines, Axis(chart.x, 0, 1), Axis(chart.y, 0, 1), note=note if same else "")


def _classes(rows: Sequence[Row], chart: TaskChart) -> str:
    """Two bars a class, of the first and of the last network; of many classes in order."""
    rows = [row for row in rows if not chart.count or row[chart.count]]
    if not rows:
        return ""
    names = [key for key in rows[0] if key not in (chart.x, chart.count)]
    ends = [(names[0], 0), (names[-1], TINTS.get(TIED.get(names[-1], names[-1]), 3))]
    if len(rows) > NAMED:
        rows = sorted(rows, key=lambda row: -(row[names[0]] or 0))
    labels = [str(row[chart.x]) if len(rows) <= NAMED else str(i) for i, row in enumerate(rows, 1)]
    if max(map(len, labels)) > 10:
        labels = [label[:9] + "…" if len(label) > 10 else label for label in labels]
    groups = [Bars(stage(name), [row[name] for row in rows], tint) for name, tint in ends]
    x = chart.x if len(rows) <= NAMED else f"{chart.x}, best of the baseline first"
    return bar_chart(chart.title, labels, groups, x, Axis(chart.y, 0, 1))


TIED = {"spiking": "quantised"}  # drawn in its colour: the same numbers


def _over(draw: Any, title: str, lines: Sequence[Line], x: Axis, marks: Sequence[Any], *, log: bool) -> str:
    values = [value for line in lines for _, value in line.points]
    log = log and bool(values) and min(values) > 0
    return draw(
        title, lines, x, axis("logarithmic" if log else "as trained on", values, log=log, zero=not log), marks=marks
    )


def _points(rows: Sequence[Row], key: str, over: str = "") -> list[tuple[float, float]]:
    """(x, y) of the rows that have the value; x is a column, or the number of the row."""
    found = ((row[over] if over else number, row.get(key)) for number, row in enumerate(rows, 1))
    return [(at, value) for at, value in found if isinstance(value, int | float) and value == value]


def _teacher(rows: Sequence[Row]) -> list[tuple[float, float]]:
    sums = [[v for key, v in row.items() if key.startswith("kd_") and v is not None] for row in rows]
    return [(number, sum(values)) for number, values in enumerate(sums, 1) if values]


def _stretches(rows: Sequence[Row]) -> list[tuple[float, float, str]]:
    """(from, to, name) of each training along the epochs."""
    names = [row.get("stage") for row in rows]
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    ends = [*starts[1:], len(rows)]
    return [(a + 0.5, b + 0.5, stage(str(names[a]))) for a, b in zip(starts, ends, strict=True) if names[a]]
