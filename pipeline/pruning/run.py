"""A prune script from its session to its record: decide, cut, recalibrate, measure, fine-tune, save."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.pruning.flags import AUTO
from pipeline.pruning.measure import Measure
from pipeline.pruning.show import measure_sensitivity, pictures, tell_groups, tell_layers, tell_residuals
from pipeline.pruning.strategy import CutStep, PruningPlanner, Strategy
from pipeline.report import begin
from pipeline.session import WEIGHTS, Session, output_of
from pipeline.training.flags import finetune_flags, train_parser
from pipeline.training.train_loop import train
from utils.darknet.cfg import write_cfg
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.darknet.weights import write_weights
from utils.errors import InputError
from utils.files import write_text
from utils.pruning.absorb import zeroed
from utils.pruning.blocks import shorten
from utils.pruning.layer_plan import By, LayerPlan, plan_layers
from utils.pruning.layers import absorb_layers, drop, silence_layers
from utils.pruning.plan import Plan
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import comparison_table

log = logging.getLogger(__name__)

CFGS = Path("cfg/pruned")


@dataclass(frozen=True)
class Cut:
    """One cut: the network before, silenced at full width, and after; and what was decided."""

    full: Network
    silenced: Network
    small: Network
    channels: Plan | None
    layers: LayerPlan | None

    @property
    def names(self) -> dict[int, int]:
        """Number of a layer in ``small`` -> in ``full``."""
        if self.layers is None:
            return {i: i for i in range(len(self.full.spec.layers))}
        return {new: old for old, new in shorten(self.full.spec, self.layers.gone).number.items()}


def prune(session: Session, strategy: Strategy) -> Record:
    """Cut the session's network as the strategy decides; nothing is written when it would not survive.

    Raises:
        InputError: the checkpoint is no float one, or the percent empties a layer or is more than the network survives.
    """
    args, full = session.args, session.loaded.network
    if full is None:
        raise InputError(f"{session.loaded.path}: a {session.loaded.kind} network; prune the float one it was made of")
    check_steps(args, strategy)
    measure = Measure(session)
    decider = PruningPlanner(measure, strategy, full, full, CutStep(total=args.iterative))
    if args.explain:
        tell_groups(full)
    if strategy.tie is not None and getattr(args, "sensitivity", False):
        return measure_sensitivity(decider)
    if strategy.tie is not None:
        tell_layers(decider.found)
    done = decide(decider)
    record = begin(session, strategy.script)
    metrics = {"before": measure.row(full, session.loaded.path) | measure.latencies(full)}
    files: list[Path] = []
    for step in range(1, args.iterative + 1):
        if step > 1:
            latest = load_checkpoint(files[0]).network
            now = CutStep(step, args.iterative)
            done = decide(replace(decider, full=latest, step=now, force=True))  # too late to refuse
        small, columns = settle_and_measure(measure, done)
        last = step == args.iterative
        stem = stem_of(args, strategy, done) + ("" if last else f"_step{step}")
        files = save(session, small, stem)
        columns[list(columns)[-1]] |= {"bytes": files[0].stat().st_size} | (measure.latencies(small) if last else {})
        metrics |= columns
        if args.finetune:
            tuned = finetune(session, files[0], sparse=not last)
            metrics["finetuned"] = measure.row(load_checkpoint(tuned).network, tuned)
            files = [tuned, *files]
    log.info(comparison_table(", ".join([strategy.script, *message(args, strategy, done)]), metrics))
    final = load_checkpoint(files[0]).network
    threshold = done.channels.threshold if done.channels else None
    drawn = pictures(done.full, final, done.names, threshold, record.folder)
    log.info("%s; pictures %s", ", ".join(map(str, files)), record.folder)
    return finish_record(record, metrics=metrics, outputs=[*files, *drawn])


def check_steps(args: argparse.Namespace, strategy: Strategy) -> None:
    """Refuse an ``--iterative`` that does not add up.

    Raises:
        InputError: nothing trains between the steps, the sum of the steps is not known, or there are more than blocks.
    """
    place = f"--iterative {args.iterative}"
    if args.iterative == 1:
        return
    if not args.finetune:
        raise InputError(f"{place}: each step is fine-tuned; add --finetune N for N epochs a step")
    if strategy.tie is None and strategy.blocks < args.iterative:
        raise InputError(f"{place}: {strategy.blocks} blocks are fewer than the steps; raise --shortcuts")
    if strategy.tie is not None and (args.search or args.percent == AUTO):
        raise InputError(f"{place}: --search and --percent auto ask for one cut; give a percent or --target-macs")


def decide(decider: PruningPlanner) -> Cut:
    """What goes, and the network without it."""
    full, strategy = decider.full, decider.strategy
    plan = decider.plan() if strategy.tie is not None else None
    small, silenced = full, full
    if plan is not None:
        tell_residuals(decider.measure, full, plan)
        small, plan = decider.settled(full, plan)
        silenced = zeroed(full, plan)
    layers = None
    if strategy.blocks:
        blocks = decider.step.blocks(strategy.blocks)
        layers = plan_layers(small, n=blocks, score=decider.score, by=By[decider.session.args.by.upper()])
        log.info("%s", layers)
        silenced = silence_layers(silenced, layers)
        small = drop(absorb_layers(small, layers), layers)
    return Cut(full, silenced, small, plan, layers)


def settle_and_measure(measure: Measure, done: Cut) -> tuple[Network, dict[str, dict[str, Any]]]:
    """The network to keep, and the columns silenced, after, recalibrated."""
    columns = {"silenced": measure.row(done.silenced), "after": measure.row(done.small)}
    small, new = measure.better(done.small)
    if measure.batches:
        columns["recalibrated"] = measure.row(small) if new else dict(columns["after"])
    return small, columns


def finetune(session: Session, weights: Path, *, sparse: bool) -> Path:
    """The fine-tune preset of train.py on a pruned network; sparse where it will be pruned again."""
    args = session.args
    words = ["--weights", str(weights), "--data", str(args.data), "--epochs", str(args.finetune), *finetune_flags()]
    words += ["--img-size", *map(str, session.size), "--seed", str(args.seed), "--cache", args.cache]
    words += ["--name", weights.stem, "--device", args.device, *(["-sr", "--prune", "1"] if sparse else [])]
    words += ["--batch-size", str(args.batch_size)] if args.batch_size else []
    words += ["--workers", str(args.workers)] if args.workers is not None else []
    left = output_of(train(train_parser("").parse_args(words)))
    assert left is not None, "a finished training leaves its last epoch"
    return left


def message(args: argparse.Namespace, strategy: Strategy, done: Cut) -> list[str]:
    """How much was cut, as words: a percent or a search, and a number of blocks."""
    words = []
    if done.channels is not None:
        asked = args.percent if args.iterative > 1 and args.percent != AUTO else round(done.channels.percent, 4)
        words.append(f"search {args.search}" if args.search else f"percent {asked:g}")
    return words + ([f"{strategy.blocks} blocks"] if strategy.blocks else [])


def stem_of(args: argparse.Namespace, strategy: Strategy, done: Cut) -> str:
    """``slim_prune_0.8[_NAME]``, ``layer_prune_1``, ``layer_channel_prune_0.6_1``, ``slim_prune_search20``."""
    words = message(args, strategy, done)
    parts = [word.removeprefix("percent ").removesuffix(" blocks").replace(" ", "") for word in words]
    return "_".join([strategy.script, *parts, *([args.name] if args.name else [])])


def save(session: Session, small: Network, stem: str) -> list[Path]:
    """``weights/<stem>.pt`` and ``.weights``, ``cfg/pruned/<stem>.cfg``: one stem that nobody has taken."""
    files, number = _files(stem), 1
    while any(path.exists() for path in files):
        number += 1
        files = _files(f"{stem}-{number}")
    meta = {"script": "prune", **session.meta}
    save_checkpoint(files[0], Checkpoint(small, session.manifest.names, meta=meta))
    write_weights(files[1], small)
    write_text(files[2], write_cfg(small.spec))
    return files


def _files(stem: str) -> list[Path]:
    return [WEIGHTS / f"{stem}.pt", WEIGHTS / f"{stem}.weights", CFGS / f"{stem}.cfg"]
