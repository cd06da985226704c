"""--bits auto: sensitivity, a descent, and the real mAP of a few of its steps, all of it on training images.

Validation images take no part in the choice, so that what is measured on them afterwards is honest.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.quantising.flags import MAX_DROP, Budget
from pipeline.session import Session
from utils.darknet.counts import count
from utils.darknet.expand import expand
from utils.darknet.spec import Detect, ModelSpec
from utils.detection.boxes import cxcywh_to_xyxy, paired_iou
from utils.detection.dataset import BoxBatch as Batch
from utils.detection.decode import decode
from utils.detection.evaluate import evaluate
from utils.errors import InputError
from utils.files import writing
from utils.quantization.bits import as_written, write_bits_map
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.quantization.sensitivity import (
    FULL,
    BitCost,
    BitUnit,
    DamageRow,
    DescentStep,
    bits_by_layer,
    descend,
    scheme_with,
    sensitivity,
)
from utils.reporting.quantisation_plots import plot_bits
from utils.reporting.tables import plain_table

log = logging.getLogger(__name__)

PROBED = 16  # training images that each unit's damage is measured on
SCORED = 256  # training images that a candidate's mAP is measured on


@dataclass(frozen=True)
class Trial:
    """A step of the descent and its mAP@.5 on training images.

    ``scheme`` counts layers as the cfg does, ``own`` as the network that has its [se] written out.
    """

    step: DescentStep
    scheme: Scheme
    own: Scheme
    map50: float


@dataclass
class TrialScorer:
    """Scores networks on one set of training images, and remembers what it has tried."""

    session: Session
    start: Scheme
    images: list[Tensor]
    batches: list[Batch]
    allowed: float
    trials: list[Trial] = field(default_factory=list)
    exact: float = 0.0

    def score(self, predictor: nn.Module) -> float:
        """The mAP@.5 of a network."""
        predictor, device = predictor.to(self.session.device), self.session.device
        names = self.session.manifest.names
        return evaluate(predictor, self.batches, self.session.heads, names, device=device).map50

    def accepts(self, step: DescentStep) -> bool:
        """Whether a step stays within the drop; measured, as quantised anew with these bits."""
        network = self.session.loaded.network
        assert network is not None
        expanded, number = expand(network)
        scheme = scheme_with(self.start, expanded.spec, step.choice)
        scheme = replace(scheme, layer_bits=as_written(scheme.layer_bits, number))
        integer = lower(calibrate(network, self.images, scheme))
        self.trials.append(Trial(step, scheme, integer.scheme, self.score(IntegerExecutor(integer))))
        return self.drop_of(self.trials[-1]) <= self.allowed

    def drop_of(self, trial: Trial) -> float:
        """What a trial lost against the float network."""
        return self.exact - trial.map50


def choose_bits(session: Session, start: Scheme, images: list[Tensor], folder: Path | None) -> Scheme:
    """The scheme with bits by layer that ``--max-drop`` and ``--budget`` ask for.

    Args:
        session: the network and the data.
        start: the scheme of 8 bits.
        images: calibration batches.
        folder: where bits.csv, bits.txt and bits.png go; None: nowhere.

    Raises:
        InputError: no bits meet the budget, or those that do cost more than the drop.
    """
    assert session.loaded.network is not None
    allowed = MAX_DROP if session.args.max_drop is None else session.args.max_drop
    wanted: Budget | None = session.args.budget
    full = calibrate(session.loaded.network, images, start)
    spec = full.network.spec
    probe = torch.cat(images)[:PROBED]
    rows = sensitivity(full, images, damage_measure(lower(full), probe, session.heads))
    macs = {layer.layer: layer.macs for layer in count(spec, session.size).layers}
    kind = wanted.kind if wanted else "bops"
    steps = descend(rows, BitCost(spec, kind, macs))
    batches = list(session.training_batches(-(-SCORED // session.valid.batch_size)))
    judge = TrialScorer(session, start, images, batches, allowed)
    judge.exact = judge.score(session.loaded.predictor)
    chosen = _meet(steps, judge, wanted) if wanted else _cheapest(steps, judge)
    _tell(spec, chosen, rows, judge, kind)
    if folder is not None:
        _leave(folder, spec, chosen, rows, judge, kind, steps)
    return chosen.scheme


def damage_measure(base: IntegerNetwork, images: Tensor, heads: Sequence[Detect]) -> Callable[[IntegerNetwork], float]:
    """How far a network's boxes are from those of ``base``: squared errors of scores and overlaps over squared scores.

    A cell without an object adds next to nothing, however its raw numbers move.
    """
    size = (int(images.shape[2]), int(images.shape[3]))

    def boxes(network: IntegerNetwork) -> tuple[Tensor, Tensor]:
        found = decode(IntegerExecutor(network)(images), heads, size)  # [N,B,5+classes]
        return cxcywh_to_xyxy(found[..., :4]), found[..., 4:5] * found[..., 5:]

    places, scores = boxes(base)
    weight = scores.amax(-1).square()  # [N,B]

    def measure(network: IntegerNetwork) -> float:
        moved, made = boxes(network)
        off = (made - scores).square().sum(-1) + weight * (1 - paired_iou(moved, places)).square()
        return float(off.double().sum() / weight.double().sum().clamp_min(1e-12))

    return measure


def _meet(steps: Sequence[DescentStep], judge: TrialScorer, budget: Budget) -> Trial:
    """The first step within the budget."""
    inside = next((step for step in steps if step.share <= budget.share), None)
    if inside is None:
        raise InputError(
            f"--budget {budget.kind}={budget.share:g}: at the fewest bits {steps[-1].share:.3f} of 8 bits is left; "
            "ask for no less"
        )
    if judge.accepts(inside):
        return judge.trials[-1]
    raise InputError(
        f"--budget {budget.kind}={budget.share:g}: costs {judge.drop_of(judge.trials[-1]):.4f} of mAP@.5 on training "
        f"images, more than --max-drop {judge.allowed:g}; raise one of them, or train: train.py --quantized"
    )


def _cheapest(steps: Sequence[DescentStep], judge: TrialScorer) -> Trial:
    """The last step within the drop, by bisection: damage rises along the descent."""
    good, bad = 0, len(steps)
    best: Trial | None = None
    while bad - good > 1:
        middle = (good + bad) // 2
        if judge.accepts(steps[middle]):
            good, best = middle, judge.trials[-1]
        else:
            bad = middle
    if best is not None or judge.accepts(steps[0]):
        return best or judge.trials[-1]
    raise InputError(
        f"--max-drop {judge.allowed:g}: {FULL} bits everywhere cost {judge.drop_of(judge.trials[-1]):.4f} of mAP@.5 on "
        "training images; allow more, or train: train.py --quantized"
    )


def _tell(spec: ModelSpec, chosen: Trial, rows: Sequence[DamageRow], judge: TrialScorer, kind: str) -> None:
    damage = {(row.unit, row.bits): row.damage for row in rows}
    table = [["layer", "cfg line", "weights", "alone at 4 bits", "activations", "alone at 4 bits"]]
    for i, w, a in bits_by_layer(chosen.own, spec):
        alone = [damage.get((BitUnit(which, i), 4)) for which in ("weights", "activations")]
        message = ["" if value is None else f"{value:.2g}" for value in alone]
        table.append([str(i), str(spec.layers[i].line), str(w or ""), message[0], str(a or ""), message[1]])
    log.info(plain_table("bits by layer, and what 4 bits there alone move", table))
    tried = [[kind, "predicted", "mAP@.5", "drop", ""], ["1", "float", f"{judge.exact:.4f}", "", ""]]
    for trial in sorted(judge.trials, key=lambda each: -each.step.share):
        drop = judge.drop_of(trial)
        verdict = "taken" if trial is chosen else "" if drop <= judge.allowed else "too much"
        tried.append(
            [f"{trial.step.share:.3f}", f"{trial.step.damage:.2g}", f"{trial.map50:.4f}", f"{drop:+.4f}", verdict]
        )
    log.info(plain_table(f"candidates on {sum(len(b.images) for b in judge.batches)} training images", tried))


def _leave(
    folder: Path,
    spec: ModelSpec,
    chosen: Trial,
    rows: Sequence[DamageRow],
    judge: TrialScorer,
    kind: str,
    steps: Sequence[DescentStep],
) -> None:
    layers = bits_by_layer(chosen.own, spec)
    with writing(folder / "bits.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["layer", "cfg_line", "unit", "bits", "damage", "chosen"])
        for (which, layer), bits, damage in rows:
            taken = int(chosen.step.choice[BitUnit(which, layer)] == bits)
            out.writerow([layer, spec.layers[layer].line, which, bits, f"{damage:.6g}", taken])
    drop = judge.drop_of(chosen)
    message = f"{kind} {chosen.step.share:.3f} of 8 bits, mAP@.5 on training images {drop:+.4f} under float"
    write_bits_map(folder / "bits.txt", chosen.scheme.layer_bits, message)
    tried = [(trial.step.share, judge.drop_of(trial)) for trial in judge.trials]
    plot_bits(
        folder / "bits.png",
        layers,
        descent=[(step.share, step.damage) for step in steps],
        tried=tried,
        taken=(chosen.step.share, drop),
        kind=kind,
    )
