"""What compress.py is told: the settings of its stages, and of a sweep over them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from utils import cli
from utils.cli import flag
from utils.config.bits import A_BIT, W_BIT
from utils.config.run import CFG, RunConfig
from utils.config.train import strategy
from utils.distillation.strategies import USUAL
from utils.quantization.scheme import Scheme

STAGES = ("baseline", "sparse", "pruned", "finetuned", "quantised", "spiking")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(RunConfig):
    """The flags of compress.py."""

    cfg: str | None = flag(None, f"the network's structure (default: {CFG}, or the one in --weights X.pt)")
    weights: str = flag("", "start the first training from these; fresh heads where classes differ")
    pretrained: bool = flag(False, "fresh heads also for --cfg alone; any part of --weights", "-pt", "--pretrained")
    epochs: int = flag(10, "of the first training", type=cli.positive)
    sparse_epochs: int = flag(9, "of the sparse training", type=cli.positive)
    finetune_epochs: int = flag(6, "of the training after the cut", type=cli.positive)
    kd: str = flag(USUAL, "what the baseline teaches it; none: nothing", "--KDstr", "--kd", type=strategy)
    s: float = flag(0.001, "strength of the sparsity penalty", type=cli.non_negative)
    percent: float = flag(0.65, "share of the channels to cut", type=cli.fraction)
    layer_keep: float = flag(0.1, "smallest share of its channels a layer keeps", type=cli.fraction)
    w_bit: int = flag(W_BIT, "bits of the weights, 2 to 8", type=int)
    a_bit: int = flag(A_BIT, "bits of the activations, 2 to 8", type=int)
    until: str | None = flag(None, "end after this stage", choices=STAGES)
    sweep: tuple[str, ...] | None = flag(
        None, "a chain for every combination of these values", nargs="+", metavar="FLAG=A,B"
    )
    jobs: int | None = flag(None, "chains at once in a sweep (default: one for two cores)", type=cli.positive)
    engine: str = flag("auto", "of a sweep; auto: Ray if installed", choices=["auto", "ray", "processes"])
    point: bool = flag(False, argparse.SUPPRESS)  # set by a sweep for what it starts

    def check_values(self) -> None:
        """Bits that no scheme has: the stage that needs them comes last."""
        Scheme(w_bit=self.w_bit, a_bit=self.a_bit)
