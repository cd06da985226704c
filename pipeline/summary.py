"""The end of a chain: every stage measured in one sitting, the verdict, tables and pictures, the page."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.convert import spikes_of
from pipeline.session import Session, open_session
from utils.chain.tries import Tried
from utils.chain.verdict import Verdict, judge_chain, rows_of
from utils.config.pipeline import PipelineConfig
from utils.config.run import CFG
from utils.darknet.network import Network, checkpoint_bytes, load_checkpoint
from utils.errors import NotMet
from utils.export.engine.price import clocks_of_spec, on_part
from utils.files import hold, shown
from utils.flag_words import words_of
from utils.pruning.scores import all_gammas, widths
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.integer import IntegerNetwork
from utils.quantization.qat_checkpoint import KIND as TRAINED
from utils.reporting.chain_rows import epochs, histogram
from utils.reporting.cost_plots import plot_roofline
from utils.reporting.files import stamps
from utils.reporting.html.report import NAME as REPORT
from utils.reporting.html.report import write_report
from utils.reporting.plots import plot_channels, plot_gammas, plot_results
from utils.reporting.record import (
    FILE,
    Record,
    finish_record,
    new_run_folder,
    read_record,
    start_record,
    write_record,
)
from utils.reporting.results import write_rows
from utils.reporting.runs import RUNS
from utils.reporting.tables import stage_table
from utils.spiking.cost_words import layer_rows
from utils.spiking.energy import OF_KIND
from utils.spiking.spike_schedule import encode
from utils.spiking.synops import SpikeCost
from utils.task import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """A stage as it was measured: its row of the table, what was found, and of an integer network what it costs."""

    row: dict[str, Any]
    metrics: Metrics
    network: Network
    predictor: nn.Module
    integer: IntegerNetwork | None = None
    cost: SpikeCost | None = None


@dataclass(frozen=True)
class Left:
    """What a stage left: its network, the record of the run that made it, its score, and what was tried.

    ``print_`` and ``command`` are that run's. ``kept``: number of the try; None: the network that the stage began with.
    ``best``: its best epoch counts. ``hardest``: the last network of its first try.
    """

    path: Path
    record: Record
    score: float | None
    print_: str
    command: str
    tries: tuple[Tried, ...] = ()
    kept: int | None = 0
    taught: bool = False
    best: bool = False
    hardest: Path | None = None


def summarise(
    config: PipelineConfig, fingerprint: str, left: Mapping[str, Left], teachers: Mapping[str, Any]
) -> Record:
    """Measure every stage in the same way, in one sitting, and judge the chain."""
    inputs = [each.path for each in left.values()]
    record = _record(config, fingerprint, inputs)
    found: dict[str, Measured] = {}
    for name, path in zip(left, inputs, strict=True):
        session = open_session(replace(config, weights=str(path), cfg=None))
        found[name] = _measure(session, path)
    rows = {name: each.row for name, each in found.items()}
    session.timed(rows, {name: each.predictor for name, each in found.items()})
    verdict = _verdict(config, session, left, rows)
    _tell(session, rows, left, teachers)
    outputs = leave(session, {name: each.record for name, each in left.items()}, found, record.folder)
    hardware, drawn = on_hardware(config, session, found, record.folder) if config.target else ({}, [])
    outputs += drawn
    metrics = {
        "stages": rows,
        "verdict": verdict.record(),
        "decisions": [
            row for name, each in left.items() for row in rows_of(name, each.tries, each.kept, best=each.best)
        ],
        "stage_seconds": sum(each.record.seconds or 0.0 for each in left.values()),
        "runs": {
            name: {"command": each.command, "folder": shown(each.record.folder), "seconds": each.record.seconds}
            | ({"teacher": vars(teachers[name])} if name in teachers else {})
            for name, each in left.items()
        },
        "about": about(session, Path(config.cfg or config.weights or CFG).stem),
    } | hardware
    done = with_report(finish_record(record, metrics=metrics, outputs=[*inputs, *outputs]))
    log.info("record, pictures and report: %s", done.folder / REPORT)
    return done


def check_verdict(record: Record) -> None:
    """Say whether a finished chain kept its bar.

    Raises:
        NotMet: it did not.
    """
    verdict = record.metrics.get("verdict", {"met": True})
    if not verdict["met"]:
        raise NotMet(f"the bar is not met: {verdict['fact']}; {verdict['command']}")


def _verdict(
    config: PipelineConfig, session: Session[Any], left: Mapping[str, Left], rows: Mapping[str, dict[str, Any]]
) -> Verdict:
    """Whether the chain kept its bar, and the command that would help."""
    names = {"baseline": "epochs", "sparse": "sparse_epochs", "finetuned": "finetune_epochs"}
    used = {field: int(left[stage].record.args["epochs"]) for stage, field in names.items()}
    scores = {name: float(row[session.task.headline]) for name, row in rows.items()}
    params = {name: int(row["params"]) for name, row in rows.items()}
    given = [name for name in config.given if getattr(config, name) is not None]
    verdict = judge_chain(scores, params, config.max_drop, used | {"w_bit": config.w_bit}, given, session.heading)
    if verdict.met or not (verdict.without or verdict.flags):
        return verdict if verdict.met else replace(verdict, command="nothing more is known that would help")
    said = words_of(config, [name for name in given if name not in verdict.without])
    return replace(verdict, command=f"try {shlex.join(['python3', 'compress.py', *said, *verdict.flags])}")


def _tell(
    session: Session[Any], rows: Mapping[str, dict[str, Any]], left: Mapping[str, Left], teachers: Mapping[str, Any]
) -> None:
    titled = {f"{n} (taught)" if n in teachers else n: row for n, row in rows.items()}
    log.info("\n%s", stage_table(titled, session.task, title="compress"))
    for name, each in teachers.items():
        log.info("taught: the %s network taught the %s one, --KDstr %s", each.stage, name, each.strategy)
    log.info(
        "energy: fp32 MACs for float networks, int8 MACs for quantised, accumulates for spikes; 45 nm, arithmetic only"
    )


def _record(config: PipelineConfig, fingerprint: str, inputs: Sequence[Path]) -> Record:
    """The record of this chain: the folder of an earlier run of the same inputs, or a new one."""
    same = (
        path.parent
        for path in sorted(RUNS.glob(f"compress*/{FILE}"))
        if read_record(path).args.get("fingerprint") == fingerprint and hold(path.parent)
    )
    folder = next(same, None) or new_run_folder(RUNS, "compress", config.name)
    args = replace(config, fingerprint=fingerprint).values
    task = open_session(replace(config, weights=str(inputs[0]), cfg=None)).task
    return start_record(folder, script="compress", args=args, seed=config.seed, inputs=inputs, task=task)


def _measure(session: Session[PipelineConfig], path: Path) -> Measured:
    predictor, loaded = session.loaded.predictor, session.loaded
    metrics = session.score(predictor)
    row = session.numbers(metrics, loaded.spec, path, OF_KIND.get(loaded.kind))
    checkpoint = load_checkpoint(path)
    network = checkpoint.network
    if loaded.integer is None:
        return Measured(row, metrics, network, predictor)
    if checkpoint.kind == TRAINED:  # of floats, to be trained on; what is measured are the integers they become
        row["bytes"] = checkpoint_bytes(to_checkpoint(loaded.integer, "quantised", checkpoint.names, checkpoint.meta))
    cost = spikes_of(session, encode(loaded.integer))
    if loaded.kind == "spiking":
        row |= {"energy_pj": cost.energy.spiking_int8, "spikes": cost.spikes, "sops": cost.sops}
    return Measured(row, metrics, network, predictor, loaded.integer, cost)


def leave(
    session: Session[Any], records: Mapping[str, Record], found: Mapping[str, Measured], folder: Path
) -> list[Path]:
    """Write tables and pictures of the stages.

    Args:
        session: any stage's: the validation images.
        records: stage -> the record of its run.
        found: stage -> its network, measured.
        folder: of the chain's record.
    """
    task, dataset, names = session.task, session.valid.dataset, session.manifest.names
    measured = {name: each.metrics for name, each in found.items()}
    floats = {name: each.network for name, each in found.items() if each.integer is None}
    before, after = floats["sparse"], floats["pruned"]
    left = widths(after, records["pruned"].metrics.get("after", {}).get("layers"))
    sets = {name: all_gammas(floats[name]) for name in ("baseline", "sparse", "pruned")}
    rows, spiking = epochs(records), found["spiking"]
    side = _named(measured, {"finetuned": "float", "quantised": "quantised", "spiking": "spiking"})
    apart = _named(measured, {"baseline": "baseline", "finetuned": "fine-tuned", "spiking": "spiking"})
    title = "baseline, sparse, fine-tuned, one after the other"
    return [
        task.comparison(folder / f"{task.pictures}.jpg", dataset, side, names),
        plot_results(folder / "curves.png", _numbers(rows), title, task.columns),
        plot_gammas(folder / "gammas.png", sets),
        plot_channels(folder / "channels.png", widths(before), left),
        write_rows(folder / "epochs.csv", rows),
        write_rows(folder / "gammas.csv", histogram(sets)),
        write_rows(folder / "channels.csv", channels(before, left)),
        *([write_rows(folder / "layers.csv", layer_rows(spiking.integer, spiking.cost))] if spiking.integer else []),
        *(write_rows(folder / name, table) for name, table in task.tables(measured).items()),
        *task.separate(folder / task.pictures, dataset, apart, names),
    ]


def on_hardware(
    config: PipelineConfig, session: Session[Any], found: Mapping[str, Measured], folder: Path
) -> tuple[dict[str, Any], list[Path]]:
    """What a frame of every stage's network takes on the engine on ``--target``, and hardware.csv, roofline.png.

    The engine is the quantised network's; predicted clocks of float networks are those of their integers.
    """
    integer = found["quantised"].integer
    assert integer is not None
    choice, report = on_part(integer, session.size, config.target)
    clocks = {
        name: report["clocks"] if each.integer else clocks_of_spec(each.network.spec, session.size, choice.best.engine)
        for name, each in found.items()
        if name != "spiking"
    }
    kinds = {i: type(layer).__name__.lower() for i, layer in enumerate(integer.spec.layers)}
    rows = [{"layer": each["layer"], "kind": kinds[each["layer"]], **each} for each in report["layers"]]
    numbers = {"hardware": choice.record() | {"stages": clocks, "array": report["array"]}}
    return numbers, [write_rows(folder / "hardware.csv", rows), plot_roofline(folder / "roofline.png", report)]


def with_report(record: Record) -> Record:
    """The record, its page written from the files of its folder and listed among them."""
    done = replace(record, outputs=[*record.outputs, *stamps([write_report(record.folder)])])
    write_record(done)
    return done


def channels(before: Network, left: Mapping[int, int]) -> list[dict[str, Any]]:
    """A row a layer; "after" is None where the whole layer went."""
    return [
        {"layer": i, "line": before.spec.layers[i].line, "before": count, "after": left.get(i)}
        for i, count in widths(before).items()
    ]


def _numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "stage"} for row in rows]


def _named(measured: Mapping[str, Metrics], names: Mapping[str, str]) -> dict[str, Metrics]:
    return {title: measured[name] for name, title in names.items()}


def about(session: Session[Any], network: str) -> dict[str, Any]:
    """What was compressed, for the report's first lines."""
    return {
        "network": network,
        "data": session.manifest.path.stem,
        "valid_images": len(session.valid.dataset),
        "size": list(session.size),
    }
