"""What an ONNX model says of itself: names, size, how a picture becomes its input, what its heads mean.

Strings in ``metadata_props``, as runtimes hand them out: ``cfg`` (the structure in Darknet's words), ``names``,
``size``, ``input`` and ``heads`` in JSON, ``outputs`` ("maps" or "boxes").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from utils.darknet import spec as s
from utils.darknet.cfg import write_cfg
from utils.darknet.ops import facts
from utils.darknet.shapes import granularity, strides
from utils.export.onnx_graph import Model

BORDER = 114  # of 255: what a letterbox is filled with


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the file cannot know from the graph.

    Args:
        spec: the network as its cfg has it.
        names: of the classes; () where nobody knows them.
        size: (height, width) px.
        resize: "letterbox" or "stretch".
        grey: images are shown grey, in however many channels.
    """

    spec: s.ModelSpec
    names: tuple[str, ...]
    size: tuple[int, int]
    resize: str = "letterbox"
    grey: bool = False


def describe_model(model: Model, facts_: ModelFacts, outputs: str = "maps") -> None:
    """Write the metadata into a model; what it had before stays."""
    spec = facts_.spec
    image = {
        "layout": "NCHW",
        "channels": spec.channels,
        "colour": "grey" if facts_.grey or spec.channels == 1 else "RGB",
        "range": [0, 1],
        "resize": facts_.resize,
        "border": BORDER / 255,
        "multiple": granularity(spec),
    }
    across = strides(spec)
    values = {
        "cfg": write_cfg(spec),
        "names": json.dumps(facts_.names),
        "size": json.dumps(facts_.size),
        "input": json.dumps(image),
        "heads": json.dumps([_head(spec.layers[i], float(across[i])) for i in spec.heads]),
        "outputs": outputs,
    }
    for key, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"darkspike.{key}", value


def _head(layer: s.Layer, stride: float) -> dict[str, Any]:
    """What decoding takes: anchors in px of the image for [yolo], in cells for [region]."""
    found: dict[str, Any] = {"kind": facts(layer).section, "stride": stride}
    if isinstance(layer, s.Detect):
        found |= {"classes": layer.classes, "anchors": _pairs(layer.own_anchors)}
    if isinstance(layer, s.Yolo):
        found |= {"scale_x_y": layer.scale_x_y, "new_coords": layer.new_coords}
        found |= {"nms_kind": layer.nms_kind, "beta_nms": layer.beta_nms}
    if isinstance(layer, s.Region):
        found["softmax"] = layer.softmax
        found |= {"parents": list(layer.parents)} if layer.parents else {}
    return found


def _pairs(anchors: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [list(each) for each in anchors]
