"""From integers to spikes, for convert_snn.py."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from pipeline.converting.flags import settle_flags
from pipeline.converting.rate import rate
from pipeline.converting.result import ConversionResult, cost_lines, cost_numbers, operations_table, pictures
from pipeline.converting.stream import snn_path, stream
from pipeline.quantise import bits_of, float_row, quantise
from pipeline.quantising.sizes import operations_of
from pipeline.report import begin
from pipeline.session import Session
from utils.detection.evaluate import Metrics
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import comparison_table
from utils.spiking.phase import PhaseExecutor
from utils.spiking.snn_checkpoint import ExecutionMode, save_spiking
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stepwise import StepwiseExecutor
from utils.spiking.synops import SpikeCost, measure

log = logging.getLogger(__name__)

COUNTED = 64  # validation images on which spikes are counted


def spikes_script(session: Session) -> Record:
    """convert_snn.py: convert in the mode that was asked for, and tell everything about it."""
    settle_flags(session)
    record = begin(session, "convert_snn")
    outcome = MODE_SCRIPTS[session.args.mode](session, record.folder)
    log.info(comparison_table(outcome.title, outcome.rows))
    for line in outcome.message:
        log.info(line)
    path = outcome.outputs[0]
    log.info("weights %s (%d bytes); pictures %s", path, path.stat().st_size, record.folder)
    return finish_record(record, metrics=outcome.rows, outputs=outcome.outputs)


def phase(session: Session, folder: Path) -> ConversionResult:
    """Integers, spikes layer after layer, the proof that they are the same, what they cost.

    Raises:
        InputError: spikes and integers differ, which would be our mistake.
    """
    integer = quantise(session, folder)
    spiking = encode(integer)
    rows, measured = float_row(session), {}
    integers, executor = IntegerExecutor(integer), PhaseExecutor(spiking)
    path = save_spiking(snn_path(session), spiking, session.manifest.names, session.meta, ExecutionMode("phase"))
    try:
        measured = {"quantised": session.score(integers), "spiking": session.score(executor)}
        rows["quantised"] = session.numbers(integers, measured["quantised"], integer.spec, path)
        rows["quantised"]["bops"] = operations_of(session, integer)
        rows["spiking"] = session.numbers(executor, measured["spiking"], integer.spec, path)
        message = prove(session, spiking, measured)
    except InputError:
        path.unlink()
        raise
    cost = spikes_of(session, spiking)
    rows["quantised"]["energy_pj"] = cost.energy.ann_int8
    rows["spiking"] |= cost_numbers(cost) | {"window_steps": spiking.window, "frame_latency_steps": spiking.latency}
    message = [spiking.describe(), *message, *cost_lines(cost), operations_table("where the operations are", cost)]
    shown = dict(measured)
    if session.loaded.network is not None:
        shown = {"float": session.score(session.loaded.predictor), **shown}
    outputs = [path, *pictures(session, shown, cost, folder)]
    return ConversionResult(f"{bits_of(integer)}, as integers and as spikes", rows, measured, message, outputs)


def prove(session: Session, spiking: SpikingNetwork, measured: dict[str, Metrics]) -> list[str]:
    """Spikes are the integers: the same metrics, and in the literal simulation the same counts in every layer.

    Raises:
        InputError: they differ, which would be our mistake; nothing that was not proved is kept.
    """
    a, b = measured["quantised"].record(), measured["spiking"].record()
    if a != b:
        raise InputError(f"spiking and quantised metrics differ: {a} and {b}; please report this network")
    message = ["spiking and quantised mAP are equal to the last digit"]
    images = session.args.stepwise
    if images:
        x = torch.stack([session.valid.dataset[i].image for i in range(images)]).float() / 255
        literal = StepwiseExecutor(spiking).simulate(x).counts()
        levels = IntegerExecutor(spiking.integer).levels(x)
        wrong = [i for i, count in literal.items() if not torch.equal(count.long(), levels[i].long())]
        if wrong:
            raise InputError(f"layers {wrong} spike otherwise than their integers; please report this network")
        message.append(
            f"step-by-step simulation of {images} images: spike counts equal the integers in all {len(literal)} layers"
        )
    return message


def spikes_of(session: Session, spiking: SpikingNetwork) -> SpikeCost:
    """Spikes and operations on some validation images."""
    batches, seen = [], 0
    for batch in session.valid:
        batches.append(batch.images.float() / 255)
        seen += len(batch.images)
        if seen >= COUNTED:
            break
    return measure(PhaseExecutor(spiking), batches)


MODE_SCRIPTS = {"phase": phase, "stream": stream, "rate": rate}
