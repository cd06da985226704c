"""Charts as inline SVG, drawn from numbers: lines, steps, bars. Colours are the page's, so that they follow its scheme.

A chart is 400 units wide and as wide as its column on the page, so on a phone its letters are about as large as in the
text. Every mark carries its number as a ``<title>``, which browsers show under the pointer and read aloud.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 244
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 20, 42  # margins around the plot
LETTER = 6.3  # width of a letter of the labels, about
LONGEST = 18  # letters of a label that stands upright
MOST = 500  # points of a line; more are thinned out, a screen has no place for them

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """From where to where, and what it is called; ``log``: powers of ten."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0..1 from low to high; what lies outside is at the edge."""
        low, high, at = (self._flat(x) for x in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers on the axis, at most so many."""
        return _decades(self.low, self.high, most) if self.log else _round_numbers(self.low, self.high, most)

    def _flat(self, value: float) -> float:
        return math.log10(max(value, 1e-30)) if self.log else value


@dataclass(frozen=True)
class Line:
    """A line of a chart; ``tint`` is the number of one of the page's colours."""

    name: str
    points: Sequence[Point]
    tint: int = 0
    dashed: bool = False
    filled: bool = False


@dataclass(frozen=True)
class Bars:
    """A value for each label of a bar chart; None: no bar."""

    name: str
    values: Sequence[float | None]
    tint: int = 0


def axis(label: str, values: Sequence[float], *, log: bool = False, zero: bool = False) -> Axis:
    """An axis that shows all values: from 0 where ``zero``, to a round number."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if log:
        low = max(min((v for v in values if v > 0), default=1e-3), 1e-12)
        return Axis(label, low / 1.15, max(high, low * 10) * 1.15, log=True)
    low = min(0.0, low) if zero else low
    high = high if high > low else low + 1.0
    step = _step(low, high, 5)
    return Axis(label, math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    marks: Sequence[tuple[float, float, str]] = (),
    note: str = "",
) -> str:
    """Lines over one pair of axes.

    Args:
        title: what it shows.
        lines: drawn in this order, the last one on top; a line without points is left out.
        x: the horizontal axis.
        y: the vertical axis.
        marks: (from, to, name) of stretches of x; a rule ends each, its name stands above where it fits.
        note: a sentence under the chart.
    """
    shown = [line for line in lines if line.points]
    parts = [grid(x, y), *(_mark(x, start, end, name, last) for start, end, name, last in _with_last(marks))]
    parts += [_drawn(line, x, y) for line in shown]
    legend = list(dict.fromkeys((line.name, line.tint, line.dashed) for line in shown)) if len(shown) > 1 else []
    return figure(title, y.label, "".join(parts), legend, note)


def bar_chart(
    title: str, labels: Sequence[str], groups: Sequence[Bars], x: str, y: Axis, *, over: bool = False, note: str = ""
) -> str:
    """Bars over labels.

    Args:
        title: what it shows.
        labels: of the places along x.
        groups: their bars stand side by side, or with ``over`` in front of each other, the first one at the back.
        x: what the labels are.
        y: the vertical axis.
        over: see ``groups``.
        note: a sentence under the chart.
    """
    room = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    wide = room * (0.8 if over or len(groups) == 1 else 0.8 / len(groups))
    parts = [_rows(y)]
    for number, group in enumerate(groups):
        for place, (label, value) in enumerate(zip(labels, group.values, strict=True)):
            if value is None:
                continue
            at = LEFT + (place + 0.1) * room + (0 if over else number * wide)
            message = f"{group.name}, {x} {label}: {value:.6g}"
            top, foot = down(y, value), down(y, max(0.0, y.low))
            parts.append(
                f'<rect class="f{group.tint}" x="{at:.1f}" y="{top:.1f}" width="{wide:.1f}" '
                f'height="{max(0.0, foot - top):.1f}"><title>{escape(message)}</title></rect>'
            )
    names, deeper = _names_below(labels, room)
    parts += [names, text((LEFT + WIDTH - RIGHT) / 2, HEIGHT + deeper - 4, x, "middle")]
    legend = [(group.name, group.tint, False) for group in groups] if len(groups) > 1 else []
    return figure(title, y.label, "".join(parts), legend, note, deeper)


def histogram(edges: Sequence[float], counts: Sequence[float]) -> list[Point]:
    """The outline of a histogram as points of a line: shares of all counts over the edges."""
    total = sum(counts) or 1.0
    points = [(edges[0], 0.0)]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        points += [(low, count / total), (high, count / total)]
    return [*points, (edges[-1], 0.0)]


def figure(
    title: str, unit: str, inside: str, legend: Sequence[tuple[str, int, bool]], note: str, deeper: int = 0
) -> str:
    """A chart's title, unit, picture (``deeper`` than others by so much), legend of (name, tint, dashed) and note."""
    keys = "".join(
        f'<li><i class="k{tint}{" dashed" if dashed else ""}"></i>{escape(name)}</li>' for name, tint, dashed in legend
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)} <span>{escape(unit)}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + deeper}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{inside}</svg>"
        + (f'<ul class="legend">{keys}</ul>' if keys else "")
        + (f'<p class="note">{escape(note)}</p>' if note else "")
        + "</figure>"
    )


def grid(x: Axis, y: Axis) -> str:
    """Rules, ticks and names of both axes."""
    parts = [_rows(y)]
    for tick in x.ticks():
        at = to_right(x, tick)
        parts.append(f'<path class="tick" d="M{at:.1f} {HEIGHT - BOTTOM}v4"/>')
        parts.append(text(min(at, WIDTH - 14), HEIGHT - BOTTOM + 18, written(tick, log=x.log), "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x.label, "middle"))
    return "".join(parts)


def _rows(y: Axis) -> str:
    parts = []
    for tick in y.ticks(5):
        at = down(y, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(LEFT - 6, at + 3.5, written(tick, log=y.log), "end"))
    return "".join(parts)


def _mark(x: Axis, start: float, end: float, name: str, last: bool) -> str:
    left, right = to_right(x, start), to_right(x, end)
    parts = [] if last else [f'<path class="mark" d="M{right:.1f} {TOP - 10}V{HEIGHT - BOTTOM}"/>']
    if LETTER * len(name) < right - left:
        parts.append(text((left + right) / 2, TOP - 7, name, "middle"))
    return "".join(parts)


def _with_last(marks: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str, bool]]:
    return [(*mark, number == len(marks)) for number, mark in enumerate(marks, 1)]


def _drawn(line: Line, x: Axis, y: Axis) -> str:
    every = math.ceil(len(line.points) / MOST)
    points = [*line.points[::every], *([line.points[-1]] if every > 1 else [])]
    spots = [(to_right(x, a), down(y, b)) for a, b in points]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in spots)
    name = f"<title>{escape(line.name)}: {points[-1][1]:.6g} at the end</title>"
    parts = [f'<path class="area f{line.tint}" d="{path}Z"/>'] if line.filled else []
    parts.append(f'<path class="line l{line.tint}{" dashed" if line.dashed else ""}" d="{path}">{name}</path>')
    if len(points) == 1:
        parts.append(f'<circle class="f{line.tint}" cx="{spots[0][0]:.1f}" cy="{spots[0][1]:.1f}" r="3"/>')
    return "".join(parts)


def _names_below(labels: Sequence[str], room: float) -> tuple[str, int]:
    """Labels side by side, or upright where words would not fit; and how much deeper that makes the chart."""
    widest = LETTER * max(map(len, labels), default=1) + 6
    every = max(1, math.ceil(widest / room))
    upright = every > 1 and not all(label.isdecimal() for label in labels)
    if upright:
        labels = [label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…" for label in labels]
        every = max(1, math.ceil(2 * LETTER / room))
    put = _upright if upright else text
    deeper = max(0, math.ceil(LETTER * max(map(len, labels), default=1)) - 16) if upright else 0
    y, anchor = HEIGHT - BOTTOM + (8 if upright else 18), "end" if upright else "middle"
    shown = [(place, label) for place, label in enumerate(labels) if place % every == 0]
    return "".join(put(LEFT + (place + 0.5) * room, y, label, anchor) for place, label in shown), deeper


def _upright(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text transform="translate({x + 4:.1f} {y:.1f}) rotate(-90)" text-anchor="{anchor}">{escape(words)}</text>'


def text(x: float, y: float, words: str, anchor: str) -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def to_right(x: Axis, value: float) -> float:
    """Where a value of x lies on the picture."""
    return LEFT + x.share(value) * (WIDTH - LEFT - RIGHT)


def down(y: Axis, value: float) -> float:
    """Where a value of y lies on the picture."""
    return HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM)


def written(value: float, *, log: bool = False) -> str:
    """A tick as people read it: ``0.5``, ``1,000``, ``20 M``; on a logarithmic axis of far numbers ``10⁻⁴``."""
    if log and value and not 1e-2 <= value < 1e4:
        power = math.floor(math.log10(value) + 1e-9)
        first = round(value / 10**power)
        raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"10{raised}" if first == 1 else f"{first}·10{raised}"
    for least, factor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / factor:g} {unit}"
    return f"{value:,.6g}"


def _step(low: float, high: float, most: int) -> float:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9))


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    step = _step(low, high, most)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    """Powers of ten; between them 2 and 5 where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [n * 10.0**p for p in powers for n in factors if low <= n * 10.0**p <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]
