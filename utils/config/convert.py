"""What convert_snn.py is told."""

from __future__ import annotations

from dataclasses import dataclass

from utils import cli
from utils.cli import flag
from utils.config.quantise import QuantiseConfig
from utils.spiking.choices import EARLIER_WORDS, MODES, NEURONS, RESETS, SCHEDULES

RATE_STEPS = 128


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(QuantiseConfig):
    """The flags of convert_snn.py: those of calibration, then mode, steps, neurons, how much is measured.

    ``percentile`` is that of --mode rate or of --ranges percentile; each has a default of its own. What depends on the
    mode is None until `pipeline.convert.settled` fills it in.
    """

    percentile: float | None = flag(
        None,
        "share of the values that fits: --ranges percentile (default: 99.99), --mode rate (default: 99.999)",
        type=float,
    )
    mode: str = flag(
        MODES[0],
        f"{MODES[0]}: layer after layer; stream: all at once; rate: the old way",
        type=cli.renamed(MODES, EARLIER_WORDS),
        metavar="{" + ",".join(MODES) + "}",
    )
    timesteps: int | None = flag(
        None,
        f"stream: simulate at most so many (default: until settled, with other neurons L); rate: T ({RATE_STEPS})",
        type=cli.positive,
    )
    early_exit: int | None = flag(None, "stream: the saved network answers after so many steps", type=cli.positive)
    neuron: str | None = flag(
        None,
        "stream: st-bif is exact (default), the others compare",
        type=cli.renamed(NEURONS, EARLIER_WORDS),
        metavar="{" + ",".join(NEURONS) + "}",
    )
    schedule: str | None = flag(None, "stream: how pixels and biases arrive (default: spread)", choices=SCHEDULES)
    channel_wise: bool = flag(False, "rate: a scale for every channel (default: one a layer)")
    reset: str | None = flag(None, "rate: what a spike takes from the membrane (default: subtract)", choices=RESETS)
    images: int = flag(64, "stream and rate: validation images that are simulated", type=cli.positive)
    curve: tuple[int, ...] | None = flag(
        None, "stream and rate: steps at which mAP is measured", type=cli.positive, nargs="+"
    )
    stepwise: int = flag(2, "layerwise: images of the literal step-by-step proof", type=cli.whole)
    finetune: bool = flag(False, "stream with limited steps or other neurons, and rate: layer by layer")
    finetune_images: int = flag(16, "training images that --finetune sees", type=cli.positive)
    finetune_iterations: int = flag(8, "of each layer", type=cli.positive)
