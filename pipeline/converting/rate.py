"""convert_snn.py --mode rate: the older conversion, done right, so that it can be compared."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.converting.flags import RATE_STEPS
from pipeline.converting.layerwise_calibration import (
    mode_row,
    modes_table,
    phase_row,
    tuned_line,
    tuned_rate,
    tuning_meta,
    tuning_table,
)
from pipeline.converting.result import (
    ConversionResult,
    Rows,
    ValidationSample,
    cost_lines,
    cost_numbers,
    curve_points,
    mismatch_table,
    pictures,
)
from pipeline.converting.stream import snn_path
from pipeline.quantise import quantise
from pipeline.session import Session
from utils.darknet import spec as s
from utils.darknet.network import Network
from utils.detection.evaluate import Metrics
from utils.errors import InputError
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_accuracy_over_time, plot_layer_bars
from utils.spiking import mismatch
from utils.spiking.mismatch import Mismatch
from utils.spiking.rate import RateNetwork, normalise
from utils.spiking.rate_executor import RateExecutor, rate_mismatches
from utils.spiking.snn_checkpoint import save_rate
from utils.spiking.spike_schedule import encode
from utils.spiking.synops import SpikeCost, cost_of

log = logging.getLogger(__name__)

FLOAT_BYTES = 4


def rate(session: Session, folder: Path) -> ConversionResult:
    """Normalise, simulate T steps, measure, save.

    Raises:
        InputError: the network is an integer one, or has a layer that cannot spike.
    """
    network = session.loaded.network
    if network is None:
        raise InputError(
            f"{session.loaded.path}: holds no float network, which --mode rate normalises; give the one it was made of"
        )
    converted, args = normalised(session, network), session.args
    sample = ValidationSample.of(session, args.images)
    made = tuned_rate(session, converted, network) if args.finetune else converted
    executor = RateExecutor(made)
    points = curve_points(made.timesteps, args.curve, [made.timesteps])
    run = simulate(sample, executor, network, points)
    curve = {t: sample.score_heads([each[t] for each in run.heads]) for t in points}
    cost = cost_of_rate(made, run, session.size)
    path = save_rate(snn_path(session), made, session.manifest.names, session.meta | tuning_meta(session))
    measured = {"float": sample.score(session.loaded.predictor), "spiking": curve[made.timesteps]}
    rows: Rows = {
        "float": session.numbers(session.loaded.predictor, measured["float"], session.loaded.spec, session.loaded.path),
        "spiking": session.numbers(executor, measured["spiking"], made.spec, path),
    }
    rows["spiking"] |= cost_numbers(cost) | {"steps": made.timesteps, "exact": False, "images": sample.images}
    message = [f"not exact after {made.timesteps} steps: {mismatch.worst(run.mismatches)}", *cost_lines(cost)]
    if args.finetune:
        before = simulate(sample, RateExecutor(converted), network, (made.timesteps,))
        rows = _beside(session, sample, converted, before, rows)
        message += [
            tuned_line(before.mismatches, run.mismatches),
            tuning_table(before.mismatches, run.mismatches, "spikes"),
            modes_table(rows),
        ]
    message.append(mismatch_table(run.mismatches, "spikes"))
    outputs = [path, *_files(folder, run, curve, rows), *pictures(session, measured, cost, folder)]
    how = "channel" if args.channel_wise else "layer"
    title = f"rates of {made.timesteps} steps, a scale a {how}, {args.percentile} %, reset {made.reset}; {sample.said}"
    return ConversionResult(title, rows, measured, message, outputs)


def _beside(session: Session, sample: ValidationSample, converted: RateNetwork, before: Simulated, rows: Rows) -> Rows:
    """The rows, and those of what was not tuned: the same rates, and phase mode, for which integers are calibrated."""
    score = sample.score_heads([each[converted.timesteps] for each in before.heads])
    cost, spiking = cost_of_rate(converted, before, session.size), rows.pop("spiking")
    phase = phase_row(sample, encode(quantise(session)))
    return {
        **rows,
        "phase": phase,
        "converted": mode_row(score, cost, converted.timesteps, exact=False),
        "spiking": spiking,
    }


def normalised(session: Session, network: Network) -> RateNetwork:
    """The network of rates that the flags ask for, normalised on training images."""
    args = session.args
    return normalise(
        network,
        session.training_images(args.calibration),
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


def simulate(sample: ValidationSample, executor: RateExecutor, network: Network, points: tuple[int, ...]) -> Simulated:
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


def cost_of_rate(made: RateNetwork, seen: Simulated, size: tuple[int, int]) -> SpikeCost:
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
