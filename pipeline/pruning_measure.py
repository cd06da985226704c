"""What is measured of a network on its way through a prune script."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import build
from pipeline.session import Session
from pipeline.training_run import Run
from utils.config.prune import PruneConfig
from utils.darknet.counts import count
from utils.darknet.network import Network
from utils.data.loader import Batch, make_loader
from utils.pruning.penalty import SparsityPenalty, StrengthSchedule
from utils.pruning.probe import pushed
from utils.pruning.recalibrate import recalibrate
from utils.pruning.sparsity import ENOUGH, prunable, reach_of
from utils.reporting.facts import TaskFacts
from utils.reporting.files import file_bytes

log = logging.getLogger(__name__)

PROBE_STEPS, PROBE_BATCH, PROBE_VALID = 30, 16, 4  # steps, images a step, batches to validate on
SAYS_SOMETHING = 0.01  # of a headline: under it nothing is measured
RECALIBRATION_BATCH = 64  # images: statistics of small maps need them
SECONDS = 1.5  # of timing a batch size
BATCH, SLOW_MS = 8, 250.0  # images timed at once, unless one alone takes so long


def tell_push(run: Run) -> None:
    """Where a run's push is too weak, what a stronger one costs: a short probe of the network that it starts from.

    Nothing of the run is touched, its random generators included. Untrained networks have nothing to lose yet.
    """
    config, task, spec, model = run.config, run.task, run.model.spec, run.model
    assert config.lr is not None
    penalty = SparsityPenalty(spec, prunable(spec, config.prune), config.s, StrengthSchedule(config.s_schedule))
    far = reach_of(penalty, run.update.schedule, config.lr)
    if not 0 < far < ENOUGH or config.adam or config.wanted_style or spec.neurons or run.group.size > 1:
        return
    seen, looked_at = run.dataset(spec, cache="off"), run.dataset(spec, images=run.manifest.valid, cache="off")
    batches = list(islice(make_loader(seen, PROBE_BATCH, workers=0, shuffle=True, seed=config.seed), PROBE_STEPS))
    valid = list(islice(make_loader(looked_at, RECALIBRATION_BATCH, workers=0), PROBE_VALID))
    device = run.precision.device

    def headline(net: nn.Module) -> float:
        found = task.evaluate(net, valid, spec, run.manifest.names, device=device, progress=False)
        return float(found.record()[task.headline])

    def after(reached: float) -> float:
        loss = task.loss(spec)
        return headline(
            pushed(model, batches, reached, penalty, inputs=lambda batch: task.inputs(batch, device), loss=loss)
        )

    with torch.random.fork_rng():
        before = headline(copy.deepcopy(model).eval())
        if before < SAYS_SOMETHING:
            return
        weak, strong = after(far), after(ENOUGH)
    log.info(
        "sparse: a probe of %d steps that push as far as the whole run: %s %.4f before, %.4f with s = %g, %.4f with "
        "s = %.2g; the run has %d steps to make up for it",
        len(batches), TaskFacts.of(task).score.heading, before, weak, config.s, strong, config.s * ENOUGH / far,
        run.update.schedule.steps,
    )  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """Metrics on the validation images, statistics on training images."""

    session: Session[PruneConfig]

    @cached_property
    def batches(self) -> list[Batch]:
        """Training images and their labels, for the statistics; none when ``--recalibrate 0``."""
        wanted = self.session.config.recalibrate * RECALIBRATION_BATCH
        return list(self.session.training_batches(-(-wanted // self.session.valid.batch_size)))

    @cached_property
    def images(self) -> list[Tensor]:
        """The same as [N, C, H, W] in 0..1."""
        return [self.session.task.inputs(each, torch.device("cpu")) for each in self.batches]

    def headline(self, net: Network) -> float:
        """The task's headline on the validation images."""
        return self.session.headline(self.session.score(build(net)))

    def row(self, net: Network, path: Path | None = None) -> dict[str, Any]:
        """A moment's column: scores, counts, bytes on disk."""
        counts = count(net.spec, self.session.size)
        row = {**self.session.score(build(net)).record(), "params": counts.params, "macs": counts.macs}
        return {**row, "bytes": file_bytes(path) if path else None}

    def latencies(self, full: Network, small: Network) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of the network before and of the one after: ms at batch 1 and 8, with the middle half of the repeats.

        Both take turns; nothing in a stage of compress.py, which times all its networks at its end. Of networks that
        one image keeps busy a batch is not timed: it tells nothing new, and takes longer than the cut itself.
        """
        rows: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
        if self.session.config.fingerprint:
            return rows["before"], rows["after"]
        models = {"before": build(full), "after": build(small)}
        for batch, name in ((1, "latency_ms"), (BATCH, "latency8_ms")):
            if batch > 1 and rows["after"]["latency_ms"] > SLOW_MS:
                log.info("latency at batch %d is not measured: one image takes over %.0f ms", batch, SLOW_MS)
                break
            for moment, latency in self.session.latencies(models, batch, SECONDS).items():
                log.info("latency at batch %d, %s: %s", batch, moment, latency)
                rows[moment] |= {name: latency.median, f"{name}_spread": [latency.low, latency.high]}
        return rows["before"], rows["after"]

    def recalibrated(self, net: Network) -> Network:
        """The network with batch norm statistics measured on training images."""
        return recalibrate(net, build, self.images, device=self.session.device) if self.images else net

    def better(self, cut: Network) -> tuple[Network, bool]:
        """The cut network with new batch norm statistics, or with its old ones; and whether they are new.

        Measuring them again helps a network that lost much, and harms one that lost nothing: its running statistics
        were those the layers behind were trained with. What decides is the task's headline on the training images.
        """
        small, new, _ = self._judged(cut)
        return small, new

    def left_by(self, cut: Network) -> float:
        """The headline of what `better` keeps, on the training images that decide there.

        They are more than the validation images in most sets, and a percent that is chosen by them can be measured on
        the others. Without ``--recalibrate`` there are none, and it is that of the validation images.
        """
        return self._judged(cut)[2] if self.batches else self.headline(cut)

    def before(self, full: Network) -> float:
        """The headline that `left_by` is compared with: of the network before any cut, as it is, on the same images."""
        return self._on_training_images(full) if self.batches else self.headline(full)

    @property
    def where(self) -> str:
        """The images that `left_by` and `before` look at."""
        return f"on {self.seen} training images" if self.seen else "on the validation images"

    @property
    def seen(self) -> int:
        """How many training images these are."""
        return sum(len(each.images) for each in self.batches)

    def _judged(self, cut: Network) -> tuple[Network, bool, float]:
        if not self.batches:
            return cut, False, math.nan
        measured = self.recalibrated(cut)
        old, new = (self._on_training_images(each) for each in (cut, measured))
        log.info("%s %s: %.4f with the old batch norm statistics, %.4f with new ones; the %s are kept",
                 self.session.heading, self.where, old, new, "new" if new > old else "old")  # fmt: skip
        return (measured, True, new) if new > old else (cut, False, old)

    def columns(self, silenced: Network, cut: Network) -> tuple[Network, dict[str, dict[str, Any]]]:
        """The network to keep of a cut, and the columns silenced, after, recalibrated."""
        columns = {"silenced": self.row(silenced), "after": self.row(cut)}
        small, new = self.better(cut)
        if self.batches:
            columns["recalibrated"] = self.row(small) if new else dict(columns["after"])
        return small, columns

    def _on_training_images(self, net: Network) -> float:
        session = self.session
        model, spec, names = build(net).to(session.device), session.loaded.spec, session.manifest.names
        found = session.task.evaluate(model, self.batches, spec, names, device=session.device, progress=False)
        return session.headline(found)
