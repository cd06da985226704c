"""convert_snn.py --mode stream: all layers at once, accuracy at every step, what is exact from when on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pipeline.converting.layerwise_calibration import (
    mode_row,
    modes_table,
    phase_row,
    tuned_line,
    tuned_stream,
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
    peak_bytes,
    pictures,
)
from pipeline.quantise import bits_of, quantise
from pipeline.session import WEIGHTS, Session
from utils.detection.evaluate import Metrics
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.files import free_path
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_accuracy_over_time, plot_layer_bars, plot_raster
from utils.spiking import mismatch
from utils.spiking.observe import Observation, hardware_state_bits, join, observe, raster
from utils.spiking.snn_checkpoint import ExecutionMode, executor_of, save_spiking
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stream import StreamExecutor
from utils.spiking.synops import SpikeCost, cost_of, weight_bytes, work_of

log = logging.getLogger(__name__)


def stream(session: Session, folder: Path) -> ConversionResult:
    """Integers, neurons that stream, accuracy over time, costs, a file.

    Raises:
        InputError: a layer cannot stream, or the settled network differs from its integers, which would be our mistake.
    """
    converted = network = encode(quantise(session, folder))
    executor = simulator(session, network).to(session.device)
    sample = ValidationSample.of(session, session.args.images)
    limit = executor.steps or executor.bound
    points = curve_points(limit, session.args.curve, [t for t in (network.window, session.args.early_exit, limit) if t])
    before = None
    if session.args.finetune:
        before, network = watched(executor, sample, (limit,), converted), tuned_stream(session, executor)
        executor = simulator(session, network).to(session.device)
    seen = watched(executor, sample, points, converted)
    curve = {t: sample.score_heads([each.heads[t] for each in seen]) for t in points}
    golden = sample.score(IntegerExecutor(converted.integer))
    every = join(seen)
    answer = session.args.early_exit or limit
    message = judge(executor, every, golden, curve[limit], sample)
    cost = cost_of_stream(network, every, session.size)
    path = save(session, network)
    rows, measured = _rows(session, sample, network, golden, curve[answer], path)
    rows["quantised"]["energy_pj"] = cost.energy.ann_int8
    rows["spiking"] |= cost_numbers(cost) | _numbers(executor, every, answer)
    message += times(executor, every, network) + cost_lines(cost) + memory(every, network, session.size)
    if before is not None:
        rows = _beside(session, sample, converted, before, rows)
        message += _tuned(before, every, rows)
    message += [] if every.exact else [mismatch_table(every.mismatches)]
    outputs = [path, *files(folder, executor, every, curve), *pictures(session, measured, cost, folder)]
    outputs += _pictures(folder, executor, every, curve, rows, next(sample.inputs()))
    title = f"{bits_of(network.integer)}, as integers and as spikes that stream; {sample.said}"
    return ConversionResult(title, rows, measured, message, outputs)


def watched(
    executor: StreamExecutor, sample: ValidationSample, points: Sequence[int], golden: SpikingNetwork
) -> list[Observation]:
    """What the simulation of each batch saw; counts should be the levels of ``golden``."""
    batches = tqdm(sample.inputs(), total=len(sample.batches), desc="stream", delay=2, leave=False, disable=None)
    return [observe(executor, x, points, golden=golden.integer) for x in batches]


def _beside(
    session: Session, sample: ValidationSample, network: SpikingNetwork, before: list[Observation], rows: Rows
) -> Rows:
    """The rows, and those of what was not tuned: the same neurons, phase mode, the settled stream."""
    every, settled = join(before), StreamExecutor(network, schedule=session.args.schedule)
    seen = watched(settled, sample, (settled.bound,), network)
    (last,) = before[0].heads
    scores = [
        sample.score_heads([each.heads[t] for each in part]) for part, t in ((before, last), (seen, settled.bound))
    ]
    final = join(seen)
    beside = {
        "phase": phase_row(sample, network),
        "settled": mode_row(
            scores[1], cost_of_stream(network, final, session.size), max(final.settled.values()), exact=final.exact
        ),
        "converted": mode_row(scores[0], cost_of_stream(network, every, session.size), every.steps, exact=every.exact),
    }
    spiking = rows.pop("spiking")
    return {**rows, **beside, "spiking": spiking}


def _tuned(before: list[Observation], after: Observation, rows: Rows) -> list[str]:
    every = join(before)
    return [
        tuned_line(every.mismatches, after.mismatches),
        tuning_table(every.mismatches, after.mismatches),
        modes_table(rows),
    ]


def simulator(session: Session, network: SpikingNetwork) -> StreamExecutor:
    """The executor the flags ask for; neurons that never settle for good run one window, as Fast-SNN does."""
    args = session.args
    steps = args.timesteps or (None if args.neuron == "traced" else network.window)
    return StreamExecutor(network, rule=args.neuron, steps=steps, schedule=args.schedule)


def judge(
    executor: StreamExecutor, seen: Observation, golden: Metrics, last: Metrics, sample: ValidationSample
) -> list[str]:
    """Whether the spikes are the integers, in words.

    Raises:
        InputError: a settled network differs from its integers.
    """
    settled = executor.rule == "traced" and (executor.steps is None or executor.steps >= executor.bound)
    equal = last.record() == golden.record()
    if settled and not (seen.exact and equal):
        raise InputError(
            f"settled spikes differ from their integers: {mismatch.worst(seen.mismatches)}; please report this network"
        )
    flag = "exact" if seen.exact else "not exact"
    metrics = "equal to the last digit" if equal else "different"
    return [
        f"{flag} after {seen.steps} steps: {mismatch.worst(seen.mismatches)}",
        f"spiking and quantised mAP are {metrics} ({sample.said})",
    ]


def times(executor: StreamExecutor, seen: Observation, network: SpikingNetwork) -> list[str]:
    """Steps until exact, beside the bound and what phase mode takes."""
    slowest, message = max(seen.settled.values()), [f"window L = {network.window} steps"]
    if executor.rule == "traced":
        message = [f"every layer is settled by step {executor.bound}, whatever the image; {message[0]}"]
    if seen.exact:
        message.append(
            f"smallest exact T: {slowest} steps for all {seen.images} images (phase mode: {network.latency})"
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


def save(session: Session, network: SpikingNetwork) -> Path:
    """``weights/<stem>.snn.pt``, which remembers how it is to be run."""
    args = session.args
    steps = args.early_exit or args.timesteps or (None if args.neuron == "traced" else network.window)
    run = ExecutionMode("stream", steps, args.neuron, args.schedule)
    return save_spiking(snn_path(session), network, session.manifest.names, session.meta | tuning_meta(session), run)


def snn_path(session: Session) -> Path:
    """A name that nobody has taken."""
    stem = (
        session.loaded.path.name.removesuffix(".pt").removesuffix(".weights").removesuffix(".int").removesuffix(".snn")
    )
    stem = f"{stem}_{session.args.name}" if session.args.name else stem
    return free_path(WEIGHTS / f"{stem}.snn.pt")


def _rows(
    session: Session, sample: ValidationSample, network: SpikingNetwork, golden: Metrics, spiking: Metrics, path: Path
) -> tuple[Rows, dict[str, Metrics]]:
    measured, rows = {}, {}
    loaded, spec = session.loaded, network.spec
    if loaded.network is not None:
        measured["float"] = sample.score(loaded.predictor)
        rows["float"] = session.numbers(loaded.predictor, measured["float"], loaded.spec, loaded.path)
    measured |= {"quantised": golden, "spiking": spiking}
    rows["quantised"] = session.numbers(IntegerExecutor(network.integer), golden, spec, path)
    run = ExecutionMode(
        "stream", session.args.early_exit or session.args.timesteps, session.args.neuron, session.args.schedule
    )
    rows["spiking"] = session.numbers(executor_of(network, run), spiking, spec, path)
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


def files(folder: Path, executor: StreamExecutor, seen: Observation, curve: dict[int, Metrics]) -> list[Path]:
    """curve.csv, settling.csv, mismatch.csv."""
    settling = [{"layer": i, "settled": t, "bound": executor.bounds[i]} for i, t in seen.settled.items()]
    return [
        write_rows(folder / "curve.csv", [{"steps": t, **metrics.record()} for t, metrics in curve.items()]),
        write_rows(folder / "settling.csv", settling),
        write_rows(folder / "mismatch.csv", mismatch.rows(seen.mismatches)),
    ]


def _pictures(
    folder: Path, executor: StreamExecutor, seen: Observation, curve: dict[int, Metrics], rows: Rows, x: torch.Tensor
) -> list[Path]:
    name = f"stream, {executor.rule}"
    lines: dict[str, float] = {key: rows[key]["map50"] for key in ("float", "quantised") if key in rows}
    points = {name: [(t, metrics.map50) for t, metrics in curve.items()]}
    exact = {name: max(seen.settled.values())} if seen.exact else {}
    wrong = {i: 100 * m.share for i, m in seen.mismatches.items()}
    made = [
        plot_accuracy_over_time(folder / "map_over_time.png", points, lines, exact=exact),
        plot_raster(folder / "raster.png", {i: train.numpy() for i, train in raster(executor, x).items()}),
    ]
    if seen.exact:
        bounds = {i: float(executor.bounds[i]) for i in seen.settled}
        made.append(
            plot_layer_bars(
                folder / "settling.png",
                {"measured": {i: float(t) for i, t in seen.settled.items()}, "bound": bounds},
                title="Steps after which no neuron of a layer fires",
                unit="steps",
                marks="bound",
            )
        )
    else:
        own = {i: 100 * m.own_share for i, m in seen.mismatches.items()}
        made.append(
            plot_layer_bars(
                folder / "mismatch.png",
                {"off": wrong, "by its own fault": own},
                title="Neurons whose count is not its level",
                unit="% of the neurons",
            )
        )
    return made
