"""Points of cost and gain as inline SVG, with the front of those that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from utils.reporting.html.svg import Axis, axis, down, figure, grid, to_right
from utils.reporting.pareto import front


@dataclass(frozen=True)
class Dots:
    """Points of one kind; ``labels`` say which is which, ``links`` where each leads."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str]
    links: Sequence[str]
    tint: int = 0


def front_chart(title: str, kinds: Sequence[Dots], x: str, y: str, *, note: str = "") -> str:
    """Gain over cost, cost as a logarithm; the front of all kinds together is a line of steps."""
    spots = [point for kind in kinds for point in kind.points]
    costs, across = [cost for cost, _ in spots], 1.25
    x_axis = Axis(x, min(costs) / across, max(costs) * across, log=True)
    up = axis(y, [gain for _, gain in spots], zero=True)
    best = sorted({spots[i] for i in front(spots)})
    parts = [grid(x_axis, up), _steps(best, x_axis, up)]
    for kind in kinds:
        for (cost, gain), label, link in zip(kind.points, kind.labels, kind.links, strict=True):
            at, low = to_right(x_axis, cost), down(up, gain)
            size = 5 if (cost, gain) in best else 3.5
            said = f"<title>{escape(label)}: {gain:.4g} at {cost:,.4g}</title>"
            dot = f'<circle class="f{kind.tint} dot" cx="{at:.1f}" cy="{low:.1f}" r="{size}">{said}</circle>'
            parts.append(f'<a href="{escape(link, quote=True)}">{dot}</a>')
    return figure(title, up.label, "".join(parts), [(kind.name, kind.tint, False) for kind in kinds], note)


def _steps(best: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """The line of the front: what is reached at a cost is reached at every higher one."""
    path = ""
    for number, (cost, gain) in enumerate(best):
        at, low = to_right(x, cost), down(y, gain)
        path += f"H{at:.1f}V{low:.1f}" if number else f"M{at:.1f} {low:.1f}"
    return f'<path class="line l3" d="{path}H{to_right(x, x.high):.1f}"/>' if path else ""
