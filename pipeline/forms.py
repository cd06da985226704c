"""A network in each form that export.py and convert.py write: hand-off, ONNX, NIR, events, Darknet's files and back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import Darknet
from pipeline.session import Session
from utils.config.as_trained import how_of
from utils.config.export import ExportConfig
from utils.darknet.network import Network
from utils.export.choices import OF_SPIKES
from utils.export.client_folder import ClientOptions, export_client
from utils.export.darknet_files import export_darknet
from utils.export.decoding import write_decoding
from utils.export.engine.fit import EngineChoice, choose_engine
from utils.export.engine.price import clocks_of_program
from utils.export.engine.target import Engine, part_of, spiking_engine
from utils.export.formats import FORMS
from utils.export.onnx_float_folder import MODEL, FloatOptions, export_float
from utils.export.onnx_folder import FILES, OnnxOptions, export_onnx
from utils.export.onnx_metadata import ModelFacts
from utils.export.package import HandOffOptions, Manifest, export_network, program_of, whole_folder
from utils.export.targets import TARGETS
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.reporting.cost_plots import plot_costs, plot_roofline
from utils.reporting.record import git_state
from utils.spiking.aer import write_image_events
from utils.spiking.aer_lif import write_spike_events
from utils.spiking.nir_export import write_nir
from utils.spiking.nir_if import write_nir_if
from utils.spiking.nir_lif import write_nir_lif
from utils.spiking.nir_report import exact_readme, measure_nir, measure_nir_lif
from utils.spiking.spike_schedule import SpikingNetwork, encode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a writer gets: a network, images [N,C,H,W] of n / 255 for golden vectors, a name, a free path."""

    session: Session[ExportConfig]
    images: Tensor
    stem: str
    out: Path

    @property
    def integer(self) -> IntegerNetwork:
        """The network in integers, which forms that are not float ones take."""
        assert self.session.loaded.integer is not None
        return self.session.loaded.integer

    @property
    def network(self) -> Network:
        """The float network, which the others take."""
        assert self.session.loaded.network is not None
        return self.session.loaded.network

    @cached_property
    def batch(self) -> Any:
        """The images with their labels; those that cannot be read are skipped, as they were for the images."""
        return self.session.validation_batch(len(self.images))

    def score(self, predictor: Any) -> float:
        """The task's headline on them."""
        return self.session.headline(self.session.measured(predictor, [self.batch]))

    @property
    def names(self) -> tuple[str, ...]:
        """The network's classes."""
        return self.session.loaded.names or self.session.manifest.names


@dataclass(frozen=True)
class Written:
    """What a writer leaves: the record's numbers, and the files that it names."""

    metrics: dict[str, Any]
    files: list[Path]


def engine_of(job: Job) -> tuple[Engine | None, EngineChoice | None]:
    """The engine that goes into the folder, and what it was chosen among where a part is named."""
    config = job.session.config
    part = part_of(config.target, config.engine)
    if config.engine in OF_SPIKES:
        return spiking_engine(part.sizes if part else {}, stream=config.engine == "stream"), None
    if part is None:
        return Engine() if config.engine else None, None

    def clocks_of(engine: Engine) -> int:
        return clocks_of_program(program_of(job.integer, job.images, engine))

    choice = choose_engine(clocks_of, part, fps=config.target_fps)
    return choice.best.engine, choice


def write_hand_off(job: Job) -> Written:
    """The forms "fpga" and "c": a folder."""
    config, out = job.session.config, job.out
    fpga, (engine, choice) = config.form == "fpga", engine_of(job)
    options = HandOffOptions(
        name=job.stem,
        forms=FORMS if fpga else ("npy",),
        tile=config.tile if fpga else None,
        spiking=job.session.loaded.kind == "spiking",
        git=git_state(),
        resize=how_of(config),
        engine=engine,
        part=choice.record() if choice else None,
        names=tuple(job.names),
    )

    def finish(folder: Path, manifest: Manifest) -> None:
        if config.target in TARGETS:
            manifest["target"] = config.target
            note_target(folder, config.target)
        plot_costs(folder / "costs", manifest["layers"])
        if engine is not None and not engine.spiking:
            predicted = json.loads((folder / "rtl/engine/report.json").read_text(encoding="utf-8"))
            plot_roofline(folder / "rtl/engine/roofline.png", predicted)
        write_answers(job, folder, manifest, IntegerExecutor(job.integer))

    manifest = export_network(out, job.integer, job.images, options, finish)
    totals = manifest["totals"]
    message = [f"{totals[key]:,}" for key in ("macs", "bops", "weight_bytes")]
    log.info("%s MACs and %s bit operations an image, %s bytes of weights", *message)
    numbers = {"macs": totals["macs"], "bops": totals["bops"], "bytes": totals["weight_bytes"]}
    return Written(numbers, hand_off_files(out, manifest))


def note_target(folder: Path, target: str) -> None:
    """What was checked for it, behind the README; nothing without one."""
    if target in TARGETS:
        with (folder / "README.md").open("a", encoding="utf-8") as text:
            text.write(TARGETS[target].notes)


def write_answers(job: Job, folder: Path, manifest: Manifest, executor: nn.Module) -> None:
    """golden/K/boxes.json, or whatever the task calls it, and of boxes how they are decoded.

    It is what the task makes of the golden accumulators, in floating point.

    Of the integers' ``executor``, and not of the file's own: spikes in stream mode may be read out before they settle.
    """
    session, images = job.session, job.images
    raw = executor.to(session.device)(images.to(session.device))
    golden = session.task.golden(raw, session.loaded.spec, (images.shape[-2], images.shape[-1]), job.names)
    for k, content in enumerate(golden.contents):
        (folder / f"golden/{k}/{golden.name}").write_text(json.dumps(content, indent=1) + "\n")
    for content in golden.contents[:1]:
        if "iou" in content:
            write_decoding(folder, manifest, content["confidence"], content["iou"])


def hand_off_files(out: Path, manifest: Manifest) -> list[Path]:
    """Say what is in the folder; returns the files that a record names."""
    log.info("%s: %d files; check them anywhere with python3 %s", out, len(manifest["files"]), out / "verify.py")
    return [out / "manifest.json", out / "verify.py"]


def write_onnx(job: Job) -> Written:
    """The forms "onnx" and "qonnx": a folder with the model and how it compares."""
    config = job.session.config
    if config.client:
        client = ClientOptions(client=config.client, name=job.stem, layers=config.layers, git=git_state())
        made = export_client(job.out, job.integer, job.images, client)
        return Written({"differing": made["differing"]}, [job.out / MODEL, job.out / "report.json"])
    facts = facts_of(job)
    options = OnnxOptions(
        form=config.form, name=job.stem, git=git_state(), resize=facts.resize, target=config.target, facts=facts
    )
    report = export_onnx(job.out, job.integer, job.images, options)
    return Written({"bytes": report["bytes"]}, [job.out / FILES[config.form], job.out / "report.json"])


def facts_of(job: Job) -> ModelFacts:
    """What an ONNX model says of itself."""
    session, config = job.session, job.session.config
    return ModelFacts(
        spec=session.loaded.spec, names=job.names, size=session.size, resize=how_of(config), grey=config.gray_scale
    )


def write_float(job: Job) -> Written:
    """The form "onnx --float": a folder with the float model and how it compares."""
    session, config = job.session, job.session.config
    options = FloatOptions(
        name=job.stem, facts=facts_of(job), dynamic=config.dynamic, decode=config.decode, git=git_state()
    )
    golden = session.loaded.predictor.eval()
    with torch.no_grad():
        report = export_float(job.out, job.network, job.images, golden, options)
    return Written(
        {"bytes": report["bytes"], "worst": max(report["worst"])}, [job.out / MODEL, job.out / "report.json"]
    )


def write_darknet(job: Job) -> Written:
    """The form "darknet": cfg, weights and names."""
    network = Network(job.network.spec.saying(how_of(job.session.config)), job.network.state)
    files = export_darknet(job.out, job.stem, network, job.names)
    return Written({"bytes": files[1].stat().st_size}, files)


def write_nir_form(job: Job) -> Written:
    """The form "nir": one file; of the dialect "if" with what it makes inexact, measured.

    Raises:
        InputError: the network has something that NIR cannot hold; names the layer.
    """
    if job.session.loaded.spec.neurons:
        return write_nir_lif_form(job)
    network, config = encode(job.integer), job.session.config
    if config.dialect == "if":
        return write_nir_if_form(job, network)
    with whole_folder(job.out) as folder:
        write_nir(folder / f"{job.stem}.nir", network, *job.session.size)
        words = exact_readme(job.stem, network, *job.session.size)
        (folder / "README.md").write_text(words, encoding="utf-8")
        note_target(folder, config.target)
    path = job.out / f"{job.stem}.nir"
    log.info("%s: %s; read-outs are settled after %d steps", path, network.describe(), network.latency)
    return Written({"bytes": path.stat().st_size, "steps": network.latency}, [path])


def write_nir_if_form(job: Job, network: SpikingNetwork) -> Written:
    """The dialect "if": a file a head, and how far importers are from the integers on some images."""
    session = job.session
    steps = session.config.steps or network.window
    with whole_folder(job.out) as folder:
        paths = write_nir_if(folder / f"{job.stem}.nir", network, *session.size, steps)
        about = measure_nir(paths, network, job.images, steps, session.heading, job.score)
        note_target(folder, session.config.target)
    files = [*(job.out / path.name for path in paths), job.out / "report.json"]
    return Written({"bytes": sum(path.stat().st_size for path in files[:-1]), **about}, files)


def write_nir_lif_form(job: Job) -> Written:
    """The form "nir" of a network trained as spikes: the file, and how far importers are from it on some images.

    Raises:
        InputError: it has something that NIR cannot hold; names the layer.
    """
    session = job.session
    with whole_folder(job.out) as folder:
        path = write_nir_lif(folder / f"{job.stem}.nir", job.network, *session.size)
        about = measure_nir_lif(path, session.loaded.predictor.cpu(), job.images, session.heading, job.score)
    files = [job.out / path.name, job.out / "report.json"]
    return Written({"bytes": files[0].stat().st_size, **about}, files)


def write_aer_form(job: Job) -> Written:
    """The form "aer": events of each golden image, in and out; or nothing.

    Raises:
        InputError: the folder exists, or the events do not add up to the integer levels, which would be our mistake.
    """
    loaded = job.session.loaded
    with whole_folder(job.out) as folder:
        if isinstance(loaded.predictor, Darknet):
            names, total = write_spike_events(folder, loaded.predictor.cpu(), job.images)
        else:
            names, total = write_image_events(folder, job.integer, job.images)
        note_target(folder, job.session.config.target)
    log.info("%s: %s events of %d images", job.out, f"{total:,}", len(job.images))
    return Written({"events": total}, [job.out / name for name in names])


WRITERS: dict[str, Callable[[Job], Written]] = {
    "fpga": write_hand_off,
    "c": write_hand_off,
    "darknet": write_darknet,
    "onnx": write_onnx,
    "qonnx": write_onnx,
    "nir": write_nir_form,
    "aer": write_aer_form,
}
