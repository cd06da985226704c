"""The folders that hls4ml and FINN open: model, configuration, an image, and what must come out."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.errors import InputError
from utils.export.finn import BUILD, check_finn, folding
from utils.export.onnx_fixed import PIXEL, check_fixed, fixed_model, head_factor, level_scale
from utils.export.onnx_graph import Array, Model, by_qonnx
from utils.export.onnx_quant import quant_model
from utils.export.package import whole_folder
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork

log = logging.getLogger(__name__)

MODEL = "model.onnx"
CONVERT = Path(__file__).with_name("convert_hls4ml.py")  # never imported here: it needs hls4ml
HLS4ML = {
    "backend": "Vitis",
    "io_type": "io_stream",
    "part": "xc7z020clg400-1",
    "clock_period_ns": 10,
    "default_precision": "fixed<32,16>",
    "model": {"ReuseFactor": 1, "Strategy": "Latency"},
}


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """For whom ("hls4ml" or "finn"), the network's name, the first so many layers or all, the program's commit."""

    client: str
    name: str
    layers: int | None = None
    git: str | None = None


def export_client(out: Path, network: IntegerNetwork, images: Tensor, options: ClientOptions) -> dict[str, Any]:
    """Write the new folder ``out``, its model run by qonnx and equal to the integers; or nothing.

    Args:
        out: does not exist yet.
        network: what to hand on.
        images: [N,C,H,W] of n / 255; FINN's folder holds the first of them.
        options: for whom.

    Returns:
        The report.

    Raises:
        InputError: a package is missing, ``out`` exists, a layer has no form there, or a number differs.
    """
    size = (images.shape[2], images.shape[3])
    hls = options.client == "hls4ml"
    (check_fixed if hls else check_finn)(network, size, options.layers)
    with whole_folder(out) as folder:
        model = (fixed_model if hls else quant_model)(network, size, options.layers)
        given = np.rint(images.numpy() * 255).astype(np.float32)
        if hls:
            given = given.transpose(0, 2, 3, 1) / np.float32(2**PIXEL)
        wanted = expected(network, images, options.layers, fixed=hls)
        differing = _differing(model, given, wanted)
        model.save(str(folder / MODEL))
        count = len(images) if hls else 1
        np.save(folder / "input.npy", given[:count])
        np.save(folder / "expected_output.npy", wanted[:count])
        report: dict[str, Any] = {
            "for": options.client,
            "name": options.name,
            "git": options.git,
            "layers": options.layers,
            "image": [images.shape[1], *size],
            "images": count,
            "differing": differing,
            "operators": sorted({node.op_type for node in model.graph.node}),
        }
        if hls:
            _dump(folder / "config.json", HLS4ML)
            shutil.copyfile(CONVERT, folder / "convert.py")
            report["head_factor"] = head_factor(network)
        else:
            _dump(folder / "dataflow_build_config.json", BUILD)
            _dump(folder / "folding_config.json", folding(network, options.layers))
        _dump(folder / "report.json", report)
        words = WORDS[options.client].format(name=options.name, size=f"{size[0]}x{size[1]}")
        (folder / "README.md").write_text(words, encoding="utf-8")
    log.info("%s: qonnx gives the integers in all of %s numbers", out, f"{wanted.size:,}")
    return report


def expected(network: IntegerNetwork, images: Tensor, layers: int | None, *, fixed: bool) -> Array:
    """What the model must give: a head's map or a layer's levels, float32; for hls4ml as fixed point, channels last."""
    executor = IntegerExecutor(network)
    factor = head_factor(network) if fixed else 1.0
    if layers is None or layers - 1 not in network.grids:
        if layers is None:
            value = executor(images)[0].double().numpy() / factor
        else:
            _, op = network.conv(layers - 1)
            assert op.scale is not None
            acc = executor.trace(images).accumulators[layers - 1].double().numpy()
            value = acc * op.scale.numpy()[:, None, None] / factor
    else:
        value = executor.levels(images)[layers - 1].double().numpy()
        value = value * level_scale(network, layers - 1) if fixed else value
    value = value.astype(np.float32)
    return value.transpose(0, 2, 3, 1) if fixed else value


def _differing(model: Model, given: Array, wanted: Array) -> int:
    """Run by qonnx, image by image.

    Raises:
        InputError: a number differs by more than the rounding of a scale in float32.
    """
    execute = by_qonnx()
    name, end = model.graph.input[0].name, model.graph.output[0].name
    found = np.concatenate([execute(model, {name: each[None]})[end] for each in given])
    off = ~np.isclose(found, wanted, rtol=1e-6, atol=0)
    if off.any():
        raise InputError(f"{int(off.sum())} of {off.size} numbers differ in qonnx; nothing was written, please report")
    return int((found != wanted).sum())


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


WORDS = {
    "hls4ml": """# {name}, for hls4ml

`model.onnx`: `Quant` nodes on weights, biases and activations, scales that are powers of two, channels last; an image
of {size} px, a pixel n as n / 256. `python3 convert.py` makes an hls4ml 1.3 project of it with the settings of
`config.json`, compiles its C simulation with g++ and compares `input.npy` with `expected_output.npy`: no number may
differ. A head's map is its output times `head_factor` of `report.json`. Nothing was synthesised.
""",
    "finn": """# {name}, for FINN

What `build_dataflow` takes: `model.onnx` (integers, `MultiThreshold` for every requantisation; an image of {size} px as
its pixels, 0..255), `dataflow_build_config.json`, `folding_config.json`, and `input.npy` with `expected_output.npy` for
its verification. qonnx ran the model and gave the integers. FINN itself was not run here: it is not a package one can
install; folding names its layers as it does and is a start, not an optimum.
""",
}
