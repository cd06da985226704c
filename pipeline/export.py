"""From a network to the folder an FPGA or C engineer gets, or to others' forms, for export.py."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

from models import load_model
from pipeline.forms import WRITERS, Job, write_checkpoint, write_float
from pipeline.session import Session, open_session
from utils.config.export import ExportConfig
from utils.config.files import FilesConfig
from utils.darknet.network import Network
from utils.errors import InputError
from utils.export.darknet_files import write_files
from utils.export.engine.target import part_of
from utils.export.targets import TARGETS, check_target
from utils.files import alone, holder, names_kept, take
from utils.reporting.record import Record, finish_record, new_run_folder, start_record
from utils.reporting.runs import FLOAT, RUNS, WEIGHTS, newest, output_of
from utils.spiking.choices import LAYERWISE, RATE

log = logging.getLogger(__name__)

QUANTISED = "convert_snn train quantize"  # scripts that may leave an integer network behind
DIRECT = ("nir", "aer")  # forms of networks that were trained as spikes
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
    session = open_session(config, scripts=FLOAT)
    if session.loaded.network is None:
        what = f"{config.form} --float" if config.float_network else config.form
        path = session.loaded.path
        raise InputError(f"{path}: has integers, and export.py {what} takes floats; give the network it was made of")
    return session


def open_spikes(config: ExportConfig) -> Session[ExportConfig] | None:
    """The session of a network that was trained as spikes; None if ``--weights`` is none."""
    if not config.weights.endswith(".pt") or not load_model(config.weights).spec.neurons:
        return None
    for flag in ("dialect", "steps", "target"):
        if flag in config.given:
            raise InputError(
                f"--{flag}: {config.weights} was trained as spikes, in steps and nodes of its own; leave --{flag} away"
            )
    return open_session(config)


def open_integers(config: ExportConfig) -> Session[ExportConfig]:
    """The session of a network that has integers: ``--weights``, or the newest one made here.

    Raises:
        InputError: the network is a float one, or spikes at rates.
    """
    weights = config.weights or str(newest(QUANTISED, output=integers_of))
    float_network = f"{weights}: is a float network; quantise it: quantize.py --weights {weights}"
    if not weights.endswith(".pt"):
        raise InputError(float_network)
    session = open_session(replace(config, weights=weights))
    if session.loaded.spec.neurons:
        forms = " and ".join(DIRECT)
        raise InputError(f"{weights}: was trained as spikes, which only {forms} hold; use export.py {DIRECT[0]}")
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
    write = write_float if config.float_network else WRITERS[config.form]
    made = write(Job(session, images, stem, out))
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
