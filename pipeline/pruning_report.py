"""What a prune script shows and leaves: pre-flight, groups, tables, pictures, sensitivity; the network's files."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import build
from pipeline.pruning_planner import PruningPlanner
from pipeline.session import Session
from utils.config.as_trained import how_of
from utils.config.prune import AUTO, ChannelConfig, PruneConfig
from utils.darknet.cfg import write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.darknet.weights import write_weights
from utils.files import take, write_text
from utils.pruning.choices import Beta
from utils.pruning.explain import HEADING, explain
from utils.pruning.plan import Plan
from utils.pruning.preflight import Preflight
from utils.pruning.residuals import residuals
from utils.pruning.scores import all_gammas, gammas
from utils.pruning.sensitivity import sensitivity
from utils.pruning.strategy import Strategy
from utils.reporting.plots import plot_channels, plot_gammas
from utils.reporting.pruning_plots import plot_sensitivity
from utils.reporting.record import Record, finish_record
from utils.reporting.runs import WEIGHTS
from utils.reporting.tables import plain_table

log = logging.getLogger(__name__)

CFGS = Path("cfg/pruned")
PERCENTS = (0.25, 0.5, 0.75, 0.9)  # that --sensitivity tries
RESIDUAL_BATCHES = 1  # of training images, to see what --beta bias leaves at the borders


def tell_groups(net: Network) -> None:
    """The table of ``--explain``."""
    log.info(plain_table("channels that belong together", [list(HEADING), *explain(trace(net.spec), net.spec)]))


def tell_layers(found: Preflight) -> None:
    """Gammas and the highest safe percent of every layer."""
    quantiles = ", ".join(f"{100 * share:.0f} %: {value:.2g}" for share, value in found.quantiles.items())
    log.info("|gamma| of the %s channels on offer, quantiles: %s", f"{found.channels:,}", quantiles)
    rows = [["layer", "cfg line", "channels", "least", "median", "largest", "empty at"]]
    for each in found.layers:
        values = [f"{value:.2g}" for value in (each.smallest, each.median, each.largest)]
        rows.append([str(each.layer), str(each.line), str(each.channels), *values, f"{each.empties_at:.2f}"])
    log.info(plain_table("percent at which a layer has nothing above the threshold", rows))


def tell_residuals(planner: PruningPlanner, plan: Plan) -> None:
    """What ``--beta bias`` (or drop) leaves in each layer that loses constants."""
    beta, full = Beta(planner.channels.beta), planner.full
    images = planner.measure.images[:RESIDUAL_BATCHES] or planner.session.training_images(1)
    rows = [["layer", "cfg line", "largest error"]]
    for i, value in residuals(full, plan, images, build, beta).items():
        rows.append([str(i), str(full.spec.layers[i].line), f"{value:.2e}"])
    log.info(plain_table(f"--beta {beta.value}: distance from the gamma-zeroed network, relative", rows))


def pictures(
    full: Network, small: Network, names: Mapping[int, int], threshold: float | None, folder: Path
) -> list[Path]:
    """Gammas with the threshold, channels of each layer before and after.

    Args:
        full: the network before.
        small: and after.
        names: number of a layer in ``small`` -> in ``full``.
        threshold: of the scores, None where there is none.
        folder: of the run.
    """
    before = {i: len(values) for i, values in gammas(full).items()}
    after = {names[i]: len(values) for i, values in gammas(small).items()}
    sets = {"before": all_gammas(full), "after": all_gammas(small)}
    return [
        plot_gammas(folder / "gammas.png", sets, threshold=threshold),
        plot_channels(folder / "channels.png", before, after),
    ]


def measure_sensitivity(planner: PruningPlanner) -> Record:
    """``--sensitivity``: the headline against percent, layer by layer, uncalibrated: a csv and a picture."""
    measure, name = planner.measure, planner.session.task.headline
    record = planner.session.begin(planner.strategy.script)
    before = measure.headline(planner.full)
    rows = sensitivity(planner.full, percents=PERCENTS, measure=measure.headline, make=planner.made, **planner.rules)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["layer", "cfg_line", "percent", name])
    writer.writerows(rows)
    outputs = [
        write_text(record.folder / "sensitivity.csv", text.getvalue()),
        plot_sensitivity(record.folder / "sensitivity.png", rows, before=before, metric=planner.session.heading),
    ]
    worst = min(rows, key=lambda row: row.metric)
    log.info("%s %.4f uncut; the most sensitive: layer %d at percent %g, %.4f; %s, %s",
             planner.session.heading, before, worst.layer, worst.percent, worst.metric, *outputs)  # fmt: skip
    metrics: dict[str, Any] = {"before": {name: before}, "rows": [list(row) for row in rows]}
    return finish_record(record, metrics=metrics, outputs=outputs)


def amounts(config: PruneConfig, strategy: Strategy, plan: Plan | None) -> list[str]:
    """How much was cut, as words: a percent or a search, and a number of blocks."""
    words = []
    if isinstance(config, ChannelConfig) and plan is not None:
        given = config.iterative > 1 and config.percent != AUTO
        percent = float(config.percent) if given else round(plan.percent, 4)
        words.append(f"search {config.search}" if config.search else f"percent {percent:g}")
    return words + ([f"{strategy.blocks} blocks"] if strategy.blocks else [])


def stem_of(config: PruneConfig, strategy: Strategy, plan: Plan | None) -> str:
    """``slim_prune_0.8[_NAME]``, ``layer_prune_1``, ``layer_channel_prune_0.6_1``, ``slim_prune_search20``."""
    words = amounts(config, strategy, plan)
    parts = [word.removeprefix("percent ").removesuffix(" blocks").replace(" ", "") for word in words]
    return "_".join([strategy.script, *parts, *([config.name] if config.name else [])])


def save(session: Session[PruneConfig], small: Network, stem: str) -> list[Path]:
    """``weights/<stem>.pt`` and ``.weights``, ``cfg/pruned/<stem>.cfg``: one stem that nobody has taken."""
    files = [*take(WEIGHTS / f"{stem}.pt", WEIGHTS / f"{stem}.weights", CFGS / f"{stem}.cfg")]
    small = replace(small, spec=small.spec.saying(how_of(session.config)))  # .weights know it from their cfg alone
    meta = {"script": "prune", **session.meta}
    save_checkpoint(files[0], Checkpoint(small, session.manifest.names, meta=meta))
    write_weights(files[1], small)
    write_text(files[2], write_cfg(small.spec))
    return files
