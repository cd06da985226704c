"""The folder: everything written to a temporary name, verified from its files, and only then given its own."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from utils.darknet.cfg import write_cfg
from utils.errors import InputError
from utils.export import c99, prepare, rtl, verify
from utils.export.costs import Shape, shapes
from utils.export.engine.clocks import EventWork
from utils.export.engine.compiler import compile_network
from utils.export.engine.events import work_of
from utils.export.engine.program import Program
from utils.export.engine.steps import spikes_of
from utils.export.engine.target import Engine
from utils.export.engine.write import write_engine
from utils.export.formats import FORMS
from utils.export.golden import write_golden
from utils.export.layers import TensorFiles, describe_image, describe_layer
from utils.export.readme import readme
from utils.export.schema import FILE as SCHEMA
from utils.export.schema import fault
from utils.export.spikes import describe_neuron, describe_spikes
from utils.files import clear_leftovers, temporary_name
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.spiking.spike_schedule import encode

log = logging.getLogger(__name__)

MANIFEST, SUM = "manifest.json", "manifest.sum"
ROUNDING = (
    "n = clip((acc * m + 2^(f-1)) >> f, lo, hi); >> floors, so ties go up; m_neg for m where acc < 0; "
    "where there is a table the level is table[n - lo]"
)

Manifest = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class HandOffOptions:
    """What goes into the folder.

    Args:
        name: of the network, for people.
        forms: of every tensor; npy must be among them.
        tile: (outputs, inputs) of a tile of weights; None for plain files only.
        spiking: with the parameters of integrate-and-fire neurons, their timetable, and golden spike trains.
        git: commit of the program.
        resize: how pictures are fitted into the network's, "letterbox" or "stretch".
        engine: with the whole network in hardware of these sizes, in rtl/engine/.
        part: what the engine was chosen for, for its report.
        names: of the classes.
    """

    name: str
    forms: tuple[str, ...] = FORMS
    tile: tuple[int, int] | None = None
    spiking: bool = False
    git: str | None = None
    resize: str = "letterbox"
    engine: Engine | None = None
    part: dict[str, Any] | None = None
    names: tuple[str, ...] = ()


def export_network(
    out: Path,
    network: IntegerNetwork,
    images: Tensor,
    options: HandOffOptions,
    finish: Callable[[Path, Manifest], None] | None = None,
) -> Manifest:
    """Write the hand-off of a network into the new folder ``out``, verified; or nothing.

    Args:
        out: does not exist yet.
        network: what to hand off.
        images: [N,C,H,W] of n / 255, those of the golden vectors.
        options: what goes into it.
        finish: may add files of its own (pictures, boxes) to the unfinished folder.

    Raises:
        InputError: ``out`` exists or cannot be written, a layer cannot be exported, or the folder does not verify.
    """
    program = None if options.engine is None else program_of(network, images, options.engine)
    with whole_folder(out) as folder:
        manifest = _fill(folder, network, images, options)
        clocks = rtl.write_rtl(folder / "rtl", manifest) if "mem" in options.forms else None
        if program is not None:
            works = works_of(network, images, program)
            log.info("%s", write_engine(folder / "rtl/engine", program, manifest, works, options.part))
        finish_folder(out, folder, manifest, finish)
        if clocks is not None:
            log.info("%s", rtl.replay(folder / "rtl", clocks))
    return manifest


def finish_folder(
    out: Path, folder: Path, manifest: Manifest, finish: Callable[[Path, Manifest], None] | None = None
) -> None:
    """Let ``finish`` add its files, seal the folder, and check all of it, in NumPy and in C.

    Raises:
        InputError: it does not verify; names ``out``, which it would have become.
    """
    if finish is not None:
        finish(folder, manifest)
    seal(folder, manifest)
    wrong = fault(manifest)
    if wrong:
        raise InputError(f"{out}: {wrong}; nothing was written, please report this network")
    try:
        log.info("%s", verify.check(folder))
    except verify.MismatchError as error:
        raise InputError(f"{out}: does not verify: {error}; nothing was written, please report this") from error
    log.info("%s", c99.compile_and_check(folder / "c"))


def program_of(network: IntegerNetwork, images: Tensor, engine: Engine) -> Program:
    """The network compiled for an engine, at the images' size.

    Raises:
        InputError: a layer is not in the engine, or does not fit it.
    """
    return compile_network(network, shapes(network, (images.shape[-2], images.shape[-1])), engine)


def works_of(network: IntegerNetwork, images: Tensor, program: Program) -> list[list[EventWork]]:
    """What each image costs an engine of events; nothing that depends on an image otherwise."""
    if not program.engine.spiking:
        return [[]]
    if program.engine.stream:
        return [
            work_of(network, program, *spikes_of(network, image[None], len(program.phases) - 1)) for image in images
        ]
    levels = {i: each.numpy() for i, each in IntegerExecutor(network).levels(images).items()}
    return [work_of(network, program, {i: each[k] for i, each in levels.items()}) for k in range(len(images))]


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that becomes ``out`` when the block ends well, and vanishes when not."""
    temporary = temporary_name(out)
    try:
        if out.exists():
            raise InputError(f"{out}: exists; choose another --out")
        temporary.mkdir(parents=True)
        clear_leftovers(out.parent)
        yield temporary
        temporary.rename(out)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror or error}; make room or allow it, then run this again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def seal(folder: Path, manifest: Manifest) -> None:
    """Stamp every file into the manifest and write it, with its own stamp beside it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / SUM).unlink(missing_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest["files"] = {
        path.relative_to(folder).as_posix(): verify.stamp_of(path.read_bytes()) for path in files
    }  # fmt: skip
    content = (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode()
    (folder / MANIFEST).write_bytes(content)
    (folder / SUM).write_bytes(verify.sum_line(verify.stamp_of(content)))


def _fill(folder: Path, network: IntegerNetwork, images: Tensor, options: HandOffOptions) -> Manifest:
    shape = shapes(network, (images.shape[2], images.shape[3]))
    manifest = describe_network(folder, network, shape, options)
    spiking = encode(network) if options.spiking else None
    for entry in manifest["layers"]:
        neuron = None if spiking is None else describe_neuron(spiking, entry["layer"])
        entry |= {} if neuron is None else {"neuron": neuron}
    manifest["spiking"] = None if spiking is None else describe_spikes(spiking)
    manifest["golden"] = write_golden(folder, network, images, options.forms, spiking)
    (folder / "README.md").write_text(readme(manifest, network, images), encoding="utf-8")
    c99.write_c(folder / "c", network, shape, len(images))
    return manifest


def describe_network(
    folder: Path, network: IntegerNetwork, shape: dict[int, Shape], options: HandOffOptions
) -> Manifest:
    """Write what every hand-off has but for golden vectors, README and c/; returns a manifest without ``golden``."""
    cfg = write_cfg(network.spec.saying(options.resize))
    target = TensorFiles(folder, options.forms, options.tile)
    count = range(len(network.spec.layers))
    steps = tqdm(count, desc="write layers", leave=False, delay=2, disable=None)
    layers = [describe_layer(network, i, shape, target) for i in steps]
    costs = [entry["cost"] for entry in layers]
    (folder / "network.cfg").write_text(cfg, encoding="utf-8")
    shutil.copyfile(SCHEMA, folder / SCHEMA.name)
    shutil.copyfile(verify.__file__, folder / "verify.py")
    shutil.copyfile(prepare.__file__, folder / "prepare.py")
    return {
        "format": "darkspike-hand-off",
        "version": 3,
        "name": options.name,
        "git": options.git,
        "cfg_sha256": hashlib.sha256(cfg.encode()).hexdigest(),
        "scheme": network.scheme.to_dict(),
        "rounding": ROUNDING,
        "byte_order": "little",
        "image": describe_image(shape[-1], network.grids[-1], options.resize),
        "names": list(options.names),
        "suppression": None,  # whoever has detection heads says it
        "tile": None if options.tile is None else {"tm": options.tile[0], "tn": options.tile[1]},
        "spiking": None,
        "layers": layers,
        "totals": {key: sum(cost[key] for cost in costs) for key in costs[0]},
    }
