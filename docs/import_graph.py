"""A picture of which room imports which, drawn from the import statements themselves.

  python3 docs/import_graph.py                      writes import-graph.svg
  python3 docs/import_graph.py --out rooms.svg

The site draws it anew at every build. Rooms stand in layers; an arrow goes from a room to one that it imports, and an
arrow that follows from two others is left out. What every room may use stands in a bar at the bottom. An import that
goes back up, which tests/test_architecture.py refuses, would be drawn in red.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FREE = ("utils.errors", "utils.files")  # what every room may use
SCRIPTS = "scripts"

WIDTH, HEIGHT, GAP, FLOOR, MARGIN = 208, 90, 22, 62, 20  # px: a box, between boxes, between layers, around it all
LANE = 18  # px of an arrow that passes a layer
SWEEPS = 24  # of the ordering within layers

Edges = dict[str, set[str]]


@dataclass(frozen=True)
class Room:
    """A box: what it is called, how much is in it, and the first line of its docstring."""

    name: str
    files: int
    lines: int
    says: str


@dataclass
class Layout:
    """Where everything stands: ``rows`` from the top, boxes and lanes by name; ``x`` is the middle of each, px."""

    rows: list[list[str]]
    x: dict[str, float] = field(default_factory=dict)
    paths: list[list[str]] = field(default_factory=list)


def rooms_of(root: Path) -> dict[str, list[Path]]:
    """The files of every room: folders under utils, files beside them, models, the library, the pipeline, scripts."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob("utils/**/*.py")):
        inner = path.relative_to(root / "utils").parts
        if path.name == "__main__.py" or inner == ("__init__.py",):
            continue  # a command of its own; a file that sets two variables
        found.setdefault(f"utils.{inner[0].removesuffix('.py')}", []).append(path)
    for package in ("pipeline", "darkspike"):
        files = sorted((root / package).rglob("*.py"))
        if files:
            found[package] = files
    found["models"] = [root / "models.py"]
    found[SCRIPTS] = sorted(path for path in root.glob("*.py") if path.name != "models.py")
    return found


def imports_of(files: Iterable[Path]) -> set[str]:
    """Every dotted name that the files import, wherever in the file, but for what only types need (TYPE_CHECKING)."""
    names: set[str] = set()
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return names


def graph(root: Path = ROOT) -> tuple[dict[str, Room], Edges]:
    """The rooms and which of them each imports."""
    files = rooms_of(root)
    rooms = {name: _room(name, paths) for name, paths in files.items()}
    scripts = {path.stem for path in files[SCRIPTS]}

    def room(name: str) -> str | None:
        parts = name.split(".")
        if parts[0] in scripts:
            return SCRIPTS
        wanted = ".".join(parts[:2]) if parts[0] == "utils" else parts[0]
        return wanted if wanted in files else None

    edges: Edges = {}
    for name, paths in files.items():
        reached = {room(each) for each in imports_of(paths)} - {None, name}
        edges[name] = {each for each in reached if each is not None and each not in FREE}
    return rooms, edges


def _room(name: str, files: list[Path]) -> Room:
    texts = [path.read_text(encoding="utf-8") for path in files]
    first = next((path for path in files if path.name == "__init__.py"), files[0])
    says = (ast.get_docstring(ast.parse(first.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
    if name == SCRIPTS:
        says = "Flags in, one record out"
    return Room(name, len(files), sum(text.count("\n") for text in texts), says)


def backward(edges: Edges) -> set[tuple[str, str]]:
    """The edges that close a circle; none, where the house is in order."""
    found: set[tuple[str, str]] = set()
    state: dict[str, int] = {}

    def visit(name: str) -> None:
        state[name] = 1
        for other in sorted(edges.get(name, ())):
            if state.get(other) == 1:
                found.add((name, other))
            elif other not in state:
                visit(other)
        state[name] = 2

    for name in sorted(edges, key=lambda each: (each != SCRIPTS, each)):
        if name not in state:
            visit(name)
    return found


def reduced(edges: Edges) -> Edges:
    """Without the edges that follow from others; ``edges`` has no circle."""

    def reach(name: str) -> set[str]:
        if name not in known:
            known[name] = set(edges[name]).union(*(reach(each) for each in edges[name]))
        return known[name]

    known: dict[str, set[str]] = {}
    return {name: {o for o in to if not any(o in reach(other) for other in to - {o})} for name, to in edges.items()}


def levels(edges: Edges) -> dict[str, int]:
    """How many floors are below each room."""

    def level(name: str) -> int:
        if name not in known:
            known[name] = 1 + max((level(each) for each in edges[name]), default=-1)
        return known[name]

    known: dict[str, int] = {}
    for name in edges:
        level(name)
    top = {name: min((known[o] for o in edges if name in edges[o]), default=known[name] + 1) for name in edges}
    # a room that nothing stands on rises to just below its lowest reader, so that arrows are short
    return {name: known[name] if edges[name] else max(known[name], top[name] - 1) for name in edges}


def arrange(edges: Edges) -> Layout:
    """Boxes in rows, long arrows as a chain of lanes, each row in the order that crosses least."""
    floor = levels(edges)
    rows: list[list[str]] = [[] for _ in range(max(floor.values()) + 1)]
    for name in sorted(edges):
        rows[floor[name]].append(name)
    layout = Layout(rows)
    for name in sorted(edges):
        for other in sorted(edges[name]):
            lanes = [f"{name}>{other}@{at}" for at in range(floor[name] - 1, floor[other], -1)]
            for lane, at in zip(lanes, range(floor[name] - 1, floor[other], -1), strict=True):
                rows[at].append(lane)
            layout.paths.append([name, *lanes, other])
    links: dict[str, set[str]] = {}
    for path in layout.paths:
        for one, two in itertools.pairwise(path):
            links.setdefault(one, set()).add(two)
            links.setdefault(two, set()).add(one)
    _order(layout, links)
    _place(layout, links)
    rows.reverse()
    return layout


def _order(layout: Layout, links: dict[str, set[str]]) -> None:
    rows, best, least = layout.rows, [list(row) for row in layout.rows], None
    for sweep in range(SWEEPS):
        walk = range(1, len(rows)) if sweep % 2 else range(len(rows) - 2, -1, -1)
        for at in walk:
            beside = rows[at - 1] if sweep % 2 else rows[at + 1]
            place = {name: i / max(1, len(beside) - 1) for i, name in enumerate(beside)}
            own = {name: i / max(1, len(rows[at]) - 1) for i, name in enumerate(rows[at])}
            near = {name: [place[o] for o in links.get(name, ()) if o in place] for name in rows[at]}
            middle = {name: sum(near[name]) / len(near[name]) if near[name] else own[name] for name in rows[at]}
            rows[at].sort(key=lambda name: (middle[name], name))
        crossed = sum(_crossings(one, two, links) for one, two in itertools.pairwise(rows))
        if least is None or crossed < least:
            best, least = [list(row) for row in rows], crossed
    layout.rows[:] = best


def _crossings(one: list[str], two: list[str], links: dict[str, set[str]]) -> int:
    place = {name: i for i, name in enumerate(two)}
    pairs = [(i, place[o]) for i, name in enumerate(one) for o in links.get(name, ()) if o in place]
    return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in itertools.combinations(pairs, 2))


def _wide(name: str) -> float:
    return LANE if "@" in name else WIDTH + GAP


def _place(layout: Layout, links: dict[str, set[str]]) -> None:
    """Middles: each row centred, then drawn towards what it is linked to as far as its neighbours allow."""
    x = layout.x
    for row in layout.rows:
        at = -sum(map(_wide, row)) / 2
        for name in row:
            x[name] = at + _wide(name) / 2
            at += _wide(name)
    for _ in range(60):
        for row in layout.rows:
            wanted = {n: sum(x[o] for o in links[n]) / len(links[n]) if links.get(n) else x[n] for n in row}
            for i, name in enumerate(row):
                low = x[row[i - 1]] + (_wide(row[i - 1]) + _wide(name)) / 2 if i else float("-inf")
                high = x[row[i + 1]] - (_wide(row[i + 1]) + _wide(name)) / 2 if i + 1 < len(row) else float("inf")
                x[name] = min(max((x[name] + wanted[name]) / 2, low), high)


def draw(rooms: dict[str, Room], edges: Edges) -> str:
    """The picture, as the text of an SVG."""
    wrong = backward(edges)
    kept = reduced({name: {o for o in to if (name, o) not in wrong} for name, to in edges.items() if name not in FREE})
    layout = arrange(kept)
    left, right = (
        pick(layout.x[n] + sign * _wide(n) / 2 for row in layout.rows for n in row)
        for pick, sign in ((min, -1), (max, 1))
    )
    x = {name: at - left + MARGIN for name, at in layout.x.items()}
    y: dict[str, float] = {name: MARGIN + i * (HEIGHT + FLOOR) for i, row in enumerate(layout.rows) for name in row}
    bar = MARGIN + len(layout.rows) * (HEIGHT + FLOOR) - FLOOR / 2
    width, height = right - left + 2 * MARGIN, bar + 40 + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0 8 4 0 8z" fill="#51607a"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *(_arrow(path, x, y, layout) for path in layout.paths),
        *(
            f'<path d="M{x[a]:.0f} {y[a]:.0f} {x[b]:.0f} {y[b] + HEIGHT:.0f}" stroke="#d00000"/>'
            for a, b in sorted(wrong)
        ),
        *(_box(rooms[name], x[name], y[name]) for row in layout.rows for name in row if "@" not in name),
        f'<rect x="{MARGIN}" y="{bar:.0f}" width="{width - 2 * MARGIN:.0f}" height="34" rx="5" fill="#f1f1f1"/>',
        f'<text x="{width / 2:.0f}" y="{bar + 22:.0f}" text-anchor="middle" font-size="14" fill="#333">free to all: '
        + ", ".join(f"{name.replace('.', '/')}.py" for name in FREE)
        + "</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _arrow(path: list[str], x: dict[str, float], y: dict[str, float], layout: Layout) -> str:
    """From the bottom of the first box through its lanes to the top of the last; ends are spread along the boxes."""
    start, end = path[0], path[-1]
    leaving = sorted((p for p in layout.paths if p[0] == start), key=lambda p: x[p[1]])
    coming = sorted((p for p in layout.paths if p[-1] == end), key=lambda p: x[p[-2]])
    begin = (x[start] + _share(leaving.index(path), len(leaving)), y[start] + HEIGHT)
    points = [begin]
    for lane in path[1:-1]:
        points += [(x[lane], y[lane]), (x[lane], y[lane] + HEIGHT)]
    points.append((x[end] + _share(coming.index(path), len(coming)), y[end] - 1))
    text = f"M{begin[0]:.1f} {begin[1]:.1f}"
    for i, ((ax, ay), (bx, by)) in enumerate(itertools.pairwise(points)):
        bend = (by - ay) / 2
        straight = i % 2 == 1
        text += (
            f" L{bx:.1f} {by:.1f}"
            if straight
            else f" C{ax:.1f} {ay + bend:.1f} {bx:.1f} {by - bend:.1f} {bx:.1f} {by:.1f}"
        )
    return f'<path d="{text}" fill="none" stroke="#8a97ad" stroke-width="1.6" marker-end="url(#tip)"/>'


def _share(i: int, count: int) -> float:
    """How far from the middle of a box its i-th arrow of ``count`` stands, px."""
    return (i + 0.5) / count * (WIDTH - 60) - (WIDTH - 60) / 2


COLOURS = {SCRIPTS: "#fff1d6", "darkspike": "#fff1d6", "pipeline": "#e6f4e6", "models": "#e6f4e6"}


def _box(room: Room, x: float, y: float) -> str:
    path = room.name.replace(".", "/")
    title = f"{path}.py" if (ROOT / f"{path}.py").is_file() else path
    many = f"{room.files} files, " if room.files > 1 else ""

    def text(line: str, down: int, style: str) -> str:
        return f'<text x="{x:.1f}" y="{y + down:.1f}" text-anchor="middle" {style}>{escape(line)}</text>'

    rows = [text(title, 22, 'font-size="16" font-weight="bold" fill="#1c2533"')]
    rows += [text(line, 41 + 15 * i, 'font-size="12.5" fill="#1c2533"') for i, line in enumerate(_two_lines(room.says))]
    rows.append(text(f"{many}{room.lines:,} lines", 80, 'font-size="12.5" fill="#51607a"'))
    frame = f'width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{COLOURS.get(room.name, "#e8effa")}" stroke="#51607a"'
    return (
        f'<g><title>{escape(room.says)}</title><rect x="{x - WIDTH / 2:.1f}" y="{y:.1f}" {frame}/>{"".join(rows)}</g>'
    )


def _two_lines(says: str) -> list[str]:
    """As much of a sentence as fits a box, up to the end of a clause."""
    text = " ".join(says.replace("``", "").split()).partition(". ")[0].rstrip(".")
    while len(lines := textwrap.wrap(text, 31)) > 2:
        shorter = max(text.rfind(mark) for mark in ",;:")
        text = text[:shorter] if shorter > 20 else " ".join(text.split()[:-1])
    return lines


def main() -> None:
    """Draw and write."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, default=Path("import-graph.svg"))
    args = flags.parse_args()
    args.out.write_text(draw(*graph()), encoding="utf-8")


if __name__ == "__main__":
    main()
