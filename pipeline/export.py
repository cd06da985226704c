"""From a network to the folder an FPGA or C engineer gets, or to others' forms, for export.py."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models import Darknet, Loaded, load_model
from pipeline.forms import WRITERS, Job, Written, hand_off_files, write_answers, write_float
from pipeline.session import Session, open_session
from utils.config.as_trained import as_trained, how_of, jpeg_of, shown_of
from utils.config.export import ExportConfig
from utils.config.files import FilesConfig
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.darknet.shapes import image_size
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.export.darknet_files import write_files
from utils.export.engine.target import part_of, spiking_engine
from utils.export.formats import FORMS
from utils.export.lif_package import export_lif
from utils.export.package import HandOffOptions, Manifest
from utils.export.targets import TARGETS, check_target
from utils.files import alone, holder, names_kept, take
from utils.reporting.cost_plots import plot_costs
from utils.reporting.record import Record, finish_record, git_state, new_run_folder, start_record
from utils.reporting.runs import FLOAT, RUNS, WEIGHTS, newest, output_of
from utils.spiking.aer_lif import check_events
from utils.spiking.choices import LAYERWISE, RATE
from utils.spiking.lif_integers import LifExecutor, lower_lif
from utils.spiking.nir_lif import check_nir_lif
from utils.tasks import task_of
from utils.temporal.hardware import INT8

log = logging.getLogger(__name__)

QUANTISED = "convert_snn train quantize"  # scripts that may leave an integer network behind
FOLDERS = ("fpga", "c")  # forms that hold leaky neurons in whole numbers
DIRECT = ("nir", "aer", *FOLDERS)  # forms of networks that were trained as spikes
LEAKY = "spikes"  # the engine that has leaky neurons
FOLDER = Path("export")


@dataclass(frozen=True)
class ExportResult:
    """What an export left: its folder, and the run's record."""

    folder: Path
    record: Record


def open_network(config: ExportConfig) -> Session[ExportConfig]:
    """The session of what a form takes: a float network, or one that has integers.

    Raises:
        InputError: it is the other kind.
    """
    if not config.takes_floats:
        spikes = open_spikes(config) if config.form in DIRECT and config.weights else None
        return spikes or open_integers(config)
    session = open_session(config, scripts=FLOAT, bare=True)
    if session.loaded.network is None:
        what = f"{config.form} --float" if config.float_network else config.form
        path = session.loaded.path
        raise InputError(f"{path}: has integers, and export.py {what} takes floats; give the network it was made of")
    return session


def open_spikes(config: ExportConfig) -> Session[ExportConfig] | None:
    """The session of a network that was trained as spikes; None if ``--weights`` is none.

    Raises:
        InputError: a flag is for networks of another kind, or the form takes whole numbers and this one has none.
    """
    loaded = load_model(config.weights) if config.weights.endswith(".pt") else None
    if loaded is None or not loaded.spec.neurons:
        return None
    for flag in ("dialect", "steps", "target"):
        if flag in config.given:
            raise InputError(
                f"--{flag}: {config.weights} was trained as spikes, in steps and nodes of its own; leave --{flag} away"
            )
    if config.engine not in ("", LEAKY):
        raise InputError(f"--engine {config.engine}: networks trained as spikes run on --engine {LEAKY} alone")
    if config.form in FOLDERS and isinstance(loaded.predictor, Darknet):
        check_whole_numbers(loaded.predictor, config.weights, config.form)
    return open_session(config, bare=True)


def open_integers(config: ExportConfig) -> Session[ExportConfig]:
    """The session of a network that has integers: ``--weights``, or the newest one made here.

    Raises:
        InputError: the network is a float one, or spikes at rates.
    """
    weights = config.weights or str(newest(QUANTISED, output=integers_of))
    float_network = f"{weights}: is a float network; quantise it: quantize.py --weights {weights}"
    if not weights.endswith(".pt"):
        raise InputError(float_network)
    session = open_session(replace(config, weights=weights), bare=True)
    if session.loaded.spec.neurons:
        forms = f"{', '.join(DIRECT[:-1])} and {DIRECT[-1]}"
        remedy = _other_form(session.loaded.spec) or "train with --spiking lif"
        raise InputError(f"{weights}: was trained as spikes, which only {forms} hold; {remedy}")
    if session.loaded.integer is None:
        rate = f"{weights}: spikes in {RATE} mode, which has no integers; convert_snn.py --mode {LAYERWISE} has"
        raise InputError(rate if session.loaded.kind == "spiking" else float_network)
    return session


def integers_of(record: Record | None) -> Path | None:
    """The integers a run left behind, if they are still there: packed, or spikes that are made of them."""
    if record is None or record.args.get("mode") == RATE:
        return None
    return output_of(record, "*.int.pt", "*.snn.pt")


@names_kept()
def export(session: Session[ExportConfig]) -> ExportResult:
    """Write, verify, tell; or leave nothing.

    Raises:
        InputError: the target cannot run the network, there are too few images, or the hand-off does not verify.
    """
    config = session.config
    if config.target in TARGETS:
        assert session.loaded.integer is not None
        check_target(session.loaded.integer, config.target, session.size, config.form)
    part_of(config.target, config.engine)
    most = len(session.valid.dataset)
    count = min(config.images, most) if "golden" not in config.given else config.golden
    if not 1 <= count <= most:
        raise InputError(f"--golden: {count} images of {most}; use 1 to {most}")
    stem = re.sub(r"(\.(weights|pt|int|snn))+$", "", session.loaded.path.name)
    images = session.validation_images(count)
    with alone(RUNS):
        out = free_folder(config, stem)
        record = session.begin("export")
    spikes = config.form in FOLDERS and bool(session.loaded.spec.neurons)
    write = write_float if config.float_network else write_lif_hand_off if spikes else WRITERS[config.form]
    made = write(Job(session, images, stem, out))
    if jpeg_of(config) == "reduced":
        log.info("%s: was shown JPEGs decoded in part (--jpeg reduced), which no file in it says", out)
    return ExportResult(out, finish_record(record, metrics=made.metrics, outputs=made.files))


def free_folder(config: ExportConfig, stem: str) -> Path:
    """The new folder, which is this run's now.

    Raises:
        InputError: ``--out`` is there, or another run makes it.
    """
    wanted = Path(config.out or FOLDER / "-".join(filter(None, (stem, config.name))))
    if config.out and wanted.exists():
        raise InputError(f"{wanted}: exists; choose another --out")
    (out,) = take(wanted)
    if config.out and out != wanted:
        raise InputError(f"{wanted}: {holder(wanted)} writes it; choose another --out")
    return out


def check_whole_numbers(model: Darknet, weights: str, form: str) -> None:
    """Refuse a network whose neurons compute in floats.

    Raises:
        InputError: names the layer.
    """
    other = _other_form(model.spec)
    lif = "" if all(neuron.kind == "lif" for neuron in model.spec.neurons.values()) else "--spiking lif "
    or_else = f", or {other}" if other else ""
    for i, layer in model.spec.kernels.items():
        if layer.weight_quant != INT8:
            raise InputError(
                f"{weights}: layer {i} (cfg line {layer.line}): was trained as spikes in floats, and {form} takes "
                f"whole numbers; train with {lif}--hw-friendly{or_else}"
            )


def _other_form(spec: ModelSpec) -> str:
    """The form that takes a network whose neurons compute in floats, as a command; "" where each refuses it."""
    for form, check in (("nir", check_nir_lif), ("aer", check_events)):
        with suppress(InputError):
            check(spec)
            return f"use export.py {form}"
    return ""


def write_lif_hand_off(job: Job) -> Written:
    """A folder: weights, golden spikes of every step, C99, their verifier.

    Raises:
        InputError: the network has something that takes more than shifts, sums and comparisons; names the layer.
    """
    session, out = job.session, job.out
    config, model, fpga = session.config, session.loaded.predictor.cpu(), session.config.form == "fpga"
    network = lower_lif(model)
    engine = spiking_engine({}, leaky=True) if config.engine else None
    options = HandOffOptions(
        name=job.stem,
        engine=engine,
        forms=FORMS if fpga else ("npy",),
        tile=config.tile if fpga else None,
        git=git_state(),
        resize=how_of(config),
        names=tuple(job.names),
    )

    def finish(folder: Path, manifest: Manifest) -> None:
        plot_costs(folder / "costs", manifest["layers"])
        write_answers(job, folder, manifest, LifExecutor(network))

    manifest = export_lif(out, network, job.images, options, finish)
    totals, steps = manifest["totals"], manifest["time"]["steps"]
    message = "%s additions at most in each of %d steps, %s bytes of weights"
    log.info(message, f"{totals['macs']:,}", steps, f"{totals['weight_bytes']:,}")
    numbers = {"macs": totals["macs"] * steps, "bytes": totals["weight_bytes"], "steps": steps}
    return Written(numbers, hand_off_files(out, manifest))


@names_kept()
def convert_files(config: FilesConfig) -> Record:
    """Darknet's files into a checkpoint, or a float checkpoint into Darknet's files; the other kind of what is given.

    Raises:
        InputError: a file is missing, damaged, taken, or has no such form.
    """
    source = Path(config.weights) if config.weights else newest(FLOAT)
    back = source.suffix != ".weights"
    loaded = load_model(source, config.cfg)
    if loaded.network is None or loaded.kind == "onnx":
        raise InputError(
            f"{source}: a {loaded.kind} network, and Darknet has floats; give the float .pt it was made of"
        )
    wanted = Path(config.output) if config.output else WEIGHTS / f"{source.stem}.{'weights' if back else 'pt'}"
    beside = [wanted.with_suffix(f".{kind}") for kind in ("cfg", "names")] if back else []
    with alone(RUNS):
        target, *_ = take(wanted, *beside)
        if config.output and target != wanted:
            gone = next(path for path in (wanted, *beside) if path.exists())
            raise InputError(f"{gone}: exists; choose another --output")
        given = [source, *([loaded.cfg] if loaded.cfg else [])]
        record = start_record(new_run_folder(RUNS, "convert"), script="convert", args=config.values, inputs=given)
    if back:
        network = Network(loaded.network.spec.saying(loaded.resize), loaded.network.state)
        files = write_files(target, network, loaded.names)
    else:
        files = [write_checkpoint(config, loaded, target)]
    log.info("%s", ", ".join(map(str, files)))
    return finish_record(record, metrics={"bytes": target.stat().st_size}, outputs=files)


def write_checkpoint(config: FilesConfig, loaded: Loaded, target: Path) -> Path:
    """``.weights`` as a checkpoint that carries its cfg, names, size and how images are fitted."""
    task, named = task_of(loaded.spec, str(loaded.path)), "data" in config.given
    names: Sequence[str] = ()  # of nobody: the data set that it is shown will name its classes
    if named:
        manifest = task.open_data(config.data)
        names = task.check_classes(loaded.spec, manifest, str(loaded.path), ()).names
    else:
        log.info("%s: its classes have no names, since no --data gives them; the next data set's will do", target)
    config = as_trained(config, grey=loaded.grey, resize=loaded.resize, jpeg=loaded.jpeg)
    size = image_size(config.img_size, loaded.spec, loaded.size)
    meta: dict[str, Any] = {"script": "convert", "from": str(loaded.path), "size": list(size), **shown_of(config)}
    meta |= {"data": config.data} if named else {}
    assert loaded.network is not None
    return save_checkpoint(target, Checkpoint(loaded.network, tuple(names), meta=meta))
