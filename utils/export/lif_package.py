"""The hand-off of a network that was trained as spikes for hardware: leaky neurons, step by step, to the bit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from string import Template

from torch import Tensor

from utils.export import c99
from utils.export.costs import shapes
from utils.export.engine.clocks import EventWork
from utils.export.engine.events import work_of
from utils.export.engine.program import Program
from utils.export.engine.write import write_engine
from utils.export.lif_golden import write_lif_golden
from utils.export.lif_step import one_step
from utils.export.package import HandOffOptions, Manifest, describe_network, finish_folder, program_of, whole_folder
from utils.export.readme import RESIZED
from utils.quantization.integer import IntegerNetwork
from utils.spiking.lif_integers import LifExecutor, LifNetwork

log = logging.getLogger(__name__)

VERSION = 4  # the manifest's, with steps of time
SCHEME = {"trained": "--hw-friendly", "w_bit": 8}
ROUNDING = (
    "u = (v >> shift, or v - (v >> shift) where keeps_most) + acc; a spike where u > 2^log2_threshold[o]; "
    ">> floors; v becomes u - 2^log2_threshold[o] after a spike (soft) or 0 (hard), else u"
)
TEMPLATE = Path(__file__).with_name("README.lif.md")


def export_lif(
    out: Path,
    network: LifNetwork,
    images: Tensor,
    options: HandOffOptions,
    finish: Callable[[Path, Manifest], None] | None = None,
) -> Manifest:
    """Write the hand-off of a network of leaky neurons into the new folder ``out``, verified; or nothing.

    Args:
        out: does not exist yet.
        network: what to hand off.
        images: [N,C,H,W] of n / 255, or frames [N,T,C,H,W]: those of the golden vectors.
        options: what goes into it.
        finish: may add files of its own (pictures, boxes) to the unfinished folder.

    Raises:
        InputError: ``out`` exists or cannot be written, a layer has no form, or the folder does not verify.
    """
    step = one_step(network)
    program = None if options.engine is None else program_of(step, images, options.engine)
    with whole_folder(out) as folder:
        manifest = _fill(folder, network, step, images, options)
        if program is not None:
            works = leaky_works(network, step, images, program)
            log.info("%s", write_engine(folder / "rtl/engine", program, manifest, works))
        finish_folder(out, folder, manifest, finish)
    return manifest


def leaky_works(network: LifNetwork, step: IntegerNetwork, images: Tensor, program: Program) -> list[list[EventWork]]:
    """What each image costs an engine of leaky neurons, from what every layer sends in the program's steps."""
    found = []
    for image in images:
        sent = LifExecutor(network).trace(image[None]).sent
        levels = [
            {i: each[t, 0].numpy() for i, each in sent.items() if i in step.grids} for t in range(len(program.phases))
        ]
        found.append(work_of(step, program, *levels))
    return found


def _fill(folder: Path, network: LifNetwork, step: IntegerNetwork, images: Tensor, options: HandOffOptions) -> Manifest:
    spec = network.spec
    shape = shapes(step, (images.shape[-2], images.shape[-1]))
    manifest = describe_network(folder, step, shape, options)
    manifest |= {
        "version": VERSION,
        "scheme": SCHEME,
        "rounding": ROUNDING,
        "time": {"steps": spec.timesteps, "input": "frames" if spec.input_frames else "repeat"},
        "golden": write_lif_golden(folder, network, step, images, options.forms),
    }
    (folder / "README.md").write_text(lif_readme(manifest), encoding="utf-8")
    c99.write_c(folder / "c", step, shape, len(images))
    return manifest


def lif_readme(manifest: Manifest) -> str:
    """The text."""
    totals, time, image = manifest["totals"], manifest["time"], manifest["image"]
    frames = time["input"] == "frames"
    bits = max(each["acc_bits"] for each in manifest["layers"] if "lif" in each)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=manifest["name"],
        layers=len(manifest["layers"]),
        steps=time["steps"],
        shown="a frame a step" if frames else "the same image at every step",
        shape="[step][channel][y][x]" if frames else "[channel][y][x]",
        image="x".join(map(str, image["shape"])),
        resized=RESIZED[image["resize"]],
        bits=bits,
        macs=f"{totals['macs']:,}",
        weight_bytes=f"{totals['weight_bytes']:,}",
    )
