"""``compress.py --sweep``: a chain for every combination of some flags; what combinations share is run once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.chain_start import fingerprint_of_data, task_of_start, with_data
from pipeline.pipeline import SHARED, Stage, finished_chain
from utils import cli
from utils.config.pipeline import PipelineConfig
from utils.errors import InputError
from utils.files import names_kept
from utils.flag_words import words_of
from utils.jobs import JobRunner, run_all, started
from utils.reporting.database import write_database
from utils.reporting.facts import TaskFacts
from utils.reporting.pareto import front, plot_fronts
from utils.reporting.record import FILE, Record, finish_record, new_run_folder, read_record, start_record
from utils.reporting.results import write_rows
from utils.reporting.runs import RUNS, check_alone
from utils.reporting.tables import plain_table, styles_of

log = logging.getLogger(__name__)

OWN = ("sweep", "jobs", "engine", "point", "until", "name")  # flags of the sweep, or of a point within it
HERE = (*OWN, "device", "workers")  # flags that another sitting may change without its being another sweep
SIZES = ("params", "macs", "bytes", "energy_pj")  # not latency: points disturb each other's
COSTS = {"bytes": ("network file, bytes", 1.0), "energy_pj": ("energy of a frame's arithmetic, uJ", 1e-6)}
LAST = "spiking"
Stages = Callable[[PipelineConfig], list[Stage]]


@dataclass(frozen=True)
class Point:
    """One combination: its values by flag, and the config of its chain."""

    values: Mapping[str, str]
    config: PipelineConfig


@dataclass(frozen=True)
class SweepUnit:
    """Stages that some points share, or the rest of one point's: run in one go, after another unit.

    ``until`` is its last stage, None the whole chain with its comparison. ``points`` are numbers of points.
    """

    name: str
    until: str | None
    points: tuple[int, ...]
    after: str | None = None


@names_kept()
def run_sweep(config: PipelineConfig, flags: cli.Parser[PipelineConfig], stages: Stages, script: Path) -> Record:
    """Run what no earlier sitting finished, and compare all points.

    Args:
        config: of compress.py.
        flags: its parser.
        stages: the chain of a config.
        script: compress.py.

    Raises:
        InputError: a flag that cannot be swept, or no point came to its end.
    """
    check_alone("sweep", config.name)
    # data and teacher as each point's own process has them: a sweep looks for its record by them
    points = [replace(point, config=with_data(point.config)) for point in points_of(config, flags)]
    configs = [point.config for point in points]
    prints: dict[str, str] = {}
    for each in configs:
        if each.data not in prints:
            prints[each.data] = fingerprint_of_data(each)
    finished = {i: finished_chain(each, stages(each), prints[each.data]) for i, each in enumerate(configs)}
    left = [i for i, record in finished.items() if record is None]
    record = _record(config, points, prints)
    log.info("%d points, %d of them finished before; %s", len(points), len(points) - len(left), record.folder)
    units = plan(config.name or "sweep", [stages(each) for each in configs], points, left)
    engine = JobRunner(config.engine, config.jobs)
    with started(engine) as submit:

        def start(unit: SweepUnit) -> Any:
            words = command(script, configs[unit.points[0]], unit)
            return submit(words, str(record.folder / f"{unit.name}.log"))

        errors = run_all(units, start)
    for i in left:
        finished[i] = finished_chain(configs[i], stages(configs[i]), prints[configs[i].data])
    return compare(record, points, finished, errors)


def points_of(config: PipelineConfig, flags: cli.Parser[PipelineConfig]) -> list[Point]:
    """Every combination, the first axis slowest.

    Raises:
        InputError: not FLAG=VALUE,VALUE, no such flag, one that takes no single value, or one named twice.
    """
    axes: dict[str, list[str]] = {}
    dests = {option: action.dest for action in flags._actions for option in action.option_strings}
    for text in config.sweep or ():
        name, _, values = text.partition("=")
        dest = dests.get(f"--{name}", "")
        if not values or "" in values.split(","):
            raise InputError(f"--sweep {text}: is not FLAG=VALUE,VALUE; write for example percent=0.5,0.7")
        if dest in HERE or isinstance(getattr(config, dest, True), bool | tuple):
            raise InputError(f"--sweep {text}: {name} cannot be swept; a flag with one value can, such as percent")
        if name in axes:
            raise InputError(f"--sweep {text}: {name} is given twice; put its values into one list")
        axes[name] = list(dict.fromkeys(values.split(",")))
    base = words_of(config, [name for name in config.given if name not in OWN])
    points = []
    for chosen in product(*axes.values()):
        one = dict(zip(axes, chosen, strict=True))
        words = [word for name, value in one.items() for word in (f"--{name}", value)]
        points.append(Point(one, flags.parse_args([*base, *words, "--point"])))
    names = [replaced(point.values) for point in points]
    if len(set(names)) < len(names):
        raise InputError(
            f"--sweep {' '.join(config.sweep or ())}: two points would have one name; give paths other names"
        )
    return points


def replaced(values: Mapping[str, str]) -> str:
    """``percent0.5-a-bit2``: a point as a part of file names."""
    return "-".join(f"{name}{value}".replace("/", "_").replace("\\", "_") for name, value in values.items())


def plan(name: str, chains: Sequence[Sequence[Stage]], points: Sequence[Point], left: Sequence[int]) -> list[SweepUnit]:
    """What to run, in an order that can be followed: common stages first.

    Args:
        name: of the sweep.
        chains: each point's stages.
        points: all points.
        left: numbers of those to run.
    """
    said = {i: [_message(points[i].config, stage, first=k == 0) for k, stage in enumerate(chains[i])] for i in left}
    varied = [key for key in points[0].values if len({point.values[key] for point in points}) > 1]
    units: list[SweepUnit] = []

    def grow(members: Sequence[int], done: int, after: str | None) -> None:
        depth, chain = done, chains[members[0]]
        while len(members) > 1 and depth < len(chain) and len({said[i][depth] for i in members}) == 1:
            depth += 1
        if len(members) == 1 or depth == len(chain):
            for i in members:  # several only where their flags mean the same: one after the other, the first does all
                units.append(SweepUnit(_unit_name(name, points[i], varied), None, (i,), after))
                after = units[-1].name
            return
        if depth > done:
            common = [key for key in varied if len({points[i].values[key] for i in members}) == 1]
            after, before = _unit_name(name, points[members[0]], common), after
            units.append(SweepUnit(after, chain[depth - 1].name, tuple(members), before))
        for message in dict.fromkeys(said[i][depth] for i in members):
            grow([i for i in members if said[i][depth] == message], depth, after)

    if left:
        grow(left, 0, None)
    return units


def _message(config: PipelineConfig, stage: Stage, *, first: bool) -> str:
    """What a stage's outcome depends on, but the network it is given."""
    shared = [getattr(config, name) for name in SHARED]
    own = [
        *filter(None, (stage.name, stage.variant)),
        *map(str, stage.flags),
        repr(stage.decision),
        *map(str, stage.files),
        str(stage.teacher),
    ]
    return json.dumps([*own, *(shared if first else [])], default=str)


def _unit_name(name: str, point: Point, axes: Sequence[str]) -> str:
    values = replaced({key: point.values[key] for key in axes})
    return f"{name}-{values}" if values else name


def command(script: Path, config: PipelineConfig, unit: SweepUnit) -> list[str]:
    """The command line of a unit."""
    own = replace(config, name=unit.name, until=unit.until)
    names = {"name", "until", *config.given} - {"sweep", "jobs", "engine"}
    return [sys.executable, str(script.resolve()), *words_of(own, sorted(names))]


def watch_parent() -> None:
    """End this process when the sweep that started it is gone: its end of our standard input closes."""

    def wait() -> None:
        while os.read(0, 1):  # not through sys.stdin: its lock, held here, would abort the interpreter at its end
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _record(config: PipelineConfig, points: Sequence[Point], prints: Mapping[str, str]) -> Record:
    """The record of this sweep: in the folder of an earlier sitting of it, or a new one."""
    names = [field.name for field in cli.flag_fields(PipelineConfig) if field.name not in HERE]
    message = [{name: getattr(point.config, name) for name in names} for point in points]
    print_ = hashlib.sha256(json.dumps([message, sorted(prints.items())], default=str).encode()).hexdigest()
    before = [path.parent for path in sorted(RUNS.glob(f"sweep*/{FILE}"))]
    same = [folder for folder in before if read_record(folder).args.get("fingerprint") == print_]
    folder = same[0] if same else new_run_folder(RUNS, "sweep", config.name)
    args, task = replace(config, fingerprint=print_).values, task_of_start(points[0].config)
    return start_record(folder, script="sweep", args=args, seed=config.seed, task=task)


def compare(
    record: Record, points: Sequence[Point], finished: Mapping[int, Record | None], errors: Mapping[int, str]
) -> Record:
    """The table and the pictures of all points, finished or not; the sweep's record.

    Raises:
        InputError: none came to its end.
    """
    task = record.task
    assert task is not None, "a sweep's record says what it measures"
    rows = [_row(task, point, finished[i], errors.get(i, "")) for i, point in enumerate(points)]
    known = [row for row in rows if not row["error"]]
    for cost in COSTS:
        best = front([(row[cost], row[task.headline]) for row in known])
        for i, row in enumerate(known):
            row[f"front_{cost}"] = i in best
    axes = list(points[0].values)
    log.info("\n%s", _table(task, axes, rows))
    outputs = [write_rows(record.folder / "points.csv", rows)]
    stages = [found.metrics["stages"] if (found := finished[i]) else {} for i in range(len(rows))]
    outputs.append(write_database(record.folder / "results.sqlite", rows, stages))
    if known:
        first = next(found for found in finished.values() if found is not None).metrics["stages"]["baseline"]
        outputs.append(_picture(record.folder / "pareto.png", task, axes, known, first))
    done = finish_record(record, metrics={"points": rows}, outputs=outputs)
    log.info("* nothing smaller scores higher, + nothing that takes less energy does; %s", ", ".join(map(str, outputs)))
    if not known:
        raise InputError(f"{rows[0]['error']}; no point of this sweep came to its end")
    if len(known) < len(rows):
        log.info("%d of %d points failed; run this again to try them once more", len(rows) - len(known), len(rows))
    return done


def shown_of(task: TaskFacts) -> tuple[str, ...]:
    """The metrics of a point: the task's main ones, and what it costs."""
    return (*(column.name for column in task.main), *SIZES)


def _row(task: TaskFacts, point: Point, record: Record | None, error: str) -> dict[str, Any]:
    values = {name: _number(value) for name, value in point.values.items()}
    shown = shown_of(task)
    if record is None:
        return {**values, **dict.fromkeys(shown), "folder": None, "error": error or "did not come to its end"}
    last = record.metrics["stages"][LAST]
    return {**values, **{name: last.get(name) for name in shown}, "folder": str(record.folder), "error": ""}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _table(task: TaskFacts, axes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    shown = {name: style for name, style in styles_of(task).items() if name in shown_of(task)}
    lines = [[*axes, *(style.heading for style in shown.values()), ""]]
    for row in rows:
        marks = ("*" if row.get("front_bytes") else "") + ("+" if row.get("front_energy_pj") else "")
        cells = ["-" if row[name] is None else style.write(row[name]) for name, style in shown.items()]
        lines.append([*(str(row[key]) for key in axes), *cells, marks or row["error"]])
    return plain_table("sweep", lines)


def _picture(
    path: Path, task: TaskFacts, axes: Sequence[str], rows: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]
) -> Path:
    names, gain = [", ".join(f"{key} {row[key]}" for key in axes) for row in rows], task.headline
    panels = {
        label: (
            [(row[cost] * unit, row[gain]) for row in rows],
            (baseline[cost] * unit, baseline[gain]) if baseline.get(cost) else None,
        )
        for cost, (label, unit) in COSTS.items()
    }
    title = "What each point costs and scores"
    return plot_fronts(path, panels, names, gain=task.score.heading, title=title)
