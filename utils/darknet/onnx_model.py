"""An ONNX file as a predictor: onnxruntime computes the maps; its metadata, or a cfg, say what they mean."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg
from utils.darknet.onnx_boxes import Form, form_of, of_corners
from utils.darknet.shapes import channels, sizes
from utils.errors import InputError

OURS = "darkspike."  # before every key of the metadata
MAP_AXES = 4
QUIET = 4  # onnxruntime's own lines: of what ends it alone
PRECISE, CLASH = "session.x64quantprecision", "Attempt to replace the existing tensor"
MISSING = "the package onnxruntime is missing; pip install -r requirements-export.txt"


class OnnxPredictor(nn.Module):
    """``forward`` takes [N, C, H, W] in 0..1 and returns the heads' raw maps, in cfg order; on the CPU.

    Args:
        session: of onnxruntime.
        outputs: that are the maps, in cfg order; all where it is None.
        boxes: of a file whose boxes are decoded already, what makes one tensor [N, boxes, 5 + classes] of its outputs,
            which is returned in the place of maps.
    """

    def __init__(self, session: Any, outputs: tuple[str, ...] | None = None, boxes: Form | None = None) -> None:
        super().__init__()
        self.session, self.input, self.outputs, self.boxes = session, session.get_inputs()[0], outputs, boxes

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images -> maps.

        Raises:
            InputError: the file was written for images of another size.
        """
        wanted = self.input.shape[1:]
        if any(isinstance(side, int) and side != got for side, got in zip(wanted, x.shape[1:], strict=True)):
            raise InputError(
                f"--img-size: {tuple(x.shape[1:])}, and this ONNX file takes {tuple(wanted)}; leave it away, or export "
                "with --dynamic"
            )
        given = {self.input.name: x.detach().float().cpu().contiguous().numpy()}
        found = [torch.from_numpy(each).to(x.device) for each in self.session.run(self.outputs, given)]
        return [self.boxes(found)] if self.boxes else found


@dataclass(frozen=True)
class OnnxFile:
    """What a file holds: a predictor, and of its metadata the structure, names, (height, width) px, and its input."""

    predictor: OnnxPredictor
    spec: s.ModelSpec
    names: tuple[str, ...]
    size: tuple[int, int]
    resize: str
    grey: bool


def exact_session(model: str | bytes, options: Any = None) -> Any:
    """An onnxruntime session on the CPU that computes what the file says, of a path or of a file's bytes.

    Integer kernels of x64 processors without VNNI saturate at 16 bits: there they get precise ones, which onnxruntime
    (1.31) refuses where two convolutions share their weights; such a file is computed in floats. With VNNI the precise
    ones are as exact as the others and take twice as long.
    """
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.add_session_config_entry(PRECISE, "0" if adds_in_32_bits() else "1")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds, which are no common one's
        if CLASH not in str(error):
            raise
        options.add_session_config_entry(PRECISE, "0")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@cache
def adds_in_32_bits() -> bool:
    """Whether this processor's vectors add products of bytes without saturating (AVX512-VNNI)."""
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


def open_onnx(path: Path, structure: s.ModelSpec | None = None) -> OnnxFile:
    """Read an ONNX file whose outputs are the raw maps of heads, or boxes.

    Args:
        path: what ``export.py onnx`` wrote, with floats or integers; or the file of another program.
        structure: of another program's file, which does not say what its outputs mean.

    Raises:
        InputError: it is missing or no ONNX, the package is missing, or the file does not say what its maps mean, or
            they do not fit the structure.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; export.py onnx makes one")
    try:
        session = exact_session(str(path))
    except ImportError as error:
        raise InputError(f"{path}: {MISSING}") from error
    except Exception as error:  # its own kinds, which are no common one's
        raise InputError(f"{path}: onnxruntime cannot read it: {str(error).splitlines()[0]}") from error
    about = session.get_modelmeta().custom_metadata_map
    if structure is not None:
        if f"{OURS}cfg" in about:
            raise InputError(f"{path}: carries its own structure; leave --cfg away")
        return _of_others(path, session, structure)
    if f"{OURS}cfg" not in about:
        raise InputError(f"{path}: does not say what its outputs mean; add --cfg, whose heads it has")
    boxes = None if about[f"{OURS}outputs"] == "maps" else of_corners
    spec, image = parse_cfg(about[f"{OURS}cfg"], str(path)), json.loads(about[f"{OURS}input"])
    height, width = json.loads(about[f"{OURS}size"])
    names = tuple(json.loads(about[f"{OURS}names"]))
    grey = image["colour"] == "grey" and spec.channels > 1
    return OnnxFile(OnnxPredictor(session, boxes=boxes), spec, names, (height, width), image["resize"], grey)


def _of_others(path: Path, session: Any, spec: s.ModelSpec) -> OnnxFile:
    """Another program's file: an output for each head, the map [N, C, H, W] of its channels and grid; or boxes."""
    given = session.get_inputs()
    taken = list(given[0].shape) if given else []
    if len(given) != 1 or len(taken) != MAP_AXES or given[0].type != "tensor(float)":
        raise InputError(
            f"{path}: takes {[(each.name, each.shape) for each in given]}; known is one image, NCHW of floats"
        )
    height, width = (
        int(a) if isinstance(a, int) else b for a, b in zip(taken[2:], (spec.height, spec.width), strict=True)
    )
    wide, extent = channels(spec, str(path)), sizes(spec, height, width)
    wanted = [(wide[j], *extent[j]) for j in (spec.layers[i].sources[0] for i in spec.heads)]
    blank = np.zeros((1, spec.channels, height, width), np.float32)
    maps = session.run(None, {given[0].name: blank})
    shapes = [each.shape[1:] for each in maps]
    names = [output.name for output in session.get_outputs()]
    classes = {getattr(spec.layers[i], "classes", 0) for i in spec.heads}
    boxes = form_of([each.shape for each in maps], *classes) if len(classes) == 1 else None
    if boxes is not None:
        return OnnxFile(OnnxPredictor(session, None, boxes), spec, (), (height, width), spec.resize, False)
    if sorted(shapes) != sorted(wanted) or len(set(wanted)) < len(wanted):
        raise InputError(
            f"{path}: its outputs are {dict(zip(names, shapes, strict=True))}, and the heads of --cfg give {wanted} at "
            f"{width}x{height} px, or boxes [N, boxes, 5 + classes] or [N, 4 + classes, boxes]; export it so"
        )
    order = tuple(names[shapes.index(shape)] for shape in wanted)
    return OnnxFile(OnnxPredictor(session, order), spec, (), (height, width), spec.resize, False)
