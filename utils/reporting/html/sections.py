"""The parts of the page, from headline to commands; each tells in a sentence what it cannot show."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from utils.reporting.facts import TaskFacts
from utils.reporting.html import charts
from utils.reporting.html.pictures import embedded
from utils.reporting.html.words import (
    MINUS,
    NONE,
    STAGES,
    datum,
    definitions,
    duration,
    folded,
    missing,
    stage,
    table,
    times,
    unbroken,
)
from utils.reporting.record import Record
from utils.reporting.tables import COSTS, NumberStyle, number, stage_styles, styles_of

TIMED = "finetuned"  # whose latency is the headline's: integers and spikes are emulated on this machine
CARDS = {  # metric -> (heading, when there is less of it, when there is more)
    "bytes": ("Network file", "smaller", "larger"),
    "macs": ("MACs a frame", "fewer", "more"),
    "latency_ms": ("Latency", "faster", "slower"),
    "energy_pj": ("Energy a frame", "less", "more"),
}
ENERGY = (
    "Energy is that of the arithmetic alone, 45 nm: fp32 MACs for float networks, int8 MACs for quantised ones, "
    "accumulates for spikes; memory and leakage are not in it."
)
LATENCY = (
    "Latency is one image on the machine that ran this. Integers and spikes are emulated on it, so theirs say nothing "
    "about hardware made for them; the headline takes the fine-tuned float network's."
)
Tables = Mapping[str, list[dict[str, Any]]]
Row = Mapping[str, Any]


def title(record: Record) -> str:
    """The page's title, escaped."""
    about = record.metrics.get("about", {})
    named = f"{about['network']} on {about['data']}" if about else record.folder.name
    return escape(f"{named}, compressed")


def headline(record: Record, task: TaskFacts) -> str:
    """What was gained and what it cost, in a sentence and five numbers."""
    stages_: Mapping[str, Row] = record.metrics["stages"]
    ((first, before), *_, (last, after)) = [*stages_.items()] * 2
    timed = TIMED if TIMED in stages_ else last
    styles, score = styles_of(task), task.score
    scored = _scored(before, after, task)
    cards = [_card(score.heading, score.name, (first, before), (last, after), scored, styles[score.name])]
    for name, (heading, less, more) in CARDS.items():
        end = (timed, stages_[timed]) if name == "latency_ms" else (last, after)
        if before.get(name) is not None and end[1].get(name) is not None:
            gain = times(before[name], end[1][name], less, more)
            cards.append(_card(heading, name, (first, before), end, gain, styles[name]))
    head = _missed(record) or f"<h1>{title(record)}</h1>"
    return f"{head}{_lead(record, before, after, task)}<div class='cards'>{''.join(cards)}</div>"


def _missed(record: Record) -> str:
    """What a chain that lost more than it may says before anything else."""
    verdict = record.metrics.get("verdict") or {"met": True}
    if verdict["met"]:
        return ""
    fact, command = escape(verdict["fact"]), escape(verdict["command"])
    message = (
        f"<h1>The bar is not met</h1><p>{fact[:1].upper()}{fact[1:]}.</p><p>{command[:1].upper()}{command[1:]}.</p>"
    )
    return f'<div class="bad">{message}</div><p class="soft">{title(record)}</p>'


def _lead(record: Record, before: Row, after: Row, task: TaskFacts) -> str:
    message = [times(before.get("bytes"), after.get("bytes"), "smaller", "larger")]
    energy = times(before.get("energy_pj"), after.get("energy_pj"), "less", "more")
    text = f"The network file is {message[0] or 'done'}"
    text += f" and its arithmetic takes {energy} energy" if energy and energy != "unchanged" else ""
    text += _beside_integers(record, after) if energy else ""
    score = task.score
    ends = [f"{row[score.name]:.{min(3, score.digits)}f}" for row in (before, after)]
    text += f"; {score.title} went from {ends[0]} to {ends[1]} ({_scored(before, after, task)})"
    about = record.metrics.get("about", {})
    if about:
        high, wide = about["size"]
        text += f", measured on {about['valid_images']:,} validation images at {wide} by {high} px"
    return f'<p class="lead">{escape(text)}.</p>'


def _beside_integers(record: Record, after: Row) -> str:
    """Spikes are to be compared with the same network's integers too: at many bits they cost more."""
    integers = record.metrics["stages"].get("quantised")
    if integers is None or integers is after:
        return ""
    energy = times(integers.get("energy_pj"), after.get("energy_pj"), "less", "more")
    return f" (as spikes {energy} than as integers)" if energy and energy != "unchanged" else ""


def _scored(before: Row, after: Row, task: TaskFacts) -> str:
    change = styles_of(task)[task.headline].change
    return change(before.get(task.headline), after.get(task.headline)).replace("pt", "points").replace("-", MINUS)


def _card(heading: str, name: str, start: tuple[str, Row], end: tuple[str, Row], gain: str, style: NumberStyle) -> str:
    return (
        f'<div class="card"><h3>{escape(heading)}</h3><div class="to">{datum(end[0], name, end[1][name], style)}</div>'
        f"<p>from {datum(start[0], name, start[1][name], style)}</p>"
        f'<p class="gain">{escape(gain)}</p></div>'
    )


def stages(record: Record, task: TaskFacts) -> str:
    """The table of the stages: every number, and its change from the first one."""
    rows, first, styles = [], next(iter(record.metrics["stages"].values())), stage_styles(task)
    for name, row in record.metrics["stages"].items():
        what = ", ".join(filter(None, (STAGES.get(name, ("", ""))[1], _taught(record, name))))
        cells = [f"{escape(stage(name))}<small class='soft'> {escape(what)}</small>"]
        for column, style in styles.items():
            changed = style.change(first.get(column), row.get(column)).replace("-", MINUS)
            changed = "" if changed.startswith(("+0.0", f"{MINUS}0.0")) else changed
            shown = datum(name, column, row.get(column), style)
            cells.append(shown + (f"<small>{changed}</small>" if changed else ""))
        rows.append(cells)
    head = ["stage", *(style.heading for style in styles.values())]
    message = table("Under each number its change from the first stage.", head, rows, kind="stages")
    notes = f'<p class="note">{ENERGY}</p><p class="note">{LATENCY}</p>'
    return f"<h2>Stage by stage</h2>{message}{notes}{_spikes(record, task)}"


def _taught(record: Record, name: str) -> str:
    lesson = record.metrics.get("runs", {}).get(name, {}).get("teacher")
    return f"taught by the {stage(lesson['stage'])} network, strategy {lesson['strategy']}" if lesson else ""


def _spikes(record: Record, task: TaskFacts) -> str:
    both = [record.metrics["stages"].get(name, {}) for name in ("quantised", "spiking")]
    if both[1].get("spikes") is None:
        return ""
    same = all(both[0].get(column.name) == both[1].get(column.name) for column in task.main)
    proof = "Its scores equal the quantised network's to the last digit. " if same else ""
    spikes, sops = (datum("spiking", name, both[1][name], COSTS[name]) for name in ("spikes", "sops"))
    return f"<p>The spiking network fires {spikes} spikes a frame, which cause {sops} accumulates. {proof}</p>"


def decided(record: Record, task: TaskFacts) -> str:
    """What was tried in each stage, why, and what was kept."""
    rows: Sequence[Row] = record.metrics.get("decisions") or []
    if not rows:
        return ""
    cells = []
    for row in rows:
        score = NONE if row["score"] is None else f"{row['score']:.{task.score.digits}f}"
        why = escape(": ".join(filter(None, (row["why"], row["fact"]))))
        cells.append(
            [escape(stage(row["stage"])), f"<code>{unbroken(row['flags']) or NONE}</code>", why, score,
             "kept" if row["kept"] else ""]
        )  # fmt: skip
    head = ["stage", "flags", "why", task.score.heading, ""]
    note = (
        "Nothing here was chosen by hand but what is called as asked; a network that is not kept is still in weights/."
    )
    return f"<h2>What was tried and chosen</h2>{table(note, head, cells, kind='decisions')}"


def pictures(rows: Sequence[Mapping[str, Path]], task: TaskFacts) -> str:
    """The same validation images as labelled, and as the networks see them."""
    head = "<h2>What it sees</h2>"
    if not rows:
        return head + missing(f"{task.pictures.capitalize()} side by side are", f"pictures in {task.pictures}/")
    shown = []
    for place, row in enumerate(embedded(rows), 1):
        cells = "".join(
            f'<figure><img src="{source}" width="{wide}" height="{high}" '
            f'alt="validation image {place}, {escape(heading)}"><figcaption>{escape(heading)}</figcaption></figure>'
            for heading, (source, wide, high) in row.items()
        )
        shown.append(f'<div class="shots">{cells}</div>')
    return head + "".join(shown)


def quality(tables: Tables, task: TaskFacts) -> str:
    """The task's own charts of every stage."""
    drawn = [charts.of_task(tables, each) or missing(each.absent, f"{each.table}.csv") for each in task.charts]
    return _section("How well it sees", drawn) if drawn else ""


def cut(tables: Tables) -> str:
    """Channels of each layer before and after, gammas of the networks."""
    message = [
        charts.channels(tables) or missing("Channels of the layers are", "channels.csv"),
        charts.gammas(tables) or missing("The histogram of the gammas is", "gammas.csv"),
    ]
    return _section("What was cut", message, _channel_table(tables.get("channels", [])))


def integers(tables: Tables) -> str:
    """Bits and spikes of each layer."""
    message = [
        charts.bits(tables) or missing("Bits of the layers are", "layers.csv of a quantised network"),
        charts.spikes(tables) or missing("Spikes of the layers are", "layers.csv of a spiking network"),
    ]
    return _section("As integers and as spikes", message, _integer_table(tables.get("layers", [])))


def training(tables: Tables, task: TaskFacts) -> str:
    """Curves of all trainings, one after the other."""
    return _section("Training", charts.curves(tables, task) or [missing("The curves are", "epochs.csv")])


def _section(heading: str, message: Sequence[str], after: str = "") -> str:
    return f'<h2>{escape(heading)}</h2><div class="charts">{"".join(message)}</div>{after}'


def _channel_table(rows: Sequence[Row]) -> str:
    cells = [
        [str(row["layer"]), str(row["line"]), f"{row['before']:,}", f"{row['after'] or 0:,}",
         f"{(row['after'] or 0) / row['before']:.0%}"]
        for row in rows
    ]  # fmt: skip
    message = table(
        "Layers with batch norm, as the cfg counts them.", ["layer", "cfg line", "before", "after", "kept"], cells
    )
    return folded(f"Channels of {len(rows)} layers", message) if rows else ""


def _integer_table(rows: Sequence[Row]) -> str:
    cells = [
        [
            f"{row['layer']} <small class='soft'>{escape(row['kind'])}</small>",
            f"{_plain(row['w_bit'])} / {_plain(row['a_bit'])}",
            *(_counted(row[name]) for name in ("neurons", "spikes", "sops")),
        ]
        for row in rows
    ]
    head = ["layer", "bits w / a", "neurons", "spikes", "accumulates"]
    caption = "Bits of weights and activations; spikes and accumulates a frame. A read-out fires no spikes."
    return folded(f"Bits and spikes of {len(rows)} layers", table(caption, head, cells)) if rows else ""


def _plain(value: Any) -> str:
    return NONE if value is None else str(value)


def _counted(value: float | None) -> str:
    return NONE if value is None else number(value)


def command_line(command: str) -> str:
    """A command line of its own."""
    return f"<pre><code>{unbroken(command)}</code></pre>"


def reproduce(record: Record) -> str:
    """Commands, seed, versions, files: what it takes to get the same numbers again."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.started))
    spent = record.metrics.get("stage_seconds")
    facts = {
        "seed": "" if record.seed is None else f"<code>{record.seed}</code>",
        "git": f"<code>{escape(record.git)}</code>" if record.git else "not a git repository",
        "measured": when,
        "time": f"{duration(spent)} for the stages, {duration(record.seconds)} to measure them" if spent else "",
        "device": escape(f"{record.device}, {record.versions.get('machine', '')}".strip(", ")),
        "versions": escape(
            ", ".join(f"{k} {v}" for k, v in record.versions.items() if k not in ("machine", "threads"))
        ),
        "threads": escape(record.versions.get("threads", "")),
    }
    runs: Mapping[str, Row] = record.metrics.get("runs", {})
    parts = [command_line(record.command), definitions(facts)]
    if runs:
        parts.append("<p>The same, stage by stage; every command takes the network that the one before it left.</p>")
    else:
        parts.append(missing("The stages' commands are", "list of its stages in record.json"))
    for name, run in runs.items():
        message = f"{duration(run['seconds'])}, <code>{escape(run['folder'])}</code>"
        parts.append(f"<h3>{escape(stage(name))}</h3><p class='soft'>{message}</p>")
        parts.append(command_line(run["command"]))
    files = [item for item in record.outputs if item["path"].endswith(".pt")]
    if files:
        hashes = {item["path"]: f'<span class="hash">{item["sha256"]}</span>' for item in files}
        parts.append(folded("Networks, SHA-256", definitions(hashes)))
    foot = f"<footer>Written by compress.py from {escape(str(record.folder / 'record.json'))}.</footer>"
    return "<h2>Do it again</h2>" + "".join(parts) + foot
