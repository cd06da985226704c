"""Numbers and names as the page writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from utils.reporting.tables import NumberStyle

MINUS, NONE, MICRO = "\u2212", "\u2013", "\u00b5"  # as wide as a plus; where there is no number; of units
STAGES = {  # name in a record -> (on the page, what it is)
    "baseline": ("baseline", "trained"),
    "sparse": ("sparse", "trained with a push on the gammas"),
    "pruned": ("pruned", "channels cut"),
    "finetuned": ("fine-tuned", "trained again after the cut"),
    "quantised": ("quantised", "integers only"),
    "spiking": ("spiking", "the same integers as spikes"),
}
TINTS = {name: number for number, name in enumerate(STAGES)}


def stage(name: str) -> str:
    """What a stage is called on the page."""
    return STAGES.get(name, (name, ""))[0]


def datum(place: str, name: str, value: Any, style: NumberStyle) -> str:
    """A number of the record, written for people, with its whole value beside it for programs."""
    if value is None:
        return NONE
    message = style.write(value).replace(" u", f" {MICRO}")
    return (
        f'<data value="{escape(json.dumps(value))}" data-stage="{escape(place)}" data-name="{escape(name)}">'
        f"{escape(message)}</data>"
    )


def times(before: float | None, after: float | None, less: str, more: str) -> str:
    """``30.1 times smaller``; empty where there is nothing to compare."""
    if not before or not after:
        return ""
    ratio = before / after
    if abs(ratio - 1) < 0.005:
        return "unchanged"
    return f"{_short(ratio)} times {less}" if ratio > 1 else f"{_short(1 / ratio)} times {more}"


def _short(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 99.5 else f"{ratio:.3g}"


def duration(seconds: float | None) -> str:
    """``2 h 05 min``, ``9 min 28 s``, ``12.0 s``."""
    if seconds is None:
        return "not finished"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def missing(what: str, file: str) -> str:
    """The sentence that stands where a stage did not leave what a part of the page shows."""
    return f'<p class="missing">{escape(what)} left out: this run has no {escape(file)}.</p>'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "plain") -> str:
    """A table of texts that are HTML already; the first cell of a row is its heading."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f'<td data-label="{escape(name)}">{cell}</td>' for name, cell in zip(head[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="{kind}"><caption>{caption}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def folded(name: str, inside: str) -> str:
    """What a reader may fold away."""
    return f"<details open><summary>{escape(name)}</summary>{inside}</details>"


def unbroken(command: str) -> str:
    """Words that break between them, not after the hyphens of flags."""
    return " ".join(f"<span>{escape(word)}</span>" for word in command.split(" ") if word)


def definitions(items: Mapping[str, str]) -> str:
    """Names and what they stand for, which is HTML already; empty ones are left out."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{text}</dd>" for name, text in items.items() if text) + "</dl>"
