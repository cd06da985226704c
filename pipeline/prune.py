"""A prune script from its config to its record: decide, cut, recalibrate, measure, fine-tune, save."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.pruning_measure import Measure
from pipeline.pruning_planner import PruningPlanner
from pipeline.pruning_report import (
    amounts,
    measure_sensitivity,
    pictures,
    save,
    stem_of,
    tell_groups,
    tell_layers,
    tell_residuals,
)
from pipeline.session import Session, open_session
from pipeline.train import train
from utils.config.prune import (
    FLAGS,
    BlocksConfig,
    ChannelConfig,
    PruneConfig,
    PruneFlags,
    RegularConfig,
    SlimConfig,
    check_steps,
)
from utils.config.train import FINETUNE_LR, TrainConfig
from utils.darknet.network import Network, load_checkpoint
from utils.errors import InputError
from utils.files import names_kept
from utils.pruning.absorb import zeroed
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.blocks import shorten
from utils.pruning.choices import Beta
from utils.pruning.layer_plan import LayerPlan
from utils.pruning.layers import absorb_layers, drop, silence_layers
from utils.pruning.plan import Plan, ShortcutRule
from utils.pruning.strategy import CutDecision, CutStep, Strategy
from utils.reporting.record import Record, finish_record
from utils.reporting.runs import output_of
from utils.reporting.tables import comparison_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PruneScript:
    """A row of the table of strategies: the script's name, its flags, its rule for shortcuts."""

    name: str
    flags: PruneFlags
    tie: ShortcutRule | None

    def configured(self, **fields: Any) -> PruneConfig:
        """The config of these fields; the others are as the command line has them."""
        return self.flags.config(**({} if self.flags.percent is None else {"percent": self.flags.percent}) | fields)

    def strategy(self, config: PruneConfig) -> Strategy:
        """What this config asks for."""
        return Strategy(
            self.name,
            self.tie,
            floor=config.layer_keep if isinstance(config, SlimConfig) else 0.0,
            multiple=config.multiple if isinstance(config, RegularConfig) else 1,
            blocks=config.shortcuts if isinstance(config, BlocksConfig) else 0,
        )

    def run(self, config: PruneConfig) -> Record:
        """Open what the config names, by default the newest sparse network, and prune it."""
        return prune(open_session(config, scripts="train", sparse=True), self.strategy(config)).record


STRATEGIES = {
    "normal": PruneScript("normal_prune", FLAGS["normal"], ShortcutRule.KEEP),
    "regular": PruneScript("regular_prune", FLAGS["regular"], ShortcutRule.KEEP),
    "shortcut": PruneScript("shortcut_prune", FLAGS["shortcut"], ShortcutRule.LEADER),
    "slim": PruneScript("slim_prune", FLAGS["slim"], ShortcutRule.ANY),
    "layer": PruneScript("layer_prune", FLAGS["layer"], None),
    "layer_channel": PruneScript("layer_channel_prune", FLAGS["layer_channel"], ShortcutRule.ANY),
    "layer_channel_regular": PruneScript(
        "layer_channel_regular_prune", FLAGS["layer_channel_regular"], ShortcutRule.LEADER
    ),
}


@dataclass(frozen=True)
class PruneResult:
    """What pruning left: the network, its file, the run's record. ``--sensitivity`` leaves both as they were."""

    network: Network
    path: Path
    record: Record

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Numbers by moment: before, silenced, after, recalibrated, finetuned."""
        return self.record.metrics


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


@names_kept()
def prune(session: Session[PruneConfig], strategy: Strategy) -> PruneResult:
    """Cut the session's network as the strategy decides; nothing is written when it would not survive.

    Raises:
        InputError: the checkpoint is no float one, or the percent empties a layer or is more than the network survives.
    """
    config, full, path = session.config, session.loaded.network, session.loaded.path
    if full is None:
        raise InputError(f"{path}: a {session.loaded.kind} network; prune the float one it was made of")
    check_steps(config, strategy)
    planner = PruningPlanner(Measure(session), strategy, full, full, CutStep(total=config.iterative))
    planner = planner.fitted()
    strategy = planner.strategy
    if config.explain:
        tell_groups(full)
    if isinstance(config, ChannelConfig) and config.sensitivity:
        return PruneResult(full, path, measure_sensitivity(planner))
    if strategy.tie is not None:
        tell_layers(planner.found)
    done = decided(planner)
    record = session.begin(strategy.script)
    try:
        metrics, files, done = cut_in_steps(planner, done)
    except InputError:
        shutil.rmtree(record.folder, ignore_errors=True)  # nothing came of it
        raise
    title = ", ".join([strategy.script, *amounts(config, strategy, done.channels)])
    log.info(comparison_table(title, metrics, session.task))
    if done.channels is not None:
        metrics["after"]["percent"] = round(done.channels.percent, 4)  # found where none was given
    if done.layers is not None:
        metrics["after"]["layers"] = [done.names[i] for i in range(len(done.small.spec.layers))]
    final = load_checkpoint(files[0]).network
    if planner.priced:
        tell_clocks(planner, final, metrics)
    threshold = done.channels.threshold if done.channels else None
    drawn = pictures(done.full, final, done.names, threshold, record.folder)
    log.info("%s; pictures %s", ", ".join(map(str, files)), record.folder)
    return PruneResult(final, files[0], finish_record(record, metrics=metrics, outputs=[*files, *drawn]))


def tell_clocks(planner: PruningPlanner, final: Network, metrics: dict[str, dict[str, Any]]) -> None:
    """Predicted clocks of a frame before and after, into the metrics too."""
    before, after, lanes = planner.clocks(planner.full.spec), planner.clocks(final.spec), planner.engine.lanes
    metrics["before"]["clocks"], metrics["after"]["clocks"] = before, after
    log.info("clocks a frame, predicted for an array of %dx%d: %s before, %s after (%.1f %%)",
             lanes, lanes, f"{before:,}", f"{after:,}", 100 * after / before)  # fmt: skip


def cut_in_steps(planner: PruningPlanner, done: Cut) -> tuple[dict[str, dict[str, Any]], list[Path], Cut]:
    """Keep the first cut, and make those of ``--iterative`` that follow: columns, files (the last first), last cut."""
    session, measure, strategy, full = planner.session, planner.measure, planner.strategy, planner.full
    total, files = session.config.iterative, list[Path]()
    metrics = {"before": measure.row(full, session.loaded.path)}
    for step in range(1, total + 1):
        if step > 1:
            latest = load_checkpoint(files[0]).network
            done = decided(replace(planner, full=latest, step=CutStep(step, total), force=True))  # too late to refuse
        small, columns = measure.columns(done.silenced, done.small)
        if step == 1:
            name = session.task.headline
            planner.check_left(metrics["before"][name], columns[list(columns)[-1]][name])
        last = step == total
        stem = stem_of(session.config, strategy, done.channels) + ("" if last else f"_step{step}")
        files = save(session, small, stem)
        metrics |= columns
        cut = list(columns)[-1]
        metrics[cut] |= {"bytes": files[0].stat().st_size}
        if last:
            before, after = measure.latencies(full, small)
            metrics |= {"before": metrics["before"] | before, cut: metrics[cut] | after}
        if session.config.finetune:
            tuned = finetune(session, files[0], sparse=not last)
            metrics["finetuned"] = measure.row(load_checkpoint(tuned).network, tuned)
            files = [tuned, *files]
    return metrics, files, done


def decided(planner: PruningPlanner) -> Cut:
    """What the planner's flags come to, cut; and what the cut leaves at borders, told where that is not nothing."""
    done = decide(planner.full, planner.decision())
    if done.channels is not None and planner.channels.beta != Beta.CARRIER.value:
        tell_residuals(planner, done.channels)
    return done


def decide(full: Network, by: CutDecision) -> Cut:
    """What goes, and the network without it."""
    small, silenced, plan, layers = full, full, None, None
    if by.channels:
        small, plan = settle_and_cut(full, by.channels(full), by.beta)
        silenced = zeroed(full, plan)
    if by.blocks:
        layers = by.blocks(small)
        log.info("%s", layers)
        silenced = silence_layers(silenced, layers)
        small = drop(absorb_layers(small, layers), layers)
    return Cut(full, silenced, small, plan, layers)


def finetune(session: Session[PruneConfig], weights: Path, *, sparse: bool) -> Path:
    """The fine-tune preset of train.py on a pruned network; sparse where it will be pruned again."""
    config = session.config
    record = train(
        TrainConfig(
            weights=str(weights),
            data=config.data,
            epochs=config.finetune,
            lr=FINETUNE_LR,
            img_size=session.size,
            seed=config.seed,
            cache=config.cache,
            name=weights.stem,
            device=config.device,
            sparse=sparse,
            prune=1 if sparse else 0,
            batch_size=config.batch_size,
            workers=config.workers,
        )
    )
    left = output_of(record)
    assert left is not None, "a finished training leaves its last epoch"
    return left
