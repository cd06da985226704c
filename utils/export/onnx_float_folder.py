"""The folder of a float ONNX export: the model, what it was compared with, a README; or nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.errors import InputError
from utils.export.onnx_check import run, session
from utils.export.onnx_float import float_model
from utils.export.onnx_graph import check, library, save
from utils.export.onnx_metadata import ModelFacts, describe_model
from utils.export.package import whole_folder

log = logging.getLogger(__name__)

MODEL = "model.onnx"
README = Path(__file__).with_name("README.float.md")
MOST = 1e-3  # of the largest value of a map: what sums in another order may be off in float32


@dataclass(frozen=True, kw_only=True)
class FloatOptions:
    """What goes into the folder.

    Args:
        name: of the network, for people.
        facts: what the model says of itself.
        dynamic: any size that divides by the largest stride.
        decode: boxes and scores instead of maps.
        git: commit of the program.
    """

    name: str
    facts: ModelFacts
    dynamic: bool = False
    decode: bool = False
    git: str | None = None


def export_float(
    out: Path, network: Network, images: Tensor, golden: Callable[[Tensor], Sequence[Tensor]], options: FloatOptions
) -> dict[str, Any]:
    """Write the new folder ``out`` with the float network as ONNX, compared; or nothing.

    Args:
        out: does not exist yet.
        network: as it was trained; batch norm is folded here.
        images: [N,C,H,W] of n / 255 to compare on; their size is the model's.
        golden: the network itself, images -> the maps of its heads.
        options: what goes into it.

    Returns:
        The report.

    Raises:
        InputError: a package is missing, ``out`` exists, a layer has no such form, or a map differs.
    """
    packages = {name: str(library(name, "onnx").__version__) for name in ("onnx", "onnxruntime")}
    height, width = images.shape[2], images.shape[3]
    with whole_folder(out) as folder:
        path, folded = folder / MODEL, fold_bn(network)
        build = {"dynamic": options.dynamic, "decode": options.decode}
        model = float_model(folded, (height, width), **build)
        describe_model(model, options.facts, "boxes" if options.decode else "maps")
        check(model)
        save(model, path)
        compared = path
        if options.decode:  # the maps behind the boxes, from the same nodes
            compared = folder / "taps.onnx"
            save(float_model(folded, (height, width), **build, taps=True), compared)
        worst = _differences(compared, images, golden(images))
        if options.decode:
            compared.unlink()
        report = {
            "form": "onnx --float",
            "name": options.name,
            "git": options.git,
            "image": [images.shape[1], height, width],
            "resize": options.facts.resize,
            "dynamic": options.dynamic,
            "outputs": [each.name for each in model.graph.output],
            "opset": model.opset_import[0].version,
            "packages": packages,
            "images": len(images),
            "worst": worst,
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_readme(report, options), encoding="utf-8")
    log.info("%s: maps off by %.1e of their largest value at most, on %d images", out, max(worst), len(images))
    return report


def _differences(path: Path, images: Tensor, golden: Sequence[Tensor]) -> list[float]:
    """The largest difference of each map as a share of its largest value.

    Raises:
        InputError: one is more than float32 explains.
    """
    found = run(session(path), {"image": images.numpy()})
    maps = [value for name, value in found.items() if name.endswith("_map")]
    worst = []
    for k, (mine, tensor) in enumerate(zip(maps, golden, strict=True)):
        right = tensor.cpu().numpy()
        worst.append(float(np.abs(mine - right).max() / max(float(np.abs(right).max()), 1e-30)))
        if not worst[-1] <= MOST:
            raise InputError(
                f"head {k}: onnxruntime's map is off by {worst[-1]:.1e} of its largest value; nothing was written, "
                "please report this network"
            )
    return worst


def _readme(report: dict[str, Any], options: FloatOptions) -> str:
    """The text, of the parts that are so."""
    head, *parts = README.read_text(encoding="utf-8").split("<!-- ")
    sections = dict(part.split(" -->\n", 1) for part in parts)
    text = head + sections["boxes" if options.decode else "maps"]
    text += sections["dynamic"] if options.dynamic else ""
    channels, height, width = report["image"]
    shape = f"{channels},height,width" if options.dynamic else f"{channels},{height},{width}"
    values = {
        "name": options.name,
        "shape": shape,
        "size": f"{height}x{width}",
        "opset": str(report["opset"]),
        "resize": report["resize"],
        "images": str(report["images"]),
        "worst": f"{max(report['worst']):.1e}",
    }
    for key, value in values.items():
        text = text.replace(f"${{{key}}}", value)
    return text
