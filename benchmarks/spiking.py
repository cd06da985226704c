"""One network as spikes in every mode and at every number of bits: accuracy, steps, spikes, operations, energy, speed.

  python3 benchmarks/spiking.py --weights weights/best.pt                       the sample set, 64 validation images
  python3 benchmarks/spiking.py --weights weights/raccoon.pt --data ../shared/data/raccoon --bits 8 4 --images 40
  python3 benchmarks/spiking.py --weights weights/best.pt --trained 3=weights/best_3.int.pt 2=weights/best_2.int.pt

Of each number of activation bits: the integers, phase mode, streaming neurons (traced, after L steps and when exact;
signed and unsigned after L steps, as Fast-SNN runs them); and rates of 16, 64 and 256 steps, which have no bits.
Networks trained for fewer bits take the place of calibrated ones. All rows are measured on the same images. At the end
the speed of phase inference against integer inference and against the literal simulation, one after the other, in turn.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

import convert_snn
from models import load_model
from pipeline.bench import FLOAT, RUNS, Bench, open_bench
from pipeline.converting.flags import settle_flags
from pipeline.converting.outcome import Sample, curve_points
from pipeline.converting.rate import cost_of_rate, simulate
from pipeline.converting.stream import cost_of_stream
from utils import cli
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.reporting.record import new_run_folder
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_accuracy_over_time, plot_energy, plot_layer_bars
from utils.reporting.tables import plain_table
from utils.spiking.counting import Cost, measure
from utils.spiking.encode import SpikingNetwork, encode
from utils.spiking.observe import join, observe
from utils.spiking.phase import PhaseExecutor
from utils.spiking.rate import normalise
from utils.spiking.rate_executor import RateExecutor
from utils.spiking.stepwise import StepwiseExecutor
from utils.spiking.stream import StreamExecutor

log = logging.getLogger(__name__)

RATE_STEPS = (16, 64, 256)
SPEED_STEPS = 15  # L of 4 bits, unsigned
REPEATS = 5
SLOWEST_PHASE, LEAST_GAIN = 1.5, 5.0  # the bars


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = flags.add_argument
    add("--weights", required=True, help="a float network")
    add("--data", default=cli.DATA)
    add("--bits", type=int, nargs="+", default=[8, 4, 3, 2], help="of the activations")
    add("--w-bit", type=int, default=8, help="of the weights")
    add("--trained", nargs="*", default=[], metavar="BITS=FILE", help="integers that were trained for so few bits")
    add("--images", type=cli.positive, default=64, help="validation images")
    add("--channel-wise", action="store_true", help="rates with a scale for every channel")
    add("--schedule", choices=["spread", "preload"], default="spread", help="how pixels and biases arrive in streams")
    add("--device", default="cpu")
    return flags


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    bits: int | None
    mode: str
    map50: float
    steps: int | None = None
    exact: bool | None = None
    cost: Cost | None = None

    def cells(self) -> list[str]:
        """As texts."""
        c = self.cost
        costs = [f"{c.spikes:,.0f}", f"{c.sops / 1e6:.2f}", f"{c.sops_per_mac:.2f}"] if c else ["-"] * 3
        energies = [f"{c.energy.spiking_fp32 / 1e6:.3g}", f"{c.energy.spiking_int8 / 1e6:.3g}"] if c else ["-"] * 2
        exact = "-" if self.exact is None else "yes" if self.exact else "no"
        steps = "-" if self.steps is None else str(self.steps)
        return [str(self.bits or "-"), self.mode, f"{100 * self.map50:.2f}", exact, steps, *costs, *energies]

    def record(self) -> dict[str, Any]:
        """For the csv."""
        c = self.cost
        numbers = {
            "spikes": c.spikes,
            "sops": c.sops,
            "sops_per_mac": c.sops_per_mac,
            "energy_spiking_fp32_pj": c.energy.spiking_fp32,
            "energy_pj": c.energy.spiking_int8,
            "energy_ann_fp32_pj": c.energy.ann_fp32,
            "energy_ann_int8_pj": c.energy.ann_int8,
        } if c else {}  # fmt: skip
        named = {"bits": self.bits, "mode": self.mode, "map50": self.map50, "steps": self.steps}
        return {**named, "exact": None if self.exact is None else int(self.exact), **numbers}


Curves = dict[str, list[tuple[int, float]]]


def bits_rows(
    bench: Bench, sample: Sample, integer: IntegerNetwork, bits: int, schedule: str
) -> tuple[list[Row], Curves]:
    """Everything that runs on integers."""
    network = encode(integer)
    golden = sample.score(IntegerExecutor(integer))
    rows = [Row(bits, "integers", golden.map50)]
    phase = PhaseExecutor(network)
    found = sample.score(phase)
    exact = found.record() == golden.record()
    rows.append(Row(bits, "phase", found.map50, network.latency, exact, measure(phase, sample.inputs())))
    curves: Curves = {}
    for rule in ("traced", "signed", "unsigned"):
        if rule == "unsigned" and any(
            op.requantiser is not None and op.requantiser.lo < 0 for op in integer.ops.values()
        ):
            continue  # leaky: it could not
        steps = [None, network.window] if rule == "traced" else [network.window]
        for limit in steps:
            made, curve = stream_row(bench, sample, network, rule, limit, schedule, bits)
            rows.append(made)
            curves.setdefault(rule, []).extend(curve if limit == steps[0] else [])
    return rows, curves


def stream_row(
    bench: Bench, sample: Sample, network: SpikingNetwork, rule: str, limit: int | None, schedule: str, bits: int
) -> tuple[Row, list[tuple[int, float]]]:
    """Streaming neurons, read out after ``limit`` steps or when settled, and accuracy on the way."""
    executor = StreamExecutor(network, rule=rule, steps=limit, schedule=schedule)
    last = limit or executor.bound
    points = curve_points(min(last, 4 * network.window), None, [network.window, last])
    seen = [observe(executor, x, {*points, last}) for x in sample.inputs()]
    curve = {t: sample.score_heads([each.heads[t] for each in seen]).map50 for t in {*points, last}}
    every = join(seen)
    taken = max(every.settled.values()) if every.exact else last
    cost = cost_of_stream(network, every, bench.size)
    shown = [(t, value) for t, value in sorted(curve.items()) if t != executor.bound]
    return Row(bits, f"stream, {rule}, {'T = L' if limit else 'settled'}", curve[last], taken, every.exact, cost), shown


def rate_rows(bench: Bench, sample: Sample, channel_wise: bool) -> tuple[list[Row], Curves]:
    """Rates; each T is a simulation of its own, because its costs are."""
    network = bench.loaded.network
    assert network is not None
    images, rows = bench.training_images(bench.args.calibration), []
    curve: list[tuple[int, float]] = []
    for steps in RATE_STEPS:
        made = normalise(network, images, timesteps=steps, channel_wise=channel_wise)
        points = curve_points(steps, None) if steps == RATE_STEPS[-1] else (steps,)
        run = simulate(sample, RateExecutor(made), network, points)
        curve = [(t, sample.score_heads([each[t] for each in run.heads]).map50) for t in points]
        score = curve[-1][1]
        rows.append(Row(None, "rate", score, steps, False, cost_of_rate(made, run, bench.size)))
    return rows, {"rate": curve}


def integers_of(bench: Bench, args: argparse.Namespace, bits: int) -> IntegerNetwork:
    """Trained for so many bits, else calibrated.

    Raises:
        InputError: a file holds no integers.
    """
    trained = dict(pair.split("=", 1) for pair in args.trained)
    if str(bits) in trained:
        integer = load_model(trained[str(bits)]).integer
        if integer is None:
            raise InputError(f"{trained[str(bits)]}: holds no integers; give an .int.pt or .snn.pt")
        return integer
    assert bench.loaded.network is not None
    images = bench.training_images(bench.args.calibration)
    return lower(calibrate(bench.loaded.network, images, Scheme(w_bit=args.w_bit, a_bit=bits)))


def speed(network: SpikingNetwork, x: Tensor) -> list[list[str]]:
    """Medians of runs that take turns, ms an image; and what the bars say."""
    ways: dict[str, Callable[[Tensor], list[Tensor]]] = {
        "integers": IntegerExecutor(network.integer),
        "phase": PhaseExecutor(network),
        f"step by step, {network.window} steps a layer": StepwiseExecutor(network),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS + 1):  # the first of each warms up
        for name, way in ways.items():
            began = time.perf_counter()
            way(x)
            seconds[name].append(time.perf_counter() - began)
    median = {name: 1000 * statistics.median(values[1:]) / len(x) for name, values in seconds.items()}
    integers, phase, steps = median.values()
    bars = [
        "",
        f"{phase / integers:.2f}x the integers (bar {SLOWEST_PHASE})",
        f"{steps / phase:.1f}x phase (bar {LEAST_GAIN})",
    ]
    return [[name, f"{value:.2f}", bar] for (name, value), bar in zip(median.items(), bars, strict=True)]


def main() -> None:
    """Measure, print, draw."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    words = ["--weights", args.weights, "--data", args.data, "--device", args.device, "--workers", "0"]
    bench = open_bench(convert_snn.parser().parse_args(words), scripts=FLOAT)
    settle_flags(bench)
    if bench.loaded.network is None:
        raise SystemExit(f"{args.weights}: is no float network")
    sample, folder = Sample.of(bench, args.images), new_run_folder(RUNS, "bench_spiking", "")
    floating = sample.score(bench.loaded.predictor).map50
    rows, layers = [Row(None, "float", floating)], {}
    curves: Curves = {}
    for bits in args.bits:
        integer = integers_of(bench, args, bits)
        made, found = bits_rows(bench, sample, integer, bits, args.schedule)
        rows += made
        curves |= {f"{rule}, {bits} bits": curve for rule, curve in found.items() if bits == 4 or rule == "traced"}
        cost = next(row.cost for row in made if row.mode == "phase")
        assert cost is not None
        layers[f"{bits} bits"] = {i: c.spikes / max(1, c.neurons) for i, c in cost.layers.items() if c.spikes}
    made, found = rate_rows(bench, sample, args.channel_wise)
    rows, curves = rows + made, curves | found
    report(args, rows, curves, layers, folder, sample)
    network = encode(integers_of(bench, args, 4))
    timing = speed(network, next(sample.inputs())[:8])
    log.info(plain_table("speed at 4 bits, ms an image", [["", "ms", ""], *timing]))


def report(
    args: argparse.Namespace,
    rows: list[Row],
    curves: Curves,
    layers: dict[str, dict[int, float]],
    folder: Path,
    sample: Sample,
) -> None:
    """The table, the csv and the pictures."""
    heading = ["bits", "mode", "mAP@.5", "exact", "steps", "spikes", "MSOPs", "SOP/MAC", "uJ fp32", "uJ int"]
    log.info(plain_table(f"{args.weights}, {sample.said}", [heading, *(row.cells() for row in rows)]))
    dense = next(row.cost for row in rows if row.cost)
    log.info("dense: %.3g uJ in fp32, %.3g uJ in int8", dense.energy.ann_fp32 / 1e6, dense.energy.ann_int8 / 1e6)
    write_rows(folder / "spiking.csv", [row.record() for row in rows])
    plot_accuracy_over_time(folder / "map_over_time.png", curves, {"float": rows[0].map50})
    plot_layer_bars(
        folder / "spikes.png", layers, title="Spikes a neuron in phase mode", unit="spikes a frame", log=True
    )
    joules = {"dense, fp32": dense.energy.ann_fp32, "dense, int8": dense.energy.ann_int8}
    for row in rows:
        if row.cost is not None:
            name = f"{row.bits} bits, {row.mode}" if row.bits else f"{row.mode}, {row.steps} steps"
            joules[name] = row.cost.energy.spiking_int8
    plot_energy(folder / "energy.png", joules, title="Energy of a frame's arithmetic, integer constants")
    log.info("pictures and spiking.csv in %s", folder)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
