"""convert_snn.py --mode stream: all layers at once, accuracy at every step, what is exact from when on."""

from __future__ import annotations

import logging
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pipeline.conversion_result import (
    ConversionResult,
    ValidationSample,
    check_steps,
    layerwise_row,
    metric_word,
    mismatch_table,
    mode_row,
    pictures,
    tuned_stream,
    tuning_lines,
    tuning_meta,
)
from pipeline.quantise import Rows, to_integers
from pipeline.session import Session
from utils.config.convert import ConvertConfig
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_accuracy_over_time, plot_layer_bars, plot_raster
from utils.spiking import mismatch
from utils.spiking.choices import LAYERWISE, STREAM
from utils.spiking.cost_words import cost_lines, cost_numbers
from utils.spiking.energy import INT8
from utils.spiking.observe import Observation, curve_points, hardware_state_bits, join, observe, raster
from utils.spiking.snn_checkpoint import EXACT, ExecutionMode, executor_of, save_integers
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stream import StreamExecutor
from utils.spiking.synops import SpikeCost, cost_of, weight_bytes, work_of
from utils.task import Metrics

log = logging.getLogger(__name__)


def stream(session: Session[ConvertConfig], folder: Path) -> ConversionResult:
    """Integers, neurons that stream, accuracy over time, costs, a file.

    Raises:
        InputError: a layer cannot stream, a flag asks about steps that are not simulated, or the settled network
            differs from its integers, which would be our mistake.
    """
    config = session.config
    converted = network = encode(to_integers(session, folder))
    executor = simulator(session, network).to(session.device)
    limit = executor.steps or executor.bound
    check_steps(config, limit)
    sample = ValidationSample.of(session, config.images)
    points = curve_points(limit, config.curve, [t for t in (network.window, config.early_exit, limit) if t])
    before = None
    if config.finetune:
        before, network = watched(executor, sample, (limit,), converted), tuned_stream(session, executor)
        executor = simulator(session, network).to(session.device)
    answer = config.early_exit or limit
    seen = watched(executor, sample, points, converted, also=(answer,))
    curve = {t: sample.score_heads([each.heads[t] for each in seen]) for t in points}
    golden = sample.score(IntegerExecutor(converted.integer))
    every = join(seen)
    message = judge(executor, every, golden, curve[limit], sample)
    cost = cost_of_stream(network, every.earlier[answer], session.size)  # what comes after the answer costs nothing
    path = save(session, network)
    rows, measured = _rows(session, sample, network, golden, curve[answer], path)
    rows["spiking"] |= cost_numbers(cost) | _numbers(executor, every, answer)
    message += times(executor, every, network) + cost_lines(cost) + memory(every, network, session.size)
    if before is not None:
        rows = _beside(session, sample, converted, before, rows)
        message += tuning_lines(session, join(before).mismatches, every.mismatches, rows)
    message += [] if every.exact else [mismatch_table(every.mismatches, "levels")]
    made = [*_files(folder, executor, every, curve), *pictures(session, measured, cost, folder)]
    made += _pictures(session, folder, executor, every, curve, rows, next(sample.inputs()))
    title = f"{network.integer.scheme.bits_and_style}, as integers and as spikes that stream; {sample.said}"
    return ConversionResult(
        title=title, network=network, path=path, rows=rows, measured=measured, message=message, files=made
    )


def watched(
    executor: StreamExecutor,
    sample: ValidationSample,
    points: Sequence[int],
    golden: SpikingNetwork,
    also: Sequence[int] = (),
) -> list[Observation]:
    """What the simulation of each batch saw, also after ``also`` steps; counts should be the levels of ``golden``."""
    batches = tqdm(sample.inputs(), total=len(sample.batches), desc="stream", delay=2, leave=False, disable=None)
    return [observe(executor, x, points, also, golden.integer) for x in batches]


def _beside(
    session: Session[ConvertConfig],
    sample: ValidationSample,
    network: SpikingNetwork,
    before: list[Observation],
    rows: Rows,
) -> Rows:
    """The rows, and those of what was not tuned: the same neurons, layer after layer, the settled stream."""
    every, settled = join(before), StreamExecutor(network, schedule=execution(session.config, None).schedule)
    seen = watched(settled, sample, (settled.bound,), network)
    (last,) = before[0].heads
    scores = [
        sample.score_heads([each.heads[t] for each in part]) for part, t in ((before, last), (seen, settled.bound))
    ]
    final = join(seen)
    beside = {
        LAYERWISE: layerwise_row(sample, network),
        "settled": mode_row(
            scores[1], cost_of_stream(network, final, session.size), max(final.settled.values()), exact=final.exact
        ),
        "converted": mode_row(scores[0], cost_of_stream(network, every, session.size), every.steps, exact=every.exact),
    }
    spiking = rows.pop("spiking")
    return {**rows, **beside, "spiking": spiking}


def execution(config: ConvertConfig, steps: int | None) -> ExecutionMode:
    """How a settled config's stream runs when it is read out after so many steps."""
    assert config.neuron and config.schedule
    return ExecutionMode(STREAM, steps, config.neuron, config.schedule)


def simulator(session: Session[ConvertConfig], network: SpikingNetwork) -> StreamExecutor:
    """The executor the config asks for; neurons that never settle for good run one window, as Fast-SNN does."""
    run = execution(session.config, session.config.timesteps or _window(session, network))
    return StreamExecutor(network, rule=run.rule, steps=run.timesteps, schedule=run.schedule)


def _left(session: Session[ConvertConfig], network: SpikingNetwork) -> ExecutionMode:
    """How the network that is left behind runs, which is also timed."""
    config = session.config
    return execution(config, config.early_exit or config.timesteps or _window(session, network))


def _window(session: Session[ConvertConfig], network: SpikingNetwork) -> int | None:
    return None if session.config.neuron == EXACT else network.window


def judge(
    executor: StreamExecutor, seen: Observation, golden: Metrics, last: Metrics, sample: ValidationSample
) -> list[str]:
    """Whether the spikes are the integers, in words.

    Raises:
        InputError: a settled network differs from its integers.
    """
    settled = executor.rule == EXACT and (executor.steps is None or executor.steps >= executor.bound)
    off = ", ".join(key for key, value in golden.record().items() if last.record()[key] != value)
    if settled and (off or not seen.exact):
        raise InputError(
            f"settled spikes differ from their integers: {mismatch.worst(seen.mismatches)}; please report this network"
        )
    flag = "exact" if seen.exact else "not exact"
    same = f"networks differ in {off}" if off else f"{metric_word(sample.session)} are equal to the last digit"
    return [
        f"{flag} after {seen.steps} steps: {mismatch.worst(seen.mismatches)}",
        f"spiking and quantised {same} ({sample.said})",
    ]


def times(executor: StreamExecutor, seen: Observation, network: SpikingNetwork) -> list[str]:
    """Steps until exact, beside the bound and what layer after layer takes."""
    slowest, message = max(seen.settled.values()), [f"window L = {network.window} steps"]
    if executor.rule == EXACT:
        message = [f"every layer is settled by step {executor.bound}, whatever the image; {message[0]}"]
    if seen.exact:
        message.append(
            f"smallest exact T: {slowest} steps for all {seen.images} images ({LAYERWISE} mode: {network.latency})"
        )
    return message


def memory(seen: Observation, network: SpikingNetwork, size: tuple[int, int]) -> list[str]:
    """What is held, which is state alone."""
    chip = hardware_state_bits(network, *size) // 8
    return [
        f"memory does not grow with T: {chip:,} bytes of state an image on a chip, {seen.state_bytes:,} in this "
        f"simulation; the whole process took {peak_bytes() / 1e6:,.0f} MB at its peak"
    ]


def cost_of_stream(network: SpikingNetwork, seen: Observation, size: tuple[int, int]) -> SpikeCost:
    """Costs of all spikes that were fired, those that took others back too."""
    counts = {i: activity[None].cpu() for i, activity in seen.activity.items()}
    counts[-1] = torch.zeros(1, network.spec.channels, *size)
    return cost_of(
        network.spec,
        work_of(network.integer),
        [(seen.images, counts)],
        state_bytes=hardware_state_bits(network, *size) // 8,
        weight_bytes=weight_bytes(network.integer),
    )


def save(session: Session[ConvertConfig], network: SpikingNetwork) -> Path:
    """``weights/<stem>.snn.pt``, which remembers how it is to be run."""
    run = _left(session, network)
    path, meta = session.leaving(".snn.pt"), session.meta | tuning_meta(session)
    return save_integers(path, network.integer, "spiking", names=session.manifest.names, meta=meta, run=run)


def _rows(
    session: Session[ConvertConfig],
    sample: ValidationSample,
    network: SpikingNetwork,
    golden: Metrics,
    spiking: Metrics,
    path: Path,
) -> tuple[Rows, dict[str, Metrics]]:
    measured: dict[str, Metrics] = {}
    rows: Rows = {}
    loaded, spec = session.loaded, network.spec
    if loaded.network is not None:
        measured["float"] = sample.score(loaded.predictor)
        rows["float"] = session.numbers(measured["float"], loaded.spec, loaded.path)
    measured |= {"quantised": golden, "spiking": spiking}
    rows["quantised"] = session.numbers(golden, spec, path, INT8)
    rows["spiking"] = session.numbers(spiking, spec, path, None)
    streams = executor_of(network, _left(session, network))
    made = {"quantised": IntegerExecutor(network.integer), "spiking": streams}
    session.timed(rows, {"float": loaded.predictor} | made)
    return rows, measured


def _numbers(executor: StreamExecutor, seen: Observation, answer: int) -> dict[str, Any]:
    return {
        "steps": min(answer, seen.steps),
        "exact": seen.exact and answer >= seen.steps,
        "exact_steps": max(seen.settled.values()) if seen.exact else None,
        "bound_steps": executor.bound,
        "images": seen.images,
        "peak_bytes": peak_bytes(),
    }


def _files(folder: Path, executor: StreamExecutor, seen: Observation, curve: dict[int, Metrics]) -> list[Path]:
    """curve.csv, settling.csv, mismatch.csv."""
    settling = [{"layer": i, "settled": t, "bound": executor.bounds[i]} for i, t in seen.settled.items()]
    return [
        write_rows(folder / "curve.csv", [{"steps": t, **metrics.record()} for t, metrics in curve.items()]),
        write_rows(folder / "settling.csv", settling),
        write_rows(folder / "mismatch.csv", mismatch.rows(seen.mismatches)),
    ]


def _pictures(
    session: Session[ConvertConfig],
    folder: Path,
    executor: StreamExecutor,
    seen: Observation,
    curve: dict[int, Metrics],
    rows: Rows,
    x: torch.Tensor,
) -> list[Path]:
    name, headline = f"{STREAM}, {executor.rule}", session.task.headline
    lines: dict[str, float] = {key: rows[key][headline] for key in ("float", "quantised") if key in rows}
    points = {name: [(t, session.headline(metrics)) for t, metrics in curve.items()]}
    exact = {name: max(seen.settled.values())} if seen.exact else {}
    over_time = folder / f"{metric_word(session).lower()}_over_time.png"
    return [
        plot_accuracy_over_time(over_time, points, lines, exact=exact, metric=session.heading),
        plot_raster(folder / "raster.png", {i: train.numpy() for i, train in raster(executor, x).items()}),
        _layer_bars(folder, executor, seen),
    ]


def _layer_bars(folder: Path, executor: StreamExecutor, seen: Observation) -> Path:
    """When each layer is settled; of one that is not exact, how many of its neurons are off."""
    if seen.exact:
        measured = {i: float(t) for i, t in seen.settled.items()}
        return plot_layer_bars(
            folder / "settling.png",
            {"measured": measured, "bound": {i: float(executor.bounds[i]) for i in seen.settled}},
            title="Steps after which no neuron of a layer fires",
            unit="steps",
            marks="bound",
        )
    wrong = {i: 100 * m.share for i, m in seen.mismatches.items()}
    own = {i: 100 * m.own_share for i, m in seen.mismatches.items()}
    return plot_layer_bars(
        folder / "mismatch.png",
        {"off": wrong, "by its own fault": own},
        title="Neurons whose count is not its level",
        unit="% of the neurons",
    )


def peak_bytes() -> int:
    """The most memory this process ever held (Linux reports KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
