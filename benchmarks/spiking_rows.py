"""What benchmarks/spiking.py measures of one network: every mode on the same images, and the speed of three of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pipeline.conversion_result import ValidationSample
from pipeline.rate import cost_of_rate, simulate
from pipeline.session import Session
from pipeline.stream import cost_of_stream
from utils.config.convert import ConvertConfig
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.observe import Observation, curve_points, join, observe
from utils.spiking.rate import normalise
from utils.spiking.rate_executor import RateExecutor
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stepwise import StepwiseExecutor
from utils.spiking.stream import StreamExecutor
from utils.spiking.synops import SpikeCost, measure

RATE_STEPS = (16, 64, 256)
REPEATS = 5
SLOWEST_PHASE, LEAST_GAIN = 1.5, 5.0  # the bars of speed

Curves = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Row:
    """A line of one seed's table. ``bits`` of the activations; None where there are none."""

    bits: int | None
    mode: str
    map50: float
    steps: int | None = None
    exact: bool | None = None
    cost: SpikeCost | None = None

    @property
    def key(self) -> tuple[int | None, str]:
        """What the row is called in every seed."""
        return self.bits, self.mode

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


@dataclass(frozen=True)
class Whole:
    """mAP@.5 on all validation images; ``equal``: layerwise, every metric is the integers', to the last digit."""

    floating: float
    integers: float
    equal: bool

    @property
    def points(self) -> float:
        """What the integers lose, in points of mAP@.5."""
        return 100 * (self.floating - self.integers)


def whole(session: Session[ConvertConfig], integer: IntegerNetwork, floating: float) -> Whole:
    """Integers and layerwise mode on all validation images; ``floating``: the mAP@.5 of the float network there."""
    golden, spiking = session.score(IntegerExecutor(integer)), session.score(LayerwiseExecutor(encode(integer)))
    return Whole(floating, session.headline(golden), golden.record() == spiking.record())


def bits_rows(
    session: Session[ConvertConfig],
    sample: ValidationSample,
    integer: IntegerNetwork,
    bits: int,
    schedule: str,
    *,
    compare: bool = True,
) -> tuple[list[Row], Curves]:
    """Everything that runs on integers; ``compare``: the neurons of Fast-SNN too."""
    network = encode(integer)
    golden = sample.score(IntegerExecutor(integer))
    phase = LayerwiseExecutor(network)
    found = sample.score(phase)
    exact = found.record() == golden.record()
    rows = [
        Row(bits, "integers", session.headline(golden)),
        Row(bits, "layerwise", session.headline(found), network.latency, exact, measure(phase, sample.inputs())),
    ]
    made, curve = traced_rows(session, sample, network, schedule, bits)
    rows, curves = rows + made, {"st-bif": curve}
    if not compare:
        return rows, curves
    neurons = [op.requantiser for op in integer.ops.values() if op.requantiser is not None]
    if all(by.qmax >= network.window for by in neurons):  # none can pass its end in L steps, all that "st-bif" forbids
        rows.append(replace(made[0], mode="signed, T = L"))
    else:
        rows.append(window_row(session, sample, network, "signed", schedule, bits)[0])
    if all(by.qmin == 0 for by in neurons):  # of either sign Fast-SNN has none
        row, curves["unsigned"] = window_row(session, sample, network, "unsigned", schedule, bits)
        rows.append(row)
    return rows, curves


def traced_rows(
    session: Session[ConvertConfig], sample: ValidationSample, network: SpikingNetwork, schedule: str, bits: int
) -> tuple[list[Row], list[tuple[int, float]]]:
    """Exact neurons after L steps and when settled, from one simulation."""
    window, executor = network.window, StreamExecutor(network, schedule=schedule)
    curve, every = _streamed(sample, executor, window)
    early, taken = every.earlier[window], max(every.settled.values())
    first, final = (cost_of_stream(network, seen, session.size) for seen in (early, every))
    rows = [
        Row(bits, "stream, T = L", curve[window], window, early.exact, first),
        Row(bits, "stream, settled", curve[executor.bound], taken, every.exact, final),
    ]
    return rows, [(t, value) for t, value in curve.items() if t != executor.bound]


def window_row(
    session: Session[ConvertConfig],
    sample: ValidationSample,
    network: SpikingNetwork,
    rule: str,
    schedule: str,
    bits: int,
) -> tuple[Row, list[tuple[int, float]]]:
    """Other neurons after L steps, which is how Fast-SNN runs them."""
    window = network.window
    curve, every = _streamed(sample, StreamExecutor(network, rule=rule, steps=window, schedule=schedule), window)
    cost = cost_of_stream(network, every, session.size)
    return Row(bits, f"{rule}, T = L", curve[window], window, every.exact, cost), list(curve.items())


def _streamed(sample: ValidationSample, executor: StreamExecutor, window: int) -> tuple[dict[int, float], Observation]:
    """mAP@.5 by step, in order, and what was seen; everything at L steps too."""
    last = executor.steps or executor.bound
    points = {*curve_points(min(last, 4 * window), None, [window]), last}
    seen = [observe(executor, x, points, [window]) for x in sample.inputs()]
    curve = {t: sample.session.headline(sample.score_heads([each.heads[t] for each in seen])) for t in sorted(points)}
    return curve, join(seen)


def rate_rows(
    session: Session[ConvertConfig], sample: ValidationSample, channel_wise: bool
) -> tuple[list[Row], Curves]:
    """Rates; each T is a simulation of its own, because its costs are."""
    network = session.loaded.network
    assert network is not None
    images, rows = session.training_images(session.config.calibration), []
    curve: list[tuple[int, float]] = []
    converted = normalise(network, images, timesteps=RATE_STEPS[-1], channel_wise=channel_wise)
    for steps in RATE_STEPS:
        made = replace(converted, timesteps=steps)
        points = curve_points(steps, None) if steps == RATE_STEPS[-1] else (steps,)
        run = simulate(sample, RateExecutor(made), network, points)
        curve = [(t, session.headline(sample.score_heads([each[t] for each in run.heads]))) for t in points]
        rows.append(Row(None, f"rate, T = {steps}", curve[-1][1], steps, False, cost_of_rate(made, run, session.size)))
    return rows, {"rate": curve}


def speed(network: SpikingNetwork, x: Tensor) -> list[list[str]]:
    """Medians of runs that take turns, ms an image; and what the bars say."""
    ways: dict[str, Callable[[Tensor], list[Tensor]]] = {
        "integers": IntegerExecutor(network.integer),
        "layerwise": LayerwiseExecutor(network),
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
        f"{steps / phase:.1f}x layerwise (bar {LEAST_GAIN})",
    ]
    return [[name, f"{value:.2f}", bar] for (name, value), bar in zip(median.items(), bars, strict=True)]
