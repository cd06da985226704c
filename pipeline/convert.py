"""From a float network to integers and on to spikes, for quantize.py and convert_snn.py."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

from pipeline.bench import WEIGHTS, Bench
from pipeline.report import begin, compare
from utils.darknet.network import save_checkpoint
from utils.detection.evaluate import Metrics
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.intfile import to_checkpoint
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.reporting.files import free_path
from utils.reporting.plots import plot_bars
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import comparison_table
from utils.spiking.counting import Cost, measure
from utils.spiking.encode import SpikingNetwork, encode
from utils.spiking.phase import PhaseExecutor
from utils.spiking.stepwise import StepwiseExecutor

log = logging.getLogger(__name__)

COUNTED = 64  # validation images on which spikes are counted


def quantise(bench: Bench) -> IntegerNetwork:
    """Fold, calibrate on training images, lower to integers; a quantised network comes back as it is.

    Raises:
        InputError: a layer has no integer form, or an accumulator does not fit into 32 bits.
    """
    if bench.loaded.integer is not None:
        log.info("%s is quantised already; --w-bit and --a-bit do not apply", bench.loaded.path)
        return bench.loaded.integer
    assert bench.loaded.network is not None
    args = bench.args
    scheme = Scheme(w_bit=args.w_bit, a_bit=args.a_bit, ranges=args.ranges)
    return lower(calibrate(bench.loaded.network, bench.training_images(args.calibration), scheme))


def save_integer(bench: Bench, integer: IntegerNetwork, kind: str, suffix: str) -> Path:
    """``weights/<stem><suffix>``, under a name that nobody has taken."""
    stem = bench.loaded.path.name.removesuffix(".pt").removesuffix(".weights").removesuffix(".int")
    stem = f"{stem}_{bench.args.name}" if bench.args.name else stem
    meta = {"from": str(bench.loaded.path), "size": list(bench.size)}
    path = free_path(WEIGHTS / f"{stem}{suffix}")
    return save_checkpoint(path, to_checkpoint(integer, kind, bench.manifest.names, meta))


def quantise_script(bench: Bench) -> Record:
    """quantize.py: the integer network, measured and saved."""
    record = begin(bench, "quantize")
    integer = quantise(bench)
    rows, measured = _float_row(bench), {}
    path = save_integer(bench, integer, "quantised", ".int.pt")
    executor = IntegerExecutor(integer)
    measured["quantised"] = bench.score(executor)
    cost = spikes_of(bench, encode(integer))
    rows["quantised"] = bench.numbers(executor, measured["quantised"], integer.spec, path)
    rows["quantised"]["energy_pj"] = cost.energy.ann_int8
    log.info(comparison_table(f"quantised to {_bits(integer)}", rows))
    compare(bench, measured, record.folder / "detections.jpg")
    return finish_record(record, metrics=rows, outputs=[path, record.folder / "detections.jpg"])


def spikes_script(bench: Bench) -> Record:
    """convert_snn.py: integers, spikes, the proof that they are the same, what they cost."""
    record = begin(bench, "convert_snn")
    integer = quantise(bench)
    spiking = encode(integer)
    rows, measured = _float_row(bench), {}
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
    log.info(comparison_table(f"{_bits(integer)}, as integers and as spikes", rows))
    for line in (spiking.describe(), *told, *cost_lines(cost)):
        log.info(line)
    outputs = [path, *pictures(bench, measured, cost, record.folder)]
    log.info("weights %s (%d bytes); pictures %s", path, path.stat().st_size, record.folder)
    return finish_record(record, metrics=rows, outputs=outputs)


def _float_row(bench: Bench) -> dict[str, dict[str, Any]]:
    """The network as it came, when it is a float one."""
    loaded = bench.loaded
    if loaded.network is None:
        return {}
    return {"float": bench.numbers(loaded.predictor, bench.score(loaded.predictor), loaded.spec, loaded.path)}


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


def _bits(integer: IntegerNetwork) -> str:
    return f"{integer.scheme.w_bit}-bit weights, {integer.scheme.a_bit}-bit activations"


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


def add_flags(flags: argparse.ArgumentParser) -> None:
    """The flags of quantisation."""
    flags.add_argument("--cfg", default=None, help="structure of .weights; a .pt carries its own")
    flags.add_argument("--weights", default="", help="what to convert (default: the newest pruned or trained network)")
    flags.add_argument("--w-bit", type=int, default=8, help="bits of the weights, 2 to 8")
    flags.add_argument("--a-bit", type=int, default=4, help="bits of the activations, 2 to 8")
    flags.add_argument("--ranges", choices=["mse", "percentile", "minmax"], default="mse", help="how ranges are chosen")
    flags.add_argument("--calibration", type=int, default=128, help="training images that ranges are measured on")
