"""From integers to spikes, for convert_snn.py."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from pipeline.bench import Bench
from pipeline.quantise import bits_of, float_row, quantise, save_integer
from pipeline.report import begin, compare
from utils.detection.evaluate import Metrics
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.plots import plot_bars
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import comparison_table
from utils.spiking.counting import Cost, measure
from utils.spiking.encode import SpikingNetwork, encode
from utils.spiking.phase import PhaseExecutor
from utils.spiking.stepwise import StepwiseExecutor

log = logging.getLogger(__name__)

COUNTED = 64  # validation images on which spikes are counted


def spikes_script(bench: Bench) -> Record:
    """convert_snn.py: integers, spikes, the proof that they are the same, what they cost."""
    record = begin(bench, "convert_snn")
    integer = quantise(bench)
    spiking = encode(integer)
    rows, measured = float_row(bench), {}
    integers, phase = IntegerExecutor(integer), PhaseExecutor(spiking)
    path = save_integer(bench, integer, "spiking", ".snn.pt")
    try:
        measured = {"quantised": bench.score(integers), "spiking": bench.score(phase)}
        rows["quantised"] = bench.numbers(integers, measured["quantised"], integer.spec, path)
        rows["spiking"] = bench.numbers(phase, measured["spiking"], integer.spec, path)
        told = prove(bench, spiking, measured)
    except InputError:
        path.unlink()
        raise
    cost = spikes_of(bench, spiking)
    rows["quantised"]["energy_pj"], rows["spiking"]["energy_pj"] = cost.energy.ann_int8, cost.energy.spiking_int8
    rows["spiking"] |= {"spikes": cost.spikes, "sops": cost.sops} | _times(spiking, cost)
    log.info(comparison_table(f"{bits_of(integer)}, as integers and as spikes", rows))
    for line in (spiking.describe(), *told, *cost_lines(cost)):
        log.info(line)
    outputs = [path, *pictures(bench, measured, cost, record.folder)]
    log.info("weights %s (%d bytes); pictures %s", path, path.stat().st_size, record.folder)
    return finish_record(record, metrics=rows, outputs=outputs)


def prove(bench: Bench, spiking: SpikingNetwork, measured: dict[str, Metrics]) -> list[str]:
    """Spikes are the integers: the same metrics, and in the literal simulation the same counts in every layer.

    Raises:
        InputError: they differ, which would be our mistake; nothing that was not proved is kept.
    """
    a, b = measured["quantised"].record(), measured["spiking"].record()
    if a != b:
        raise InputError(f"spiking and quantised metrics differ: {a} and {b}; please report this network")
    told = ["spiking and quantised mAP are equal to the last digit"]
    images = bench.args.stepwise
    if images:
        x = torch.stack([bench.valid.dataset[i].image for i in range(images)]).float() / 255
        literal = StepwiseExecutor(spiking).simulate(x).counts()
        levels = IntegerExecutor(spiking.integer).levels(x)
        wrong = [i for i, count in literal.items() if not torch.equal(count.long(), levels[i].long())]
        if wrong:
            raise InputError(f"layers {wrong} spike otherwise than their integers; please report this network")
        told.append(
            f"step-by-step simulation of {images} images: spike counts equal the integers in all {len(literal)} layers"
        )
    return told


def spikes_of(bench: Bench, spiking: SpikingNetwork) -> Cost:
    """Spikes and operations on some validation images."""
    batches, seen = [], 0
    for batch in bench.valid:
        batches.append(batch.images.float() / 255)
        seen += len(batch.images)
        if seen >= COUNTED:
            break
    return measure(PhaseExecutor(spiking), batches)


def cost_lines(cost: Cost) -> list[str]:
    """Spikes, operations and energy in words, with what speaks against them."""
    e = cost.energy
    micro = [f"{value / 1e6:.3g}" for value in (e.ann_fp32, e.ann_int8, e.spiking_fp32, e.spiking_int8)]
    return [
        f"{cost.spikes_per_neuron:.2f} spikes a neuron, {cost.spikes:,.0f} a frame; {cost.sops:,.0f} accumulates"
        f" and {cost.input_macs:,} multiplications of pixels a frame (means of {cost.frames} validation images)",
        f"state {cost.state_bytes:,} bytes, weights {cost.weight_bytes:,} bytes",
        "energy of the arithmetic, uJ a frame, 45 nm (Horowitz, ISSCC 2014): dense fp32 {} and int8 {}, "
        "spikes with fp32 constants {} and with integer ones {}".format(*micro),
        cost.break_even,
    ]


def _times(spiking: SpikingNetwork, cost: Cost) -> dict[str, float]:
    return {
        "window_steps": spiking.window,
        "frame_latency_steps": spiking.latency,
        "spikes_per_neuron": cost.spikes_per_neuron,
        "energy_ann_fp32_pj": cost.energy.ann_fp32,
        "energy_ann_int8_pj": cost.energy.ann_int8,
        "energy_spiking_fp32_pj": cost.energy.spiking_fp32,
    }


def pictures(bench: Bench, measured: dict[str, Metrics], cost: Cost, folder: Path) -> list[Path]:
    """Detections side by side, spikes of each layer, energy."""
    shown = dict(measured)
    if bench.loaded.network is not None:
        shown = {"float": bench.score(bench.loaded.predictor), **shown}
    compare(bench, shown, folder / "detections.jpg")
    spikes = {f"layer {i}": layer.spikes / max(1, layer.neurons) for i, layer in cost.layers.items() if layer.spikes}
    e = cost.energy
    joules = {"dense fp32": e.ann_fp32, "dense int8": e.ann_int8, "spikes": e.spiking_int8}
    return [
        folder / "detections.jpg",
        plot_bars(folder / "spikes.png", spikes, title="Spikes a neuron, by layer", unit="spikes a frame"),
        plot_bars(folder / "energy.png", {k: v / 1e6 for k, v in joules.items()}, title="Energy of a frame", unit="uJ"),
    ]
