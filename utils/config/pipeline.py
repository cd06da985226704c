"""What compress.py is told: the settings of its stages, and of a sweep over them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from utils import cli
from utils.cli import flag
from utils.config.bits import A_BIT, W_BIT
from utils.config.export import part
from utils.config.prune import FLAGS
from utils.config.run import CFG, RunConfig
from utils.config.train import AUTO, PRECISIONS, SCHEDULES
from utils.config.typed import activations, strategy, style
from utils.distillation.strategies import USUAL, USUAL_OF_SCORES
from utils.errors import InputError
from utils.export.engine.target import part_names
from utils.quantization.scheme import Scheme

RULE = "by the size of the data"
MAX_DROP = 0.05
STAGES = ("baseline", "sparse", "pruned", "finetuned", "quantised", "spiking")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(RunConfig):
    """The flags of compress.py."""

    cfg: str | None = flag(None, f"the network's structure (default: {CFG}, or the one in --weights X.pt)")
    weights: str = flag("", "start the first training from these; fresh heads where classes differ")
    pretrained: bool = flag(False, "fresh heads also for --cfg alone; any part of --weights", "-pt", "--pretrained")
    epochs: int | None = flag(None, f"of the first training (default: {RULE})", type=cli.positive)
    sparse_epochs: int | None = flag(None, f"of the sparse training (default: {RULE})", type=cli.positive)
    finetune_epochs: int | None = flag(None, f"of the training after the cut (default: {RULE})", type=cli.positive)
    patience: int | None = flag(
        None, "a training ends where so many epochs brought nothing better (default: half of them)", type=cli.positive
    )
    max_drop: float = flag(
        MAX_DROP, "of the task's score: what the whole chain may lose against the baseline", type=cli.fraction
    )
    kd: str = flag(
        USUAL,
        f"what the baseline teaches; none: nothing (default: {USUAL}, scores of classes {USUAL_OF_SCORES})",
        "--KDstr",
        "--kd",
        type=strategy,
    )
    s: float | None = flag(
        None, f"strength of the sparsity penalty (default: {RULE}, less where it harms)", type=cli.non_negative
    )
    lr: float | None = flag(
        None, f"rate of the trainings in floats, halved where they lose (default: {RULE})", type=cli.above_zero
    )
    precision: str = flag(
        AUTO,
        "of all trainings; auto: bf16 where a second's measurement before the first one finds it faster",
        choices=[AUTO, *PRECISIONS],
    )
    s_schedule: str | None = flag(
        None, f"of the sparsity penalty; decay: s / 100 from half way on (default: {RULE})", choices=SCHEDULES
    )
    act: str | None = flag(
        None, "other activations from the first training on, as train.py --act has them", type=activations
    )
    strategy: str = flag("slim", "the prune script that cuts", choices=tuple(FLAGS))
    shortcuts: int = flag(1, "residual blocks to take out, where the strategy takes blocks", type=cli.whole)
    percent: float | None = flag(
        None, "share of the channels to cut (default: the largest that --max-drop allows)", type=cli.fraction
    )
    layer_keep: float = flag(0.1, "smallest share of its channels a layer keeps", type=cli.fraction)
    w_bit: int = flag(W_BIT, "bits of the weights, 2 to 8", type=int)
    a_bit: int | None = flag(
        None, f"bits of the activations, 2 to 8; where they lose too much, more (default: {A_BIT})", type=int
    )
    style: str | None = flag(
        None, "of the integers: google, pow2, with --qat also dorefa, apot (default: google)", type=style
    )
    qat: bool = flag(False, "train for the integers, as long as after the cut, instead of calibrating them")
    target: str = flag(
        "",
        f"say what a frame takes on the engine on this part too: {', '.join(part_names())}, or FILE.json",
        type=part,
    )
    verbose: bool = flag(False, "show all that the stages say")
    until: str | None = flag(
        None, "end after this stage; of a model.onnx, which nothing trains, baseline alone", choices=STAGES
    )
    sweep: tuple[str, ...] | None = flag(
        None, "a chain for every combination of these values", nargs="+", metavar="FLAG=A,B"
    )
    jobs: int | None = flag(None, "chains at once in a sweep (default: one for two cores)", type=cli.positive)
    engine: str = flag("auto", "of a sweep; auto: Ray if installed", choices=["auto", "ray", "processes"])
    point: bool = flag(False, argparse.SUPPRESS)  # set by a sweep for what it starts

    def check_values(self) -> None:
        """Bits that no scheme has: the stage that needs them comes last."""
        Scheme(w_bit=self.w_bit, a_bit=self.a_bit or A_BIT)
        if self.style == "":
            raise InputError("--style -1: a chain ends in integers; --until finetuned ends before them")
        if self.style in ("dorefa", "apot") and not self.qat:
            raise InputError(f"--style {self.style}: has to be trained; add --qat")
