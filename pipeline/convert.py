"""From integers to spikes, for convert_snn.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.conversion_result import ConversionResult, check_steps, metric_word, pictures
from pipeline.quantise import Rows, check_own_bits, float_row, tell_loss, to_integers
from pipeline.rate import rate
from pipeline.session import Session
from pipeline.stream import stream
from utils.config.bits import PERCENTILE as RANGE_PERCENTILE
from utils.config.convert import RATE_STEPS, ConvertConfig
from utils.errors import InputError
from utils.files import names_kept
from utils.quantization.executor import IntegerExecutor
from utils.quantization.sizes import bit_operations
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import comparison_table, plain_table
from utils.spiking.choices import LAYERWISE, RATE, STREAM
from utils.spiking.cost_words import cost_lines, cost_numbers, operations_rows
from utils.spiking.energy import INT8
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.rate import PERCENTILE as RATE_PERCENTILE
from utils.spiking.rate import RateNetwork
from utils.spiking.snn_checkpoint import EXACT, ExecutionMode, save_integers
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stepwise import StepwiseExecutor
from utils.spiking.synops import SpikeCost, measure
from utils.task import Metrics

log = logging.getLogger(__name__)

COUNTED = 64  # validation images on which spikes are counted


@dataclass(frozen=True)
class ConvertResult:
    """What converting left: the network in its mode, its file, metrics and rows of the record by name, the record."""

    network: SpikingNetwork | RateNetwork
    path: Path
    metrics: dict[str, Metrics]
    rows: Rows
    record: Record


@names_kept()
def convert(session: Session[ConvertConfig]) -> ConvertResult:
    """Convert in the mode that was asked for, and tell everything about it.

    Raises:
        InputError: a flag does nothing in this mode, or the network has no such form.
    """
    session = settled(session)
    session, record = session.begin_making("convert_snn", ".snn.pt")
    made = CONVERSIONS[session.config.mode](session, record.folder)
    tell_loss(session, made.rows)
    log.info(comparison_table(made.title, made.rows, session.task))
    for line in made.message:
        log.info(line)
    log.info("weights %s (%d bytes); pictures %s", made.path, made.path.stat().st_size, record.folder)
    record = finish_record(record, metrics=made.rows, outputs=[made.path, *made.files])
    return ConvertResult(made.network, made.path, made.measured, made.rows, record)


def settled(session: Session[ConvertConfig]) -> Session[ConvertConfig]:
    """The session with the defaults that depend on the mode filled in.

    Raises:
        InputError: there is nothing to convert or to tune, or steps contradict each other.
    """
    config = session.config
    if session.loaded.kind == "spiking" and session.loaded.integer is None:
        raise InputError(f"{session.loaded.path}: holds firing rates, not integers; give the network it was made of")
    check_own_bits(session)
    config = _settled_tuning(config)
    usual = RATE_PERCENTILE if config.mode == RATE else RANGE_PERCENTILE
    config = replace(
        config,
        percentile=usual if config.percentile is None else config.percentile,
        neuron=config.neuron or EXACT,
        schedule=config.schedule or "spread",
        reset=config.reset or "subtract",
    )
    steps = config.timesteps or (RATE_STEPS if config.mode == RATE else 0)
    if steps:
        check_steps(config, steps)
    return replace(session, config=config)


def _settled_tuning(config: ConvertConfig) -> ConvertConfig:
    if not config.finetune:
        return config
    limited = config.timesteps or config.early_exit or (config.neuron or EXACT) != EXACT
    if config.mode == LAYERWISE or (config.mode == STREAM and not limited):
        exact = f"{LAYERWISE} mode" if config.mode == LAYERWISE else "a stream that runs until it is settled"
        raise InputError(f"--finetune: {exact} is exact, there is nothing to tune; leave it away")
    # what is tuned for these steps is nothing later
    return replace(config, timesteps=config.early_exit) if config.early_exit else config


def layerwise(session: Session[ConvertConfig], folder: Path) -> ConversionResult:
    """Integers, spikes layer after layer, the proof that they are the same, what they cost.

    Raises:
        InputError: spikes and integers differ, which would be our mistake.
    """
    integer = to_integers(session, folder)
    spiking = encode(integer)
    rows, shown = float_row(session)
    integers, executor = IntegerExecutor(integer), LayerwiseExecutor(spiking)
    path, names, run = session.leaving(".snn.pt"), session.manifest.names, ExecutionMode(LAYERWISE)
    path = save_integers(path, integer, "spiking", names=names, meta=session.meta, run=run)
    try:
        measured = {"quantised": session.score(integers), "spiking": session.score(executor)}
        rows["quantised"] = session.numbers(measured["quantised"], integer.spec, path, INT8)
        rows["quantised"]["bops"] = bit_operations(integer, session.size)
        rows["spiking"] = session.numbers(measured["spiking"], integer.spec, path, None)
        session.timed(rows, {"float": session.loaded.predictor, "quantised": integers, "spiking": executor})
        message = prove(session, spiking, measured)
    except InputError:
        path.unlink()
        raise
    cost = spikes_of(session, spiking)
    rows["spiking"] |= cost_numbers(cost) | {"window_steps": spiking.window, "frame_latency_steps": spiking.latency}
    table = plain_table("where the operations are", operations_rows(cost))
    return ConversionResult(
        title=f"{integer.scheme.bits_and_style}, as integers and as spikes",
        network=spiking,
        path=path,
        rows=rows,
        measured=measured,
        message=[spiking.describe(), *message, *cost_lines(cost), table],
        files=pictures(session, shown | measured, cost, folder),
    )


def prove(session: Session[ConvertConfig], spiking: SpikingNetwork, measured: dict[str, Metrics]) -> list[str]:
    """Spikes are the integers: the same metrics, and in the literal simulation the same counts in every layer.

    Raises:
        InputError: they differ, which would be our mistake; nothing that was not proved is kept.
    """
    a, b = measured["quantised"].record(), measured["spiking"].record()
    if a != b:
        raise InputError(f"spiking and quantised metrics differ: {a} and {b}; please report this network")
    message = [f"spiking and quantised {metric_word(session)} are equal to the last digit"]
    images = session.config.stepwise
    if images:
        x = session.validation_images(images)
        literal = StepwiseExecutor(spiking).simulate(x).counts()
        levels = IntegerExecutor(spiking.integer).levels(x)
        wrong = [i for i, count in literal.items() if not torch.equal(count.long(), levels[i].long())]
        if wrong:
            raise InputError(f"layers {wrong} spike otherwise than their integers; please report this network")
        message.append(
            f"step-by-step simulation of {images} images: spike counts equal the integers in all {len(literal)} layers"
        )
    return message


def spikes_of(session: Session[Any], spiking: SpikingNetwork) -> SpikeCost:
    """Spikes and operations on the first validation images, the same ones whatever the batch."""
    batches, left = list[Tensor](), COUNTED
    for batch in session.valid:
        batches.append(session.task.inputs(batch, torch.device("cpu"))[:left])
        left -= len(batches[-1])
        if not left:
            break
    return measure(LayerwiseExecutor(spiking), batches)


CONVERSIONS: dict[str, Callable[[Session[ConvertConfig], Path], ConversionResult]] = {
    LAYERWISE: layerwise,
    STREAM: stream,
    RATE: rate,
}
