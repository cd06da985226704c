"""What compress.py leaves beside its record for its report: tables that anyone can open, pictures, the page itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.pruning_report import all_gammas
from pipeline.session import Session
from utils.darknet.network import Network
from utils.pruning.scores import gammas
from utils.quantization.integer import IntegerNetwork
from utils.reporting.files import stamps
from utils.reporting.html.report import write_report
from utils.reporting.plots import plot_channels, plot_gammas, plot_results
from utils.reporting.record import Record, write_record
from utils.reporting.results import read_rows, write_rows
from utils.spiking.synops import SpikeCost
from utils.task import Metrics

BINS = np.geomspace(1e-6, 10.0, 85)  # of |gamma|: twelve a decade


@dataclass(frozen=True)
class Measured:
    """A stage as it was measured: its row of the table, what was found, and of an integer network what it costs."""

    row: dict[str, Any]
    metrics: Metrics
    network: Network
    integer: IntegerNetwork | None = None
    cost: SpikeCost | None = None


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
    sets = {name: all_gammas(floats[name]) for name in ("baseline", "sparse", "pruned")}
    rows, spiking = epochs(records), found["spiking"]
    side = _named(measured, {"finetuned": "float", "quantised": "quantised", "spiking": "spiking"})
    apart = _named(measured, {"baseline": "baseline", "finetuned": "fine-tuned", "spiking": "spiking"})
    title = "baseline, sparse, fine-tuned, one after the other"
    return [
        task.comparison(folder / f"{task.pictures}.jpg", dataset, side, names),
        plot_results(folder / "curves.png", _numbers(rows), title, task.columns),
        plot_gammas(folder / "gammas.png", sets),
        plot_channels(folder / "channels.png", widths(before), widths(after)),
        write_rows(folder / "epochs.csv", rows),
        write_rows(folder / "gammas.csv", histogram(sets)),
        write_rows(folder / "channels.csv", channels(before, after)),
        *([write_rows(folder / "layers.csv", layers(spiking.integer, spiking.cost))] if spiking.integer else []),
        *(write_rows(folder / name, table) for name, table in task.tables(measured).items()),
        *task.separate(folder / task.pictures, dataset, apart, names),
    ]


def with_report(record: Record) -> Record:
    """The record, its page written from the files of its folder and listed among them."""
    done = replace(record, outputs=[*record.outputs, *stamps([write_report(record.folder)])])
    write_record(done)
    return done


def epochs(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The epochs of all trainings, counted through, with the stage they belong to."""
    rows = [
        {"stage": name, **row}
        for name, record in records.items()
        if record.script == "train"
        for row in read_rows(record.folder / "results.csv")
    ]
    keys = {key: None for row in rows for key in row}
    return [{**keys, **row, "epoch": number} for number, row in enumerate(rows, 1)]


def histogram(sets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """How many |gamma| of each network lie between two edges; what lies outside is in the outermost."""
    counts = {}
    for name, values in sets.items():
        inside = np.abs(values.detach().float().numpy()).clip(BINS[0], BINS[-1] * (1 - 1e-6))
        counts[name] = np.histogram(inside, BINS)[0].tolist()
    last = max(i for each in counts.values() for i, count in enumerate(each) if count)
    edges = [float(f"{edge:.6g}") for edge in BINS]
    return [
        {"from": edges[i], "to": edges[i + 1], **{name: each[i] for name, each in counts.items()}}
        for i in range(last + 1)
    ]


def widths(network: Network) -> dict[int, int]:
    """Layer -> its channels, where they have gammas."""
    return {i: len(values) for i, values in gammas(network).items()}


def channels(before: Network, after: Network) -> list[dict[str, Any]]:
    """A row a layer; ``after`` is None where the whole layer went."""
    left = widths(after)
    return [
        {"layer": i, "line": before.spec.layers[i].line, "before": count, "after": left.get(i)}
        for i, count in widths(before).items()
    ]


def layers(integer: IntegerNetwork, cost: SpikeCost | None) -> list[dict[str, Any]]:
    """A row a layer that computes: bits of weights and activations; neurons, spikes and accumulates of a frame."""
    rows = []
    for i, op in integer.ops.items():
        grid, spent = integer.grids.get(i), cost.layers.get(i) if cost else None
        fires = grid is not None and spent is not None
        rows.append(
            {
                "layer": i,
                "kind": type(integer.spec.layers[i]).__name__.lower(),
                "w_bit": getattr(op, "w_bit", None),
                "a_bit": (grid.qmax - grid.qmin).bit_length() if grid else None,
                "neurons": spent.neurons if fires and spent else None,
                "spikes": spent.spikes if fires and spent else None,
                "sops": spent.sops if spent else None,
            }
        )
    return rows


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
