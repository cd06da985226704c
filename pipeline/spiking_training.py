"""Networks trained as spikes: --spiking, --trainer and what goes with them, and asking such a network step by step."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models import ConvBlock, Darknet, Loaded
from pipeline.session import Session
from utils.config.measure import DetectConfig, TestConfig
from utils.config.train import TrainConfig
from utils.darknet.neuron_cfg import with_neurons
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.reporting.facts import TaskFacts
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import plain_table
from utils.spiking.stateful_video import CarriedStream
from utils.spiking.stream import StreamExecutor
from utils.temporal.binary_steps import BinarySteps
from utils.temporal.early_exit import StepByStep
from utils.temporal.hardware import for_hardware
from utils.temporal.spike_record import SpikeRecord
from utils.temporal.stateful_video import CarriedSteps
from utils.temporal.straight_through import sharpness_at
from utils.training.fptt import FpttOptions

log = logging.getLogger(__name__)

COMPARED = 8  # validation images that two ways of running a network are compared on
FILM = 48  # steps of a film that a raster shows
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


def as_hardware(spec: ModelSpec) -> ModelSpec:
    """The network with weights of 8 bits, for --hw-friendly.

    Raises:
        InputError: it has no neurons, or something that takes more than shifts, sums and comparisons.
    """
    if not spec.neurons:
        raise InputError(
            "--hw-friendly: the network has no neurons; add --spiking lif, or --quantized pow2 for integers"
        )
    made = for_hardware(spec)
    log.info("--hw-friendly: %d layers with weights of 8 bits; decays and thresholds are shifts", len(made.kernels))
    return made


def forward_in_time(config: TrainConfig, spec: ModelSpec) -> FpttOptions | None:
    """What ``--trainer fptt`` asks for; None where gradients go back through all steps.

    Raises:
        InputError: the network has no steps, or another average of the weights is asked for as well.
    """
    if config.trainer != "fptt":
        return None
    if not spec.stateful:
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


def trained_as_spikes(loaded: Loaded, flag: str, least: int = 1) -> Darknet:
    """The network, if it was trained as spikes over so many steps.

    Raises:
        InputError: it was not; names the flag that asks for it.
    """
    if not isinstance(loaded.predictor, Darknet) or not loaded.spec.neurons:
        raise InputError(
            f"{flag}: {loaded.path} was not trained as spikes, a {loaded.kind} network has no steps of its own; train "
            "one with train.py --spiking lif"
        )
    if loaded.spec.timesteps < least:
        raise InputError(
            f"{flag}: {loaded.path} takes one step, which is the least; train one with train.py --spiking lif "
            "--timesteps 4"
        )
    return loaded.predictor


def measure_early(session: Session[TestConfig]) -> Record:
    """Accuracy against mean steps: a row for each margin of --early-exit, and one for all steps.

    Raises:
        InputError: the network takes no steps, or one.
    """
    network = trained_as_spikes(session.loaded, "--early-exit", least=2)
    record, shown = session.begin("test"), TaskFacts.of(session.task).main
    rows = [["margin", "mean steps", *(column.heading for column in shown)]]
    results: dict[str, Any] = {}
    for least in (*sorted(session.config.early_exit or ()), None):
        predictor = StepByStep(network, least)
        scores = session.score(predictor).record()
        name = "all steps" if least is None else f"margin {least:g}"
        results[name] = {**scores, "steps": statistics.mean(predictor.taken)}
        values = (results[name]["steps"], *(scores[column.name] for column in shown))
        rows.append([name.removeprefix("margin "), *(f"{value:.3f}" for value in values)])
    log.info(plain_table(f"{session.loaded.path.name}, {session.loaded.spec.timesteps} steps at most", rows))
    return finish_record(record, metrics=results)


def measure_binary(session: Session[TestConfig]) -> Record:
    """A network of levels and the same in binary steps: both scores, and how far their outputs are apart.

    Raises:
        InputError: it was not trained with ilif.
    """
    network = trained_as_spikes(session.loaded, "--binary-steps")
    binary = BinarySteps(network)
    record, shown = session.begin("test"), TaskFacts.of(session.task).main
    rows, results = [["run in", "steps", *(column.heading for column in shown)]], dict[str, Any]()
    steps = session.loaded.spec.timesteps
    for name, predictor, taken in (("levels", network, steps), ("binary steps", binary, steps * binary.most)):
        results[name] = {**session.score(predictor).record(), "steps": taken}
        rows.append([name, f"{taken}", *(f"{results[name][column.name]:.4f}" for column in shown)])
    images = session.validation_images(min(COMPARED, len(session.valid.dataset)))
    with torch.no_grad():
        pairs = list(zip(binary(images), network.to(images.device)(images), strict=True))
    results["apart"] = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)
    log.info(plain_table(f"{session.loaded.path.name}, {binary.most} levels", rows))
    sent = " and ".join(f"{value:g}" for value in sorted(binary.values))
    log.info("neurons sent %s; outputs are at most %.2g of their largest value apart", sent, results["apart"])
    return finish_record(record, metrics=results)


InSteps = CarriedStream | CarriedSteps | StepByStep  # predictors that count the steps they take


def in_steps(loaded: Loaded, config: DetectConfig) -> InSteps:
    """The predictor that is asked step by step: on video, until it is sure, or to see what fires.

    Raises:
        InputError: the network takes no steps of its own.
    """
    if config.raster or config.early_exit is not None:
        flag = "--raster" if config.raster else "--early-exit"
        network = trained_as_spikes(loaded, flag, least=1 if config.early_exit is None else 2)
        record = SpikeRecord(loaded.spec, FILM if config.carry else loaded.spec.timesteps) if config.raster else None
        if config.carry:
            return CarriedSteps(network, config.reset or 0, record)
        return StepByStep(network, config.early_exit, record)
    return carry(loaded, config.reset)


def carry(loaded: Loaded, every: int | None) -> CarriedStream | CarriedSteps:
    """The predictor that keeps its state from frame to frame.

    Raises:
        InputError: the network has no state to keep, or is to forget one that settles anyway.
    """
    if isinstance(loaded.predictor, Darknet) and loaded.spec.neurons:
        return CarriedSteps(loaded.predictor, every or 0)
    if not isinstance(loaded.predictor, StreamExecutor):
        raise InputError(
            f"--carry: {loaded.path} keeps no state; make a network with convert_snn.py --mode stream, or train one "
            "with train.py --spiking lif"
        )
    if every:
        raise InputError(f"--reset: {loaded.path} answers for a frame whatever was before; leave --reset away")
    return CarriedStream(loaded.predictor)


def told_of_steps(predictor: nn.Module) -> dict[str, float]:
    """Say how many steps were taken and how many neurons fired in one; the same numbers for the record."""
    found: dict[str, float] = {}
    if isinstance(predictor, InSteps):
        found["steps"] = statistics.mean(predictor.taken)
        log.info("%.1f steps a frame, %d for the first", found["steps"], predictor.taken[0])
    watched = getattr(predictor, "record", None)
    if watched:
        found["firing"] = statistics.mean(watched.firing.values())
        layers = ", ".join(f"{name} {100 * share:.1f}%" for name, share in watched.firing.items())
        log.info("%.1f%% of the neurons of a layer fire in a step: %s", 100 * found["firing"], layers)
    return found
