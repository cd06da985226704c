"""convert_snn.py --mode rate: the older conversion, done right, so that it can be compared."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.bench import Bench
from pipeline.converting.flags import RATE_STEPS
from pipeline.converting.outcome import (
    Outcome,
    Rows,
    Sample,
    cost_lines,
    cost_numbers,
    curve_points,
    mismatch_table,
    pictures,
)
from pipeline.converting.stream import snn_path
from pipeline.converting.tuning import (
    mode_row,
    modes_table,
    phase_row,
    tuned_line,
    tuned_rate,
    tuning_meta,
    tuning_table,
)
from pipeline.quantise import quantise
from utils.darknet import spec as s
from utils.darknet.network import Network
from utils.detection.evaluate import Metrics
from utils.errors import InputError
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_accuracy_over_time, plot_layer_bars
from utils.spiking import mismatch
from utils.spiking.counting import Cost, cost_of
from utils.spiking.encode import encode
from utils.spiking.mismatch import Mismatch
from utils.spiking.rate import RateNetwork, normalise
from utils.spiking.rate_executor import RateExecutor, rate_mismatches
from utils.spiking.snnfile import save_rate

log = logging.getLogger(__name__)

FLOAT_BYTES = 4


def rate(bench: Bench, folder: Path) -> Outcome:
    """Normalise, simulate T steps, measure, save.

    Raises:
        InputError: the network is an integer one, or has a layer that cannot spike.
    """
    network = bench.loaded.network
    if network is None:
        raise InputError(
            f"{bench.loaded.path}: holds no float network, which --mode rate normalises; give the one it was made of"
        )
    converted, args = normalised(bench, network), bench.args
    sample = Sample.of(bench, args.images)
    made = tuned_rate(bench, converted, network) if args.finetune else converted
    executor = RateExecutor(made)
    points = curve_points(made.timesteps, args.curve, [made.timesteps])
    run = simulate(sample, executor, network, points)
    curve = {t: sample.score_heads([each[t] for each in run.heads]) for t in points}
    cost = cost_of_rate(made, run, bench.size)
    path = save_rate(snn_path(bench), made, bench.manifest.names, bench.meta | tuning_meta(bench))
    measured = {"float": sample.score(bench.loaded.predictor), "spiking": curve[made.timesteps]}
    rows: Rows = {
        "float": bench.numbers(bench.loaded.predictor, measured["float"], bench.loaded.spec, bench.loaded.path),
        "spiking": bench.numbers(executor, measured["spiking"], made.spec, path),
    }
    rows["spiking"] |= cost_numbers(cost) | {"steps": made.timesteps, "exact": False, "images": sample.images}
    told = [f"not exact after {made.timesteps} steps: {mismatch.worst(run.mismatches)}", *cost_lines(cost)]
    if args.finetune:
        before = simulate(sample, RateExecutor(converted), network, (made.timesteps,))
        rows = _beside(bench, sample, converted, before, rows)
        told += [
            tuned_line(before.mismatches, run.mismatches),
            tuning_table(before.mismatches, run.mismatches, "spikes"),
            modes_table(rows),
        ]
    told.append(mismatch_table(run.mismatches, "spikes"))
    outputs = [path, *_files(folder, run, curve, rows), *pictures(bench, measured, cost, folder)]
    how = "channel" if args.channel_wise else "layer"
    title = f"rates of {made.timesteps} steps, a scale a {how}, {args.percentile} %, reset {made.reset}; {sample.said}"
    return Outcome(title, rows, measured, told, outputs)


def _beside(bench: Bench, sample: Sample, converted: RateNetwork, before: Simulated, rows: Rows) -> Rows:
    """The rows, and those of what was not tuned: the same rates, and phase mode, for which integers are calibrated."""
    score = sample.score_heads([each[converted.timesteps] for each in before.heads])
    cost, spiking = cost_of_rate(converted, before, bench.size), rows.pop("spiking")
    phase = phase_row(sample, encode(quantise(bench)))
    return {
        **rows,
        "phase": phase,
        "converted": mode_row(score, cost, converted.timesteps, exact=False),
        "spiking": spiking,
    }


def normalised(bench: Bench, network: Network) -> RateNetwork:
    """The network of rates that the flags ask for, normalised on training images."""
    args = bench.args
    return normalise(
        network,
        bench.training_images(args.calibration),
        timesteps=args.timesteps or RATE_STEPS,
        percentile=args.percentile,
        channel_wise=args.channel_wise,
        reset=args.reset,
    )


class Simulated:
    """What the simulations of all batches saw, together."""

    def __init__(self) -> None:
        self.heads: list[dict[int, list[Tensor]]] = []
        self.activity: dict[int, Tensor] = {}
        self.images = 0
        self.parts: list[dict[int, Mismatch]] = []

    @property
    def mismatches(self) -> dict[int, Mismatch]:
        """Of all images."""
        return mismatch.together(self.parts)


def simulate(sample: Sample, executor: RateExecutor, network: Network, points: tuple[int, ...]) -> Simulated:
    """All images of the sample."""
    seen = Simulated()
    for x in tqdm(sample.inputs(), total=len(sample.batches), desc="rate", delay=2, leave=False, disable=None):
        run = executor.run(x, points)
        seen.heads.append(run.heads)
        seen.images += len(x)
        seen.parts.append(rate_mismatches(executor.rate, run, network, x, executor.steps))
        for i, fired in run.activity.items():
            seen.activity[i] = seen.activity[i] + fired if i in seen.activity else fired
    return seen


def cost_of_rate(made: RateNetwork, seen: Simulated, size: tuple[int, int]) -> Cost:
    """Costs of the spikes of T steps; float weights, one membrane a neuron."""
    from utils.darknet.shapes import channels, sizes

    spec, state = made.spec, made.network.state
    wide, sides = channels(spec), sizes(spec, *size)
    work = {
        i: state[f"layers.{i}.conv.weight"] if isinstance(layer, s.Conv) else None
        for i, layer in enumerate(spec.layers)
        if isinstance(layer, s.Conv | s.Shortcut)
    }
    counts = {i: fired[None].cpu() for i, fired in seen.activity.items()}
    for i in (-1, *range(len(spec.layers))):
        counts.setdefault(i, torch.zeros(1, wide[i], *sides[i], dtype=torch.float64))
    state_bytes = FLOAT_BYTES * sum(wide[i] * sides[i][0] * sides[i][1] for i in work)
    weights = FLOAT_BYTES * sum(value.numel() for value in state.values())
    return cost_of(spec, work, [(seen.images, counts)], state_bytes=state_bytes, weight_bytes=weights)


def _files(folder: Path, seen: Simulated, curve: dict[int, Metrics], rows: Rows) -> list[Path]:
    layers = seen.mismatches
    points = {"rate": [(t, metrics.map50) for t, metrics in curve.items()]}
    shares = {
        "off by more than half a spike": {i: 100 * m.share for i, m in layers.items()},
        "by its own fault": {i: 100 * m.own_share for i, m in layers.items()},
    }
    return [
        write_rows(folder / "curve.csv", [{"steps": t, **metrics.record()} for t, metrics in curve.items()]),
        write_rows(folder / "mismatch.csv", mismatch.rows(layers)),
        plot_accuracy_over_time(folder / "map_over_time.png", points, {"float": rows["float"]["map50"]}),
        plot_layer_bars(
            folder / "mismatch.png", shares, title="Neurons whose rate is not their activation", unit="% of the neurons"
        ),
    ]
