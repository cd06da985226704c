"""convert_snn.py --mode rate: the older conversion, done right, so that it can be compared."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.conversion_result import (
    ConversionResult,
    ValidationSample,
    layerwise_row,
    metric_word,
    mismatch_table,
    mode_row,
    pictures,
    tuned_rate,
    tuning_lines,
    tuning_meta,
)
from pipeline.quantise import Rows, to_integers
from pipeline.session import Session
from utils.config.convert import RATE_STEPS, ConvertConfig
from utils.darknet import spec as s
from utils.darknet.network import Network
from utils.darknet.shapes import channels, sizes
from utils.errors import InputError
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_accuracy_over_time, plot_layer_bars
from utils.spiking import mismatch
from utils.spiking.choices import LAYERWISE, RATE
from utils.spiking.cost_words import cost_lines, cost_numbers
from utils.spiking.mismatch import Mismatch
from utils.spiking.observe import curve_points
from utils.spiking.rate import RateNetwork, normalise
from utils.spiking.rate_executor import RateExecutor, rate_mismatches
from utils.spiking.snn_checkpoint import save_rate
from utils.spiking.spike_schedule import encode
from utils.spiking.synops import SpikeCost, cost_of
from utils.task import Metrics

log = logging.getLogger(__name__)

FLOAT_BYTES = 4


def rate(session: Session[ConvertConfig], folder: Path) -> ConversionResult:
    """Normalise, simulate T steps, measure, save.

    Raises:
        InputError: the network is an integer one, or has a layer that cannot spike.
    """
    network = session.loaded.network
    if network is None:
        place = f"{session.loaded.path}: holds no float network, which --mode {RATE} normalises"
        raise InputError(f"{place}; give the one it was made of")
    converted, config = normalised(session, network), session.config
    sample = ValidationSample.of(session, config.images)
    made = tuned_rate(session, converted, network) if config.finetune else converted
    executor = RateExecutor(made)
    points = curve_points(made.timesteps, config.curve, [made.timesteps])
    run = simulate(sample, executor, network, points)
    curve = {t: sample.score_heads([each[t] for each in run.heads]) for t in points}
    cost = cost_of_rate(made, run, session.size)
    path = save(session, made)
    measured = {"float": sample.score(session.loaded.predictor), "spiking": curve[made.timesteps]}
    loaded = session.loaded
    rows = {"float": session.numbers(measured["float"], loaded.spec, loaded.path)}
    rows["spiking"] = session.numbers(measured["spiking"], made.spec, path, None)
    session.timed(rows, {"float": session.loaded.predictor, "spiking": executor})
    rows["spiking"] |= cost_numbers(cost) | {"steps": made.timesteps, "exact": False, "images": sample.images}
    message = [f"not exact after {made.timesteps} steps: {mismatch.worst(run.mismatches)}", *cost_lines(cost)]
    if config.finetune:
        before = simulate(sample, RateExecutor(converted), network, (made.timesteps,))
        rows = _beside(session, sample, converted, before, rows)
        message += tuning_lines(session, before.mismatches, run.mismatches, rows, "spikes")
    message.append(mismatch_table(run.mismatches, "spikes"))
    how = f"a scale a {'channel' if config.channel_wise else 'layer'}, {config.percentile} %, reset {made.reset}"
    title = f"rates of {made.timesteps} steps, {how}; {sample.said}"
    files = [*_files(session, folder, run, curve, rows), *pictures(session, measured, cost, folder)]
    return ConversionResult(
        title=title, network=made, path=path, rows=rows, measured=measured, message=message, files=files
    )


def save(session: Session[ConvertConfig], network: RateNetwork) -> Path:
    """``weights/<stem>.snn.pt``, which remembers T."""
    path, meta = session.leaving(".snn.pt"), session.meta | tuning_meta(session)
    return save_rate(path, network, names=session.manifest.names, meta=meta)


def _beside(
    session: Session[ConvertConfig], sample: ValidationSample, converted: RateNetwork, before: Simulated, rows: Rows
) -> Rows:
    """The rows, and those of what was not tuned: the same rates, and the exact mode of integers, calibrated here."""
    score = sample.score_heads([each[converted.timesteps] for each in before.heads])
    cost, spiking = cost_of_rate(converted, before, session.size), rows.pop("spiking")
    return {
        **rows,
        LAYERWISE: layerwise_row(sample, encode(to_integers(session))),
        "converted": mode_row(score, cost, converted.timesteps, exact=False),
        "spiking": spiking,
    }


def normalised(session: Session[ConvertConfig], network: Network) -> RateNetwork:
    """The network of rates that the flags ask for, normalised on training images."""
    config = session.config
    assert config.percentile and config.reset  # of a settled config
    return normalise(
        network,
        session.training_images(config.calibration),
        timesteps=config.timesteps or RATE_STEPS,
        percentile=config.percentile,
        channel_wise=config.channel_wise,
        reset=config.reset,
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


def _files(
    session: Session[ConvertConfig], folder: Path, seen: Simulated, curve: dict[int, Metrics], rows: Rows
) -> list[Path]:
    layers, over_time = seen.mismatches, folder / f"{metric_word(session).lower()}_over_time.png"
    points = {RATE: [(t, session.headline(metrics)) for t, metrics in curve.items()]}
    lines = {"float": rows["float"][session.task.headline]}
    shares = {
        "off by more than half a spike": {i: 100 * m.share for i, m in layers.items()},
        "by its own fault": {i: 100 * m.own_share for i, m in layers.items()},
    }
    return [
        write_rows(folder / "curve.csv", [{"steps": t, **metrics.record()} for t, metrics in curve.items()]),
        write_rows(folder / "mismatch.csv", mismatch.rows(layers)),
        plot_accuracy_over_time(over_time, points, lines, metric=session.heading),
        plot_layer_bars(
            folder / "mismatch.png", shares, title="Neurons whose rate is not their activation", unit="% of the neurons"
        ),
    ]
