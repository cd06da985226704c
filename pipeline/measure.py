"""What test.py does: a network measured once, or over image sizes; tables, curves, pictures, a record."""

from __future__ import annotations

import logging
import statistics
from dataclasses import replace
from typing import Any

import torch

from models import Darknet
from pipeline.convert import spikes_of as spikes_of_integers
from pipeline.images import dataset_of
from pipeline.session import Session, open_session, trained_as_spikes
from utils.cli import flag_fields, option_names
from utils.config.measure import TestConfig
from utils.config.pipeline import STAGES, PipelineConfig
from utils.darknet.shapes import granularity
from utils.data.loader import Loader, make_loader
from utils.errors import InputError
from utils.reporting.facts import TaskFacts
from utils.reporting.record import Record, finish_record
from utils.reporting.runs import ANY
from utils.reporting.tables import comparison_table, plain_table
from utils.spiking.cost_words import cost_lines, cost_numbers, operations_rows
from utils.spiking.direct import measure_direct
from utils.spiking.energy import OF_KIND
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.lif_integers import LifExecutor, equal_to_the_bit, lower_lif
from utils.spiking.synops import SpikeCost
from utils.temporal.binary_steps import BinarySteps
from utils.temporal.early_exit import StepByStep
from utils.temporal.hardware import INT8
from utils.temporal.recurrence import firing_rates

log = logging.getLogger(__name__)

COUNTED = 64  # validation images that spikes are counted on
OVERLAPS = (0.5, 0.7)  # of two answers that are one, in the benchmark's table


def measure(config: TestConfig) -> Record:
    """Measure as the config says.

    Raises:
        InputError: weights, cfg and data do not belong together, or a file is missing.
    """
    session = open_session(config, scripts=ANY, thresholds=config.thresholds, rect=config.rect)
    if config.early_exit:
        return measure_early(session)
    if config.binary_steps:
        return measure_binary(session)
    return benchmark(session) if config.task == "benchmark" else measure_once(session)


def measure_onnx(config: PipelineConfig) -> Record:
    """The baseline of a chain that was given an ONNX file, as test.py measures it.

    Raises:
        InputError: more than that is asked for, which takes training; or what ``measure`` refuses.
    """
    if config.until != STAGES[0]:
        raise InputError(
            f"{config.weights}: nothing trains an ONNX file; --until {STAGES[0]} measures it, or give the checkpoint "
            "that it was exported from"
        )
    known = {each.name for each in flag_fields(TestConfig)}
    said = {*config.given} - known - {"until"}
    idle = [option_names(each)[-1] for each in flag_fields(PipelineConfig) if each.name in said]
    if idle:
        raise InputError(f"{idle[0]}: an ONNX file is only measured; leave it away")
    given = tuple(name for name in config.given if name in known)
    return measure(TestConfig(**{name: getattr(config, name) for name in given}, given=given))


def measure_once(session: Session[TestConfig]) -> Record:
    """Measure once, and tell everything about it."""
    record, task, loaded, names = session.begin("test"), session.task, session.loaded, session.manifest.names
    metrics = session.score(loaded.predictor)
    row = session.numbers(metrics, loaded.spec, loaded.path, OF_KIND.get(loaded.kind))
    session.timed({loaded.kind: row}, {loaded.kind: loaded.predictor})
    if isinstance(loaded.predictor, LayerwiseExecutor):  # what other modes fire is counted where they are made
        row |= cost_numbers(spikes_of_integers(session, loaded.predictor.spiking))
    cost = spikes_of(session)
    row |= numbers_of(cost) if cost else {}
    row |= integers_of(session)
    row |= firing_of(session)
    log.info(task.class_table(metrics))
    log.info(comparison_table(f"{loaded.path.name} ({loaded.kind})", {"value": row}, task=task))
    if cost:
        log.info(plain_table(f"spikes of {loaded.spec.timesteps} steps", operations_rows(cost)))
        log.info("\n".join(cost_lines(cost)))
    if "firing" in row:
        log.info("%.4f spikes a unit and step, the mean of the recurrent layers", row["firing"])
    time = metrics.timing
    log.info(
        "batches of up to %d, the first one's warm-up included: %.1f ms forward, %.1f ms %s, %.1f ms in all an image, "
        "%d threads",
        session.valid.batch_size, time.forward, time.nms, task.postprocessing, time.total, torch.get_num_threads(),
    )  # fmt: skip
    measured, folder = {loaded.kind: metrics}, record.folder
    dataset: Any = session.valid.dataset
    outputs = [
        *task.plots(folder, measured, names),
        task.comparison(folder / f"{task.pictures}.jpg", dataset, measured, names),
    ]
    if session.config.save_json:
        outputs.append(task.results_json(folder / f"{task.pictures}.json", metrics, dataset.images, session.manifest))
    timing = {"forward_ms": time.forward, "nms_ms": time.nms, "total_ms": time.total}
    return finish_record(record, metrics={**row, **timing}, outputs=outputs)


def spikes_of(session: Session[TestConfig]) -> SpikeCost | None:
    """What a network that was trained as spikes costs on the first validation images; None for any other."""
    model = session.loaded.predictor
    if not isinstance(model, Darknet) or not session.loaded.spec.neurons:
        return None
    images = session.validation_images(min(COUNTED, len(session.valid.dataset)))
    try:
        return measure_direct(model.to("cpu"), images.split(session.valid.batch_size))
    except InputError as error:
        log.info("%s", error)
        return None


def firing_of(session: Session[TestConfig]) -> dict[str, float]:
    """``firing``: spikes a unit and step of recurrent layers that spike, on the first validation sequences."""
    model = session.loaded.predictor
    if not isinstance(model, Darknet) or not session.loaded.spec.recurrent:
        return {}
    model.to("cpu")(session.validation_images(min(COUNTED, len(session.valid.dataset))))
    rates = firing_rates(model)
    return {"firing": statistics.mean(rates.values())} if rates else {}


def integers_of(session: Session[TestConfig]) -> dict[str, Any]:
    """Whether a network that was trained with --hw-friendly is its integers to the bit, and how wide membranes are.

    Nothing for any other network.

    Raises:
        InputError: a membrane could outgrow its 24 bits.
    """
    model, spec = session.loaded.predictor, session.loaded.spec
    if not isinstance(model, Darknet) or all(layer.weight_quant != INT8 for layer in spec.kernels.values()):
        return {}
    model = model.to("cpu")
    executor, images = LifExecutor(lower_lif(model)), min(COMPARED, len(session.valid.dataset))
    equal = all(equal_to_the_bit(model, executor, x) for x in session.validation_images(images).split(1))
    how = "equal to the bit" if equal else "NOT equal, which is a fault of ours; please report this network"
    said = "as integers, 8-bit weights and membranes of %d bits: %s on %d images, every spike of every step"
    log.log(logging.INFO if equal else logging.ERROR, said, executor.membrane_bits, how, images)
    return {"integers_equal": equal, "membrane_bits": executor.membrane_bits}


def numbers_of(cost: SpikeCost) -> dict[str, float]:
    """A record's numbers of them; the energy is that of floats, in which the network was trained and runs."""
    return {**cost_numbers(cost), "energy_pj": cost.energy.spiking_fp32}


def benchmark(session: Session[TestConfig]) -> Record:
    """The task's numbers and speed over image sizes and, where answers overlap, NMS thresholds."""
    record, task = session.begin("test"), session.task
    shown, overlaps = TaskFacts.of(task).main, () if "iou_thres" in task.idle else OVERLAPS
    rows = [
        ["image", *(["NMS IoU"] if overlaps else []), *(column.heading for column in shown), "ms forward", "ms in all"]
    ]
    results: dict[str, Any] = {}
    for size in benchmark_sizes(session):
        loader, side = _loader(session, size), f"{size[0]}x{size[1]}"
        for overlap in overlaps or (session.thresholds.overlap,):
            metrics = session.measured(
                session.loaded.predictor.to(session.device), loader, replace(session.thresholds, overlap=overlap)
            )
            scores, time = metrics.record(), metrics.timing
            results[f"{side} iou {overlap}" if overlaps else side] = {**scores, "total_ms": time.total}
            values = (*(scores[column.name] for column in shown), time.forward, time.total)
            rows.append([side, *([f"{overlap}"] if overlaps else []), *(f"{value:.3f}" for value in values)])
    log.info(plain_table(f"{session.loaded.path.name} ({session.loaded.kind})", rows))
    return finish_record(record, metrics=results)


def benchmark_sizes(session: Session[TestConfig]) -> list[tuple[int, int]]:
    """(height, width) in px: about 3/4, 1 and 5/4 of the session's, in whole steps of the network."""
    step = granularity(session.loaded.spec)
    height, width = ([max(step, round(side * n / 4 / step) * step) for n in (3, 4, 5)] for side in session.size)
    return list(dict.fromkeys(zip(height, width, strict=True)))  # a coarse step may make two of them the same


def _loader(session: Session[TestConfig], size: tuple[int, int]) -> Loader[Any]:
    config, manifest = session.config, session.manifest
    dataset = dataset_of(config, session.task, manifest, session.loaded.spec, size, images=manifest.valid)
    return make_loader(dataset, session.valid.batch_size, workers=config.workers)


COMPARED = 8  # validation images on which two ways of running a network are compared


def measure_early(session: Session[TestConfig]) -> Record:
    """Accuracy against mean steps: a row for each margin of --early-exit, and one for all steps.

    Raises:
        InputError: the network takes no steps, or one.
    """
    network = trained_as_spikes(session.loaded, "--early-exit", least=2)
    record, shown = session.begin("test"), TaskFacts.of(session.task).main
    rows = [["margin", "mean steps", *(column.heading for column in shown)]]
    results: dict[str, Any] = {}
    for least in (*sorted(session.config.early_exit or ()), None):
        predictor = StepByStep(network, least)
        scores = session.score(predictor).record()
        name = "all steps" if least is None else f"margin {least:g}"
        results[name] = {**scores, "steps": statistics.mean(predictor.taken)}
        values = (results[name]["steps"], *(scores[column.name] for column in shown))
        rows.append([name.removeprefix("margin "), *(f"{value:.3f}" for value in values)])
    log.info(plain_table(f"{session.loaded.path.name}, {session.loaded.spec.timesteps} steps at most", rows))
    return finish_record(record, metrics=results)


def measure_binary(session: Session[TestConfig]) -> Record:
    """A network of levels and the same in binary steps: both scores, and how far their outputs are apart.

    Raises:
        InputError: it was not trained with ilif.
    """
    network = trained_as_spikes(session.loaded, "--binary-steps")
    binary = BinarySteps(network)
    record, shown = session.begin("test"), TaskFacts.of(session.task).main
    rows, results = [["run in", "steps", *(column.heading for column in shown)]], dict[str, Any]()
    steps = session.loaded.spec.timesteps
    for name, predictor, taken in (("levels", network, steps), ("binary steps", binary, steps * binary.most)):
        results[name] = {**session.score(predictor).record(), "steps": taken}
        rows.append([name, f"{taken}", *(f"{results[name][column.name]:.4f}" for column in shown)])
    images = session.validation_images(min(COMPARED, len(session.valid.dataset)))
    with torch.no_grad():
        pairs = list(zip(binary(images), network.to(images.device)(images), strict=True))
    results["apart"] = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)
    log.info(plain_table(f"{session.loaded.path.name}, {binary.most} levels", rows))
    sent = " and ".join(f"{value:g}" for value in sorted(binary.values))
    log.info("neurons sent %s; outputs are at most %.2g of their largest value apart", sent, results["apart"])
    return finish_record(record, metrics=results)
