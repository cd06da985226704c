"""The two pages: all runs, and one of them. Drawn with the report's words, charts and colours."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

from utils.dashboard.runs import RunView, Spot, moments, spots
from utils.reporting.html import charts
from utils.reporting.html.page import whole_page
from utils.reporting.html.report import NAME as REPORT
from utils.reporting.html.scatter import Dots, front_chart
from utils.reporting.html.sections import command_line
from utils.reporting.html.words import NONE, datum, definitions, duration, table
from utils.reporting.pareto import front
from utils.reporting.record import Record
from utils.reporting.tables import size, styles_of

MOST = 120  # runs on the first page
SCRIPT_TINTS = (3, 1, 2, 4, 5, 0)
STATES = {"finished": "finished", "live": "running", "cut": "not finished", "broken": "no record"}
UNITS = (("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
LAST = 8  # epochs in the table of a run
Row = Mapping[str, Any]


def page(title: str, body: str, stamp: str) -> str:
    """A whole page; its script asks every few seconds for what changed, and keeps the place where one reads."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("dashboard.css", "refresh.js"))
    whole = f'<main data-stamp="{escape(stamp)}">\n{body}\n</main>\n<script>\n{script}</script>'
    return whole_page(escape(title), whole, style)


def index(place: str, runs: Sequence[RunView], script: str = "") -> str:
    """All runs, or those of a script: what is worth having, then a card for each."""
    kinds = sorted({run.record.script for run in runs if run.record})
    shown = [run for run in runs if not script or (run.record and run.record.script == script)]
    live = sum(run.state == "live" for run in runs)
    told = f"{len(runs)} runs in <code>{escape(place)}</code>" + (f", {live} running" if live else "")
    head = f'<header><h1>Runs</h1><p class="soft">{told}</p>{_chips(kinds, script)}</header>'
    if not runs:
        return head + "<p>No run is here yet. Start one, and it appears: <code>python3 train.py</code></p>"
    more = len(shown) - MOST
    note = f'<p class="note">{more} earlier ones are not shown; choose a script above.</p>' if more > 0 else ""
    cards = "".join(_card(run) for run in shown[:MOST])
    return f'{head}{worth(shown)}<h2>Newest first</h2><div class="runs">{cards}</div>{note}'


def worth(runs: Sequence[RunView]) -> str:
    """The Pareto front of every measured network, one chart for each score, and its members by name."""
    found = spots(list(runs))
    parts = []
    for heading in dict.fromkeys(spot.heading for spot in found):
        mine = [spot for spot in found if spot.heading == heading]
        if len(mine) > 1:
            parts.append(_front(heading, mine))
    return f"<h2>Worth having</h2>{''.join(parts)}" if parts else ""


def _front(heading: str, found: Sequence[Spot]) -> str:
    unit, factor = next((name, least) for name, least in UNITS if max(spot.size for spot in found) >= least)
    kinds = [
        _dots(script, [spot for spot in found if spot.script == script], tint, factor)
        for script, tint in zip(dict.fromkeys(spot.script for spot in found), cycle(SCRIPT_TINTS), strict=False)
    ]
    chart = front_chart(f"{heading} and size", kinds, f"network file, {unit}", heading)
    best = front([(spot.size, spot.score) for spot in found])
    unique = {(found[i].size, found[i].score): found[i] for i in sorted(best)}  # several runs may hold the same network
    rows = [[_link(s.run, s.label), f"{s.score:.4f}", escape(size(s.size))] for _, s in sorted(unique.items())]
    note = "Nothing smaller scores higher; from the smallest on."
    return f'<div class="front">{chart}{table(note, ["network", escape(heading), "file"], rows)}</div>'


def _dots(script: str, found: Sequence[Spot], tint: int, unit: float) -> Dots:
    points = [(spot.size / unit, spot.score) for spot in found]
    return Dots(script, points, [s.label for s in found], [f"run/{quote(s.run)}" for s in found], tint)


def _chips(kinds: Sequence[str], chosen: str) -> str:
    """Links that choose the runs of one script."""
    names = [("", "all"), *((kind, kind) for kind in kinds)]
    links = [
        f'<a class="chip{" on" if kind == chosen else ""}" href="{"./" if not kind else f"./?script={quote(kind)}"}">'
        f"{escape(name)}</a>"
        for kind, name in names
    ]
    return f'<nav class="chips">{"".join(links)}</nav>' if len(kinds) > 1 else ""


def _card(run: RunView) -> str:
    record, about = run.record, f'<span class="state {run.state}">{STATES[run.state]}</span>'
    if record is None:
        return (
            f'<article class="run">{about}<h3>{escape(run.name)}</h3><p class="soft">{escape(run.error)}</p></article>'
        )
    name, value = _headline(run)
    number = f'<p class="number"><b>{value}</b> <span class="soft">{escape(name)}</span></p>' if value else ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started))
    spent = duration(record.seconds) if record.finished else f"last wrote {_ago(run.touched)} ago"
    return (
        f'<a class="run" href="run/{quote(run.name)}">{about}<h3>{escape(run.name)}</h3>{number}{spark(run)}'
        f'<p class="soft">{escape(record.script)} · {when} · {escape(spent)}</p></a>'
    )


def spark(run: RunView) -> str:
    """The curve of what decides, as a line without axes."""
    task = run.record.task if run.record else None
    values = [float(row[task.primary]) for row in run.rows if task and row.get(task.primary) is not None]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    points = [
        f"{100 * i / (len(values) - 1):.1f} {22 - 20 * (v - low) / (high - low):.1f}" for i, v in enumerate(values)
    ]
    path = "M" + "L".join(points)
    words = f"from {values[0]:.3g} to {values[-1]:.3g}"
    return (
        f'<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label="{words}">'
        f'<path class="line l3" vector-effect="non-scaling-stroke" d="{path}"/></svg>'
    )


def run_page(run: RunView) -> str:
    """One run: numbers, curves, tables, pictures, and how to do it again."""
    record, state = run.record, f'<span class="state {run.state}">{STATES[run.state]}</span>'
    head = f'<p class="back"><a href="../">all runs</a></p><header><h1>{escape(run.name)} {state}</h1>'
    if record is None:
        return f"{head}<p>{escape(run.error)}</p></header>"
    here = quote(run.name)
    report = run.folder / REPORT
    link = f'<p><a href="../file/{here}/{REPORT}">report.html</a></p>' if report.is_file() else ""
    parts = [
        f"{head}{link}</header>",
        _measured(record),
        _curves(run),
        _table(run),
        _pictures(run, here),
        _again(record),
    ]
    return "".join(parts)


def _measured(record: Record) -> str:
    """What the task and its costs came to, a row a moment."""
    found = moments(record)
    if not found or record.task is None:
        return ""
    styles = {
        name: style for name, style in styles_of(record.task).items()
        if not name.endswith("_spread") and any(row.get(name) is not None for _, row in found)
    }  # fmt: skip
    rows = [
        [escape(name or record.script), *(datum(name, key, row.get(key), style) for key, style in styles.items())]
        for name, row in found
    ]
    head = ["", *(escape(style.heading.strip()) for style in styles.values())]
    return f"<h2>Measured</h2>{table('', head, rows, kind='stages')}"


def _curves(run: RunView) -> str:
    record = run.record
    if record is None or record.task is None or not run.rows or "epoch" not in run.rows[0]:
        return ""
    drawn = charts.curves({"epochs": [dict(row) for row in run.rows]}, record.task)
    return f'<h2>Curves</h2><div class="charts">{"".join(drawn)}</div>'


def _table(run: RunView) -> str:
    """The last epochs, or the points of a sweep: columns in which something stands."""
    if not run.rows:
        return ""
    epochs = "epoch" in run.rows[0]
    rows = list(run.rows[-LAST:]) if epochs else list(run.rows)
    keys = [
        key for key in dict.fromkeys(k for row in rows for k in row) if any(row.get(key) is not None for row in rows)
    ]
    keys = [key for key in keys if not key.startswith("gamma_q")]
    cells = [[_cell(row.get(key)) for key in keys] for row in rows]
    name = f"Last {len(rows)} of {len(run.rows)} epochs" if epochs else f"{len(rows)} points"
    inside = table("", [escape(key) for key in keys], cells, kind="stages")
    return f"<details{'' if epochs else ' open'}><summary>{name}</summary>{inside}</details>"


def _pictures(run: RunView, here: str) -> str:
    found = run.pictures
    shown = [
        f'<a href="../file/{here}/{quote(path.name)}"><figure><img loading="lazy" alt="{escape(path.stem)}" '
        f'src="../file/{here}/{quote(path.name)}?{path.stat().st_mtime_ns:x}">'
        f"<figcaption>{escape(path.stem.replace('_', ' '))}</figcaption></figure></a>"
        for path in found
    ]
    return f'<h2>Pictures</h2><div class="album">{"".join(shown)}</div>' if shown else ""


def _again(record: Record) -> str:
    facts = {
        "seed": "" if record.seed is None else f"<code>{record.seed}</code>",
        "git": f"<code>{escape(record.git)}</code>" if record.git else "",
        "began": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started)),
        "took": duration(record.seconds),
        "device": escape(f"{record.device}, {record.versions.get('machine', '')}".strip(", ")),
        "from": "<br>".join(escape(item["path"]) for item in record.inputs),
        "left": "<br>".join(escape(item["path"]) for item in record.outputs),
    }
    return f"<h2>Do it again</h2>{command_line(record.command)}{definitions(facts)}"


def _headline(run: RunView) -> tuple[str, str]:
    """The word and the value of what the run scored last."""
    record = run.record
    if record is None or record.task is None:
        return "", ""
    style = styles_of(record.task)[record.task.headline]
    scored = [row[record.task.headline] for _, row in moments(record) if row.get(record.task.headline) is not None]
    scored = scored or [v for row in run.rows if (v := row.get(record.task.headline)) is not None]
    return (record.task.score.heading, style.write(scored[-1])) if scored else ("", "")


def _cell(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _link(run: str, label: str) -> str:
    return f'<a href="run/{quote(run)}">{escape(label)}</a>'


def _ago(then: float) -> str:
    seconds = max(0.0, time.time() - then)
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.0f} h"
    )
