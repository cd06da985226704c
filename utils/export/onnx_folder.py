"""The folder of an ONNX or QONNX export: the model, a report of how it compares, and a README; or nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.export.onnx_check import Comparison, affordable, compare_qdq, compare_quant, judge, wide_layers
from utils.export.onnx_graph import check, library, save
from utils.export.onnx_metadata import ModelFacts, describe_model
from utils.export.onnx_qdq import STRICT, qdq_model
from utils.export.onnx_quant import quant_model
from utils.export.package import whole_folder
from utils.export.readme import RESIZED
from utils.export.targets import TARGETS
from utils.quantization.integer import IntegerNetwork

log = logging.getLogger(__name__)

README = Path(__file__).with_name("README.onnx.md")
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "qonnx": ("onnx", "onnxruntime", "qonnx")}
FILES = {"onnx": "model.onnx", "qonnx": "model.qonnx.onnx"}


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """What goes into the folder.

    Args:
        form: "onnx" (QDQ) or "qonnx".
        name: of the network, for people.
        git: commit of the program.
        resize: how pictures are fitted into the network's, "letterbox" or "stretch".
        target: the hardware whose limits were checked, or "".
        facts: what a QDQ model says of itself, so that test.py and detect.py open it.
    """

    form: str
    name: str
    git: str | None = None
    resize: str = "letterbox"
    target: str = ""
    facts: ModelFacts | None = None


def export_onnx(
    out: Path,
    network: IntegerNetwork,
    images: Tensor,
    options: OnnxOptions,
    finish: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Write the new folder ``out``, the model compared with the integer network, its report and README; or nothing.

    Args:
        out: does not exist yet.
        network: what to hand off.
        images: [N,C,H,W] of n / 255 to compare on; their size is the model's.
        options: what goes into it.
        finish: may add files of its own to the unfinished folder.

    Returns:
        The report.

    Raises:
        InputError: a package is missing, ``out`` exists, a layer has no such form, or the model differs by more than
            the style allows.
    """
    packages = {name: library(name, options.form) for name in PACKAGES[options.form]}
    size = (images.shape[2], images.shape[3])
    with whole_folder(out) as folder:
        path = folder / FILES[options.form]
        write = partial(_write_qdq, facts=options.facts) if options.form == "onnx" else _write_quant
        found, compared, opset = write(path, network, images)
        report = {
            "form": options.form,
            "name": options.name,
            "git": options.git,
            "target": options.target or None,
            "scheme": network.scheme.to_dict(),
            "image": [images.shape[1], *size],
            "resize": options.resize,
            "opset": opset,
            "packages": {name: str(module.__version__) for name, module in packages.items() if name != "qonnx"},
            "rule": rule(network, options.form),
            "images": len(images),
            "compared_at": list(compared),
            "beyond_float32": wide_layers(network),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **found.to_dict(),
        }
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(readme(report), encoding="utf-8")
        if finish is not None:
            finish(folder)
    log.info("%s: %s", out, summary(report))
    return report


def rule(network: IntegerNetwork, form: str) -> str:
    """What a comparison is held to, in words."""
    if form == "qonnx" or network.scheme.style in STRICT:
        return "no element of any layer differs"
    return "a level, before a table if there is one, differs by at most 1, given equal inputs"


def summary(report: dict[str, Any]) -> str:
    """The counts in one line."""
    message = []
    for key, where in (("alone", "on equal inputs"), ("chained", "from the image")):
        if report[key]:
            off, of = (sum(each[name] for each in report[key]) for name in ("differing", "elements"))
            message.append(f"{off:,} of {of:,} levels differ {where}")
    worst = max((head["worst"] for head in report["heads"]), default=0.0)
    return "; ".join([*message, f"the heads' maps by {worst:.1e} of their largest value"])


def readme(report: dict[str, Any]) -> str:
    """The text."""
    template = README.read_text(encoding="utf-8")
    head, *parts = template.split("<!-- ")
    sections = dict(part.split(" -->\n", 1) for part in parts)
    text = head + sections[report["form"]] + sections["compared"]
    if report["target"]:
        text += TARGETS[report["target"]].notes
    wide = ", ".join(map(str, report["beyond_float32"])) or "none"
    shape = "x".join(map(str, report["image"]))
    values = {
        "name": report["name"],
        "shape": shape,
        "opset": str(report["opset"]),
        "rule": report["rule"],
        "resized": RESIZED[report["resize"]],
        "images": str(report["images"]),
        "summary": summary(report),
        "wide": wide,
        "at": "x".join(map(str, report["compared_at"])),
        "style": report["scheme"]["style"],
    }
    for key, value in values.items():
        text = text.replace(f"${{{key}}}", value)
    return text


def _write_qdq(
    path: Path, network: IntegerNetwork, images: Tensor, facts: ModelFacts | None = None
) -> tuple[Comparison, tuple[int, int], int]:
    size = (images.shape[2], images.shape[3])
    model = qdq_model(network, size)
    if facts is not None:
        describe_model(model, facts)
    check(model)
    save(model, path)
    found = compare_qdq(network, images, path)
    judge(network, found, "onnx", strict=network.scheme.style in STRICT)
    return found, size, model.opset_import[0].version


def _write_quant(path: Path, network: IntegerNetwork, images: Tensor) -> tuple[Comparison, tuple[int, int], int]:
    size = (images.shape[2], images.shape[3])
    model = quant_model(network, size)
    save(model.model, path)
    smaller = affordable(network, size)
    if smaller != size:
        log.info("qonnx compares every element with every threshold at once: compared on %dx%d px", *smaller)
    compared = model if smaller == size else quant_model(network, smaller)
    found = compare_quant(network, images, compared, smaller)
    judge_heads = Comparison(found.alone, found.chained, ())
    judge(network, judge_heads, "qonnx", strict=True)
    judge(network, Comparison((), (), found.heads), "qonnx", strict=False)
    opset = next(each.version for each in model.model.opset_import if not each.domain)
    return found, smaller, opset
