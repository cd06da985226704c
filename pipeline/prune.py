"""What the channel-pruning scripts do: refuse or plan, cut, recalibrate, measure, save."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import build
from pipeline.bench import WEIGHTS, Bench
from pipeline.report import begin
from utils.darknet.cfg import write_cfg
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.darknet.weights import write_weights
from utils.errors import InputError
from utils.files import write_text
from utils.pruning.absorb import absorb
from utils.pruning.plan import Plan, Tie, plan_channels
from utils.pruning.preflight import check
from utils.pruning.recalibrate import recalibrate
from utils.pruning.scores import gammas
from utils.pruning.surgery import channels_before_after, cut
from utils.reporting.plots import plot_channels, plot_gammas
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import comparison_table

log = logging.getLogger(__name__)

CFGS = Path("cfg/pruned")
NEAR = 0.15  # of the heads' variance: so near, new statistics only disturb what the layers behind have learned
RECALIBRATION_BATCH = 64  # images: statistics of small maps need them


@dataclass(frozen=True)
class Strategy:
    """A row of the table of strategies: what becomes of a shortcut's wires, the least kept, the rounding."""

    script: str
    tie: Tie
    floor: float = 0.0
    multiple: int = 1


def prune(bench: Bench, strategy: Strategy) -> Record:
    """Cut the bench's network as the strategy decides; nothing is written when it would not survive.

    Raises:
        InputError: the checkpoint is no float one, or the percent empties a layer or is more than the network survives.
    """
    args, full = bench.args, bench.loaded.network
    if full is None:
        raise InputError(f"{bench.loaded.path}: a {bench.loaded.kind} network; prune the float one it was made of")
    asked: dict[str, Any] = {"tie": strategy.tie, "floor": strategy.floor, "multiple": strategy.multiple}
    found = check(full, percent=args.percent, force=args.force, **asked)
    log.info("%.0f %% of |gamma| are under 0.01; percent %.2f costs next to nothing, %.2f is survivable",
             100 * found.near_zero, found.safe, found.survivable)  # fmt: skip
    plan = plan_channels(full, percent=args.percent, **asked)
    small = cut(absorb(full, plan), plan)
    record = begin(bench, strategy.script)
    metrics = {"before": _row(bench, full, bench.loaded.path), "after": _row(bench, small, None)}
    if args.recalibrate:
        images = bench.training_images(args.recalibrate * RECALIBRATION_BATCH)
        measured = recalibrate(small, build, images)
        metrics["recalibrated"] = _row(bench, measured, None)
        small = closer(full, small, measured, images)
    outputs = save(bench, small, f"{strategy.script}_{args.percent:g}")
    for moment in list(metrics)[1:]:
        metrics[moment]["bytes"] = outputs[0].stat().st_size
    log.info(comparison_table(f"{strategy.script}, percent {args.percent:g}", metrics))
    outputs += pictures(full, small, plan, record.folder)
    log.info("weights %s, %s; cfg %s; pictures %s", *outputs[:3], record.folder)
    return finish_record(record, metrics=metrics, outputs=outputs)


def closer(full: Network, absorbed: Network, measured: Network, images: Sequence[Tensor]) -> Network:
    """The cut network to keep: with the old statistics while its heads are near the uncut ones, else the closer one."""
    apart = [distance(full, each, images) for each in (absorbed, measured)]
    old = apart[0] <= max(NEAR, apart[1])
    told = "distance from the uncut heads on training images: %.3f with the old batch norm statistics, %.3f with new"
    log.info(told + "; the %s ones are kept", *apart, "old" if old else "new")
    return absorbed if old else measured


@torch.no_grad()
def distance(one: Network, other: Network, images: Sequence[Tensor]) -> float:
    """Mean squared difference of the raw heads, in units of the first network's variance; no labels are looked at.

    Measuring batch norm again helps a network that lost much, and harms one that lost nothing: its running statistics
    were those the layers behind were trained with.
    """
    first, second = build(one), build(other)
    apart, spread = 0.0, 0.0
    for batch in images:
        for a, b in zip(first(batch), second(batch), strict=True):
            apart += float((a - b).square().mean())
            spread += float(a.var())
    return apart / max(spread, 1e-12)


def _row(bench: Bench, network: Network, path: Path | None) -> dict[str, Any]:
    predictor = build(network)
    return bench.numbers(predictor, bench.score(predictor), network.spec, path)


def save(bench: Bench, small: Network, stem: str) -> list[Path]:
    """``weights/<stem>.pt`` and ``.weights``, ``cfg/pruned/<stem>.cfg``: one stem that nobody has taken."""
    stem = f"{stem}_{bench.args.name}" if bench.args.name else stem
    files, number = _files(stem), 1
    while any(path.exists() for path in files):
        number += 1
        files = _files(f"{stem}-{number}")
    meta = {"script": "prune", "from": str(bench.loaded.path), "size": list(bench.size)}
    save_checkpoint(files[0], Checkpoint(small, bench.manifest.names, meta=meta))
    write_weights(files[1], small)
    write_text(files[2], write_cfg(small.spec))
    return files


def _files(stem: str) -> list[Path]:
    return [WEIGHTS / f"{stem}.pt", WEIGHTS / f"{stem}.weights", CFGS / f"{stem}.cfg"]


def pictures(full: Network, small: Network, plan: Plan, folder: Path) -> list[Path]:
    """Gammas with the threshold, channels of each layer before and after."""
    rows = channels_before_after(full.spec, small.spec)
    before, after = ({i: row[1 + k] for i, row in ((r[0], r) for r in rows)} for k in (0, 1))
    sets = {"before": all_gammas(full), "after": all_gammas(small)}
    return [
        plot_gammas(folder / "gammas.png", sets, threshold=plan.threshold),
        plot_channels(folder / "channels.png", before, after),
    ]


def all_gammas(network: Network) -> Tensor:
    """Gammas of every channel that has one, in one row."""
    return torch.cat([values.flatten() for values in gammas(network).values()])
