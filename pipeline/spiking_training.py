"""Training as spikes: --spiking, --trainer, and what goes with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import nn

from models import ConvBlock
from utils.config.train import TrainConfig
from utils.darknet.neuron_cfg import with_neurons
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.temporal.straight_through import sharpness_at
from utils.training.fptt import FpttOptions

log = logging.getLogger(__name__)

LEVELS = 4  # of an ilif where nobody says: NeuronSpec.levels


def as_spiking(spec: ModelSpec, config: TrainConfig, highest: Mapping[int, float] | None) -> ModelSpec:
    """The network with --spiking's neurons; those of a quantised one fire at its levels' share of the highest."""
    kind = config.spiking or ""
    if highest is not None and kind != "ilif":
        raise InputError(
            f"--spiking {kind}: the thresholds of a quantised network are those of an ilif; use --spiking ilif, or the "
            "float network it was made of"
        )
    levels = config.levels or LEVELS
    thresholds = {i: top / levels for i, top in highest.items()} if highest is not None else None
    made = with_neurons(spec, kind, config.steps, levels=config.levels, thresholds=thresholds)
    converted = ", thresholds those of the quantised network" if highest is not None else ""
    log.info("--spiking %s: %d layers of neurons, T = %d%s", kind, len(made.neurons), config.steps, converted)
    return made


def forward_in_time(config: TrainConfig, spec: ModelSpec) -> FpttOptions | None:
    """What ``--trainer fptt`` asks for; None where gradients go back through all steps.

    Raises:
        InputError: the network has no steps, or another average of the weights is asked for as well.
    """
    if config.trainer != "fptt":
        return None
    if not spec.neurons:
        raise InputError("--trainer fptt: the network has no steps in time; add --spiking ltc, or use --trainer bptt")
    if config.ema and "ema" in config.given:
        raise InputError("--ema and --trainer fptt: fptt measures an average of its own; leave --ema away")
    steps, segments = spec.timesteps, config.fptt_k or spec.timesteps
    return FpttOptions(timesteps=steps, segments=segments, alpha=config.fptt_alpha, beta=config.fptt_beta)


def anneal(model: nn.Module, progress: float) -> None:
    """Tell binary weights how far the training is, 0 to 1: their gradient gets sharper from epoch to epoch."""
    for module in model.modules():
        if isinstance(module, ConvBlock):
            module.sharpness = sharpness_at(progress)
