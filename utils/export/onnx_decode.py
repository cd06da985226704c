"""Heads decoded inside an ONNX graph, so that a consumer gets boxes: what [yolo] and [region] layers compute.

Formulas as utils/detection/decode.py states them, with its sources; suppression of overlaps stays the consumer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.darknet import spec as s
from utils.darknet.ops import facts
from utils.errors import InputError
from utils.export.onnx_graph import Array, Graph, place

BOXES, SCORES = "boxes", "scores"
MAX_LOG_SIZE = 8.0  # exp(8) is 2981 anchors: no real box is wider, and an untrained head cannot reach inf


@dataclass(frozen=True)
class Grid:
    """What decoding needs of the graph: ``made``, a tensor's name for each layer, ``extent`` (h, w) of each.

    ``size``: of the image, (height, width) px. ``dynamic``: the grid is made when the graph runs, from the map.
    """

    made: Mapping[int, str]
    extent: Mapping[int, tuple[int, int]]
    size: tuple[int, int]
    dynamic: bool


@dataclass(frozen=True)
class Decoded:
    """How many boxes all heads give at ``size``, and (name, width) of each output."""

    count: int
    widths: tuple[tuple[str, int], ...]


def decode_heads(graph: Graph, spec: s.ModelSpec, grid: Grid) -> Decoded:
    """Append nodes: "boxes" [N,M,4], corners x1, y1, x2, y2 in px of the image, and "scores" [N,M,classes].

    A score is objectness times class probability. Boxes stand head by head; within a head anchor by anchor, row by row.

    Raises:
        InputError: an output is no detection head, or heads tell apart different numbers of classes.
    """
    boxes, scores, count = [], [], 0
    classes: set[int] = set()
    for i in spec.heads:
        head, j = spec.layers[i], spec.layers[i].sources[0]
        if not isinstance(head, s.Detect):
            raise InputError(f"--decode: {place(i, head)}: is no detection head; leave --decode away")
        if head.spreads or head.turned:
            raise InputError(
                f"--decode: {place(i, head)}: [{facts(head).section}] is decoded in Python; leave --decode away"
            )
        h, w = grid.extent[j]
        count, classes = count + len(head.own_anchors) * h * w, classes | {head.classes}
        name = f"head{i:03d}"
        each = 5 + head.classes
        fold = graph.constant(np.array([0, len(head.own_anchors), each, -1], np.int64), f"{name}_fold")
        values = graph.add("Reshape", [grid.made[j], fold], f"{name}_values")  # [N,A,5+C,H*W]
        boxes.append(_rows(graph, _corners(graph, head, values, j, grid, name), 4, f"{name}_boxes"))
        scores.append(_rows(graph, _scores(graph, head, values, name), head.classes, f"{name}_scores"))
    if len(classes) != 1:
        raise InputError(f"--decode: the heads have {sorted(classes)} classes; it takes heads of one number")
    _joined(graph, boxes, BOXES)
    _joined(graph, scores, SCORES)
    return Decoded(count, ((BOXES, 4), (SCORES, classes.pop())))


def _corners(graph: Graph, head: s.Detect, values: str, j: int, grid: Grid, name: str) -> str:
    """[N,A,4,H*W] px."""
    (h, w), (height, width) = grid.extent[j], grid.size
    stride = np.array([width / w, height / h], np.float32)
    anchors = np.array(head.own_anchors, np.float32) * (stride if isinstance(head, s.Region) else 1)
    done = isinstance(head, s.Yolo) and head.new_coords  # the values have been through a logistic already
    xy, wh = (_part(graph, values, ends, f"{name}_{key}") for key, ends in (("xy", (0, 2)), ("wh", (2, 4))))
    if not done:
        xy = graph.add("Sigmoid", [xy], f"{name}_in_cell")
    if isinstance(head, s.Yolo) and head.scale_x_y != 1:
        xy = _with(graph, "Mul", xy, np.float32(head.scale_x_y), f"{name}_reaching")
        xy = _with(graph, "Sub", xy, np.float32(head.reach), f"{name}_reach")
    xy = graph.add("Add", [xy, _cells(graph, grid, j, name)], f"{name}_place")
    xy = _with(graph, "Mul", xy, stride.reshape(1, 1, 2, 1), f"{name}_centre")
    if done:
        wh = _with(graph, "Mul", wh, np.float32(2), f"{name}_double")
        wh = graph.add("Mul", [wh, wh], f"{name}_square")
    else:
        top = graph.constant(np.array(MAX_LOG_SIZE, np.float32), "largest_log")
        wh = graph.add("Exp", [graph.add("Min", [wh, top], f"{name}_bounded")], f"{name}_times")
    half = _with(graph, "Mul", wh, (anchors / 2).reshape(1, -1, 2, 1), f"{name}_half")
    ends = [graph.add(op, [xy, half], f"{name}_{key}") for op, key in (("Sub", "from"), ("Add", "to"))]
    return graph.add("Concat", ends, f"{name}_corners", axis=2)


def _scores(graph: Graph, head: s.Detect, values: str, name: str) -> str:
    """[N,A,classes,H*W]."""
    if head.parents:
        raise InputError(f"cfg line {head.line}: [region] with tree= is not decoded in a graph; leave --decode away")
    found, kinds = (
        _part(graph, values, ends, f"{name}_{key}")
        for key, ends in (("found", (4, 5)), ("kind", (5, 5 + head.classes)))
    )
    if not (isinstance(head, s.Yolo) and head.new_coords):
        found = graph.add("Sigmoid", [found], f"{name}_objectness")
        softmax = isinstance(head, s.Region) and head.softmax
        how = {"axis": 2} if softmax else {}
        kinds = graph.add("Softmax" if softmax else "Sigmoid", [kinds], f"{name}_classes", **how)
    return graph.add("Mul", [kinds, found], f"{name}_score")


def _cells(graph: Graph, grid: Grid, j: int, name: str) -> str:
    """Column and row of every cell, float [1,1,2,H*W]."""
    h, w = grid.extent[j]
    if not grid.dynamic:
        rows, columns = np.mgrid[:h, :w].astype(np.float32)
        return graph.constant(np.stack((columns.ravel(), rows.ravel()))[None, None], f"{name}_cells")
    shape = graph.add("Shape", [grid.made[j]], f"{name}_shape")
    sides = [
        graph.add("Gather", [shape, graph.constant(np.array(axis, np.int64), f"axis_{axis}")], f"{name}_{key}", axis=0)
        for axis, key in ((2, "rows"), (3, "columns"))
    ]
    zero, one = (graph.constant(np.array(n, np.int64), f"int_{n}") for n in (0, 1))
    whole = graph.add("Slice", [shape, _at(graph, 2), _at(graph, 4)], f"{name}_sides")
    flat = graph.constant(np.array([1, 1, 1, -1], np.int64), "as_row")
    lines = []
    for side, key, form in zip(sides, ("row", "column"), ([-1, 1], [1, -1]), strict=True):
        numbers = graph.add("Range", [zero, side, one], f"{name}_{key}_numbers")
        turned = graph.add("Reshape", [numbers, graph.constant(np.array(form, np.int64), f"as_{key}")], f"{name}_{key}")
        spread = graph.add("Expand", [turned, whole], f"{name}_{key}_everywhere")
        line = graph.add("Reshape", [spread, flat], f"{name}_{key}_flat")
        lines.append(graph.add("Cast", [line], f"{name}_{key}_float", to=1))
    return graph.add("Concat", lines[::-1], f"{name}_cells", axis=2)


def _rows(graph: Graph, x: str, width: int, name: str) -> str:
    """[N,A,width,H*W] -> [N,A*H*W,width]."""
    turned = graph.add("Transpose", [x], f"{name}_turned", perm=[0, 1, 3, 2])
    return graph.add("Reshape", [turned, graph.constant(np.array([0, -1, width], np.int64), f"rows_{width}")], name)


def _joined(graph: Graph, parts: Sequence[str], name: str) -> None:
    graph.add("Concat", list(parts), name, axis=1)


def _part(graph: Graph, x: str, ends: tuple[int, int], name: str) -> str:
    return graph.add("Slice", [x, *(_at(graph, n) for n in (*ends, 2))], name)


def _at(graph: Graph, n: int) -> str:
    return graph.constant(np.array([n], np.int64), f"at_{n}")


def _with(graph: Graph, op: str, x: str, value: Array | np.float32, name: str) -> str:
    return graph.add(op, [x, graph.constant(np.asarray(value, np.float32), f"{name}_by")], name)
