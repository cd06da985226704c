"""From an integer network to the folder an FPGA or C engineer gets, for export.py."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.report import begin
from pipeline.session import Session, newest, open_session, output_of
from pipeline.spike_export import write_aer_form, write_nir_form
from utils.detection.decode import decode
from utils.detection.nms import non_max_suppression
from utils.errors import InputError
from utils.export.formats import FORMS
from utils.export.onnx_folder import FILES, OnnxOptions, export_onnx
from utils.export.package import HandOffOptions, Manifest, export_network
from utils.export.targets import TARGETS, check_target
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.reporting.files import free_path
from utils.reporting.plots import plot_bars
from utils.reporting.record import Record, finish_record, git_state

log = logging.getLogger(__name__)

QUANTISED = "convert_snn train quantize"  # scripts that may leave an integer network behind
FOLDER = Path("export")
CONFIDENCE, OVERLAP = 0.25, 0.45  # of the boxes beside the golden vectors


def add_flags(flags: argparse.ArgumentParser) -> None:
    """The flags of an export."""
    flags.add_argument("form", nargs="?", choices=sorted(WRITERS), default="fpga", help="what to write (default: fpga)")
    flags.add_argument("--weights", default="", help=".int.pt or .snn.pt (default: the newest quantised network)")
    flags.add_argument("--golden", type=int, default=2, help="validation images to write golden vectors for")
    flags.add_argument("--tile", type=tile, default=None, help="TMxTN: weights in tiles of outputs x inputs too")
    flags.add_argument("--target", choices=sorted(TARGETS), default="", help="refuse what this hardware cannot run")
    flags.add_argument("--out", default="", help="the new folder (default: export/ and the network's name)")


def tile(text: str) -> tuple[int, int]:
    """``64x8`` -> (64, 8)."""
    numbers = text.lower().split("x")
    if len(numbers) != 2 or not all(number.isdigit() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"must be TMxTN, such as 64x8, got {text}")
    return int(numbers[0]), int(numbers[1])


def export_script(args: argparse.Namespace) -> Record:
    """export.py: write, verify, tell.

    Raises:
        InputError: the network is a float one, there are too few images, or the hand-off does not verify.
    """
    args.weights = args.weights or str(newest(QUANTISED, output=integers_of))
    float_network = f"{args.weights}: is a float network; quantise it: quantize.py --weights {args.weights}"
    if not args.weights.endswith(".pt"):
        raise InputError(float_network)
    session = open_session(args)
    if session.loaded.integer is None:
        rate = f"{args.weights}: spikes in rate mode, which has no integers; convert_snn.py --mode phase has"
        raise InputError(rate if session.loaded.kind == "spiking" else float_network)
    if args.target:
        check_target(session.loaded.integer, args.target)
    images = golden_images(session, args.golden)
    stem = session.loaded.path.name.removesuffix(".pt").removesuffix(".int").removesuffix(".snn")
    out = Path(args.out) if args.out else free_path(FOLDER / "-".join(filter(None, (stem, args.name))))
    record = begin(session, "export")
    metrics, outputs = WRITERS[args.form](Job(session, session.loaded.integer, images, stem, out))
    return finish_record(record, metrics=metrics, outputs=outputs)


def integers_of(record: Record | None) -> Path | None:
    """The integers a run left behind, if they are still there: packed, or spikes that are made of them."""
    if record is None or record.args.get("mode") == "rate":
        return None
    return output_of(record, "*.int.pt", "*.snn.pt")


@dataclass(frozen=True)
class Job:
    """What a writer gets: an integer network, images [N,C,H,W] of n / 255 for golden vectors, a name, a free path."""

    session: Session
    integer: IntegerNetwork
    images: Tensor
    stem: str
    out: Path


def write_hand_off(job: Job) -> tuple[dict[str, Any], list[Path]]:
    """The forms "fpga" and "c": a folder; returns the record's metrics and outputs."""
    args, out = job.session.args, job.out
    options = HandOffOptions(
        name=job.stem,
        forms=FORMS if args.form == "fpga" else ("npy",),
        tile=args.tile if args.form == "fpga" else None,
        spiking=job.session.loaded.kind == "spiking",
        git=git_state(),
    )

    def finish(folder: Path, manifest: Manifest) -> None:
        if args.target:
            manifest["target"] = args.target
            with (folder / "README.md").open("a", encoding="utf-8") as text:
                text.write(TARGETS[args.target].notes)
        draw_costs(folder, manifest)
        write_boxes(job, folder)

    manifest = export_network(out, job.integer, job.images, options, finish)
    totals = manifest["totals"]
    message = [f"{totals[key]:,}" for key in ("macs", "bops", "weight_bytes")]
    log.info("%s MACs and %s bit operations an image, %s bytes of weights", *message)
    log.info("%s: %d files; check them anywhere with python3 %s", out, len(manifest["files"]), out / "verify.py")
    numbers = {"macs": totals["macs"], "bops": totals["bops"], "bytes": totals["weight_bytes"]}
    return numbers, [out / "manifest.json", out / "verify.py"]


def write_onnx(job: Job) -> tuple[dict[str, Any], list[Path]]:
    """The forms "onnx" and "qonnx": a folder with the model and how it compares."""
    args = job.session.args
    options = OnnxOptions(form=args.form, name=job.stem, git=git_state(), target=args.target)
    report = export_onnx(job.out, job.integer, job.images, options)
    return {"bytes": report["bytes"]}, [job.out / FILES[args.form], job.out / "report.json"]


Writer = Callable[[Job], tuple[dict[str, Any], list[Path]]]
WRITERS: dict[str, Writer] = {
    "fpga": write_hand_off,
    "c": write_hand_off,
    "onnx": write_onnx,
    "qonnx": write_onnx,
    "nir": write_nir_form,
    "aer": write_aer_form,
}


def golden_images(session: Session, count: int) -> Tensor:
    """The first validation images, [N,C,H,W] of n / 255."""
    dataset = session.valid.dataset
    most = len(dataset)  # type: ignore[arg-type]
    if not 1 <= count <= most:
        raise InputError(f"--golden: {count} images of {most}; use 1 to {most}")
    return torch.stack([dataset[i].image for i in range(count)]).float() / 255


def draw_costs(folder: Path, manifest: Manifest) -> None:
    """Bars of MACs, bit operations and bytes on the chip, a layer each."""
    for key, title, unit, each_unit in (
        ("macs", "Multiply-accumulates of each layer", "million MACs an image", 1e6),
        ("bops", "Bit operations of each layer: MACs x weight bits x input bits", "millions an image", 1e6),
        ("on_chip_bytes", "On the chip for each layer: weights and row buffer", "KiB", 1024),
    ):
        bars = {f"layer {each['layer']}": each["cost"][key] / each_unit for each in manifest["layers"]}
        shown = {name: value for name, value in bars.items() if value}
        plot_bars(folder / "costs" / f"{key}.png", shown, title=title, unit=unit)


def write_boxes(job: Job, folder: Path) -> None:
    """golden/K/boxes.json: what the heads make of the golden accumulators, in floating point.

    Of the integers, and not of the file's own executor: spikes in stream mode may be read out before they settle.
    """
    session, images = job.session, job.images
    raw = IntegerExecutor(job.integer).to(session.device)(images.to(session.device))
    size = (images.shape[2], images.shape[3])
    names: Any = session.loaded.names or session.manifest.names
    found = non_max_suppression(decode(raw, session.heads, size), conf=CONFIDENCE, iou=OVERLAP)
    for k, boxes in enumerate(found):
        rows = [
            {"class": int(row[5]), "name": names[int(row[5])], "score": round(row[4], 6), "xyxy": row[:4]}
            for row in boxes.tolist()
        ]
        content = {"confidence": CONFIDENCE, "iou": OVERLAP, "unit": "px of the network's image", "boxes": rows}
        (folder / f"golden/{k}/boxes.json").write_text(json.dumps(content, indent=1) + "\n")
