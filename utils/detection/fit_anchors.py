"""A cfg with its anchors fitted to a set: read the boxes, search, write the new cfg, tell what it gained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.shapes import strides
from utils.darknet.writer import write_cfg
from utils.data.recordings import holds_recordings
from utils.data.transforms import Resize
from utils.detection.anchors import Fit, box_sizes, find_anchors, measure
from utils.detection.dataset import DetectionDataset
from utils.detection.loss import LossWeights
from utils.detection.open_data import open_data
from utils.errors import InputError
from utils.files import free_path, write_text
from utils.reporting.tables import plain_table


def refit(data: Path, cfg: Path, out: Path | None, *, generations: int, seed: int, resize: str | None = None) -> str:
    """Write ``cfg`` with anchors for the training images of ``data``, and tell how much better they fit.

    Args:
        data: a ``.data`` file or a folder that stands for one.
        cfg: the network; only its heads' anchors and masks change.
        out: the new cfg; must not exist. None: ``cfg/<cfg>-<data>.cfg``, or the next free name.
        generations: of the genetic refinement.
        seed: of everything random.
        resize: how images are fitted; None: as a network of this cfg that is trained here sees them.

    Raises:
        InputError: a file is missing or wrong, the cfg has no heads, or there are too few boxes.
    """
    manifest, spec = open_data(data), read_cfg(cfg)
    how = cast(Resize, resize or spec.resize_here)
    if out is not None and out.exists():
        raise InputError(f"{out}: exists already; choose another --out")
    if not spec.heads:
        raise InputError(f"{cfg}: no [yolo] or [region] layer, so no anchors; give a detector's cfg")
    if holds_recordings(manifest.train):
        raise InputError(
            f"{data}: recordings of events, and anchors are fitted to images' labels; write them into the cfg"
        )
    dataset = DetectionDataset(manifest.train, manifest, (spec.height, spec.width), how=how, cache="off")
    boxes = box_sizes(dataset)
    if not len(boxes):
        raise InputError(f"{manifest.train}: not one box; there is nothing to fit anchors to")
    before = anchors_of(spec)
    after = find_anchors(boxes, len(before), generations=generations, seed=seed, known=before)
    target = out or free_path(Path("cfg") / f"{cfg.stem}-{Path(data).stem}.cfg")
    name = f"{cfg.name}, anchors of {Path(data).name} (seed {seed})"
    write_text(target, f"# {name}\n{write_cfg(with_anchors(spec, after))}")
    ratio = LossWeights().ratio
    table = _table(name, measure(boxes, np.array(before), ratio), measure(boxes, after, ratio), ratio)
    lines = [f"{target} line {head.line}: {_text(head)}" for head in heads_by_stride(parse_cfg(target.read_text()))]
    hint = f"{target} is written; its heads have to learn anew: python3 train.py --cfg {target} --data {data}"
    return "\n".join([f"{len(boxes):,} boxes of {len(dataset)} images", table, *lines, hint])


def anchors_of(spec: s.ModelSpec) -> list[tuple[float, float]]:
    """The anchors that the heads use, (width, height) px of the network's image, those of the finest head first."""
    stride = strides(spec)
    found = []
    for i in sorted(spec.heads, key=lambda i: (stride[i], i)):
        head = spec.layers[i]
        assert isinstance(head, s.Detect)
        factor = float(stride[i]) if isinstance(head, s.Region) else 1.0
        found += [(width * factor, height * factor) for width, height in head.own_anchors]
    return found


def with_anchors(spec: s.ModelSpec, anchors: np.ndarray) -> s.ModelSpec:
    """The same network with anchors [k, 2] (px, by area): the smallest go to the head of the smallest stride.

    Each head keeps its number of anchors, so that no convolution changes, and its place in the cfg.
    """
    stride, layers, taken = strides(spec), list(spec.layers), 0
    whole = tuple((float(width), float(height)) for width, height in anchors)
    for i in sorted(spec.heads, key=lambda i: (stride[i], i)):
        head = layers[i]
        assert isinstance(head, s.Detect)
        own = tuple(range(taken, taken + len(head.own_anchors)))
        taken += len(own)
        if isinstance(head, s.Yolo):
            layers[i] = replace(head, anchors=whole, mask=own)
        else:  # a [region] counts in cells and has no mask
            cells = float(stride[i])
            layers[i] = replace(
                head, anchors=tuple((round(w / cells, 4), round(h / cells, 4)) for w, h in whole)[own[0] : taken]
            )
    return replace(spec, layers=tuple(layers))


def heads_by_stride(spec: s.ModelSpec) -> list[s.Detect]:
    """The heads, the finest first."""
    stride = strides(spec)
    return [spec.layers[i] for i in sorted(spec.heads, key=lambda i: (stride[i], i))]  # type: ignore[misc]


def _table(title: str, before: Fit, after: Fit, ratio: float) -> str:
    rows = [["", "before", "after"]]
    names = {
        "mean_iou": "mean IoU with the best anchor",
        "recall": f"recall: an anchor within {ratio:g} times",
        "recall_iou": "recall: an anchor of IoU > 0.5",
    }
    for key, text in names.items():
        rows.append([text, f"{getattr(before, key):.4f}", f"{getattr(after, key):.4f}"])
    return plain_table(title, rows)


def _text(head: s.Detect) -> str:
    return ", ".join(f"{width:g}x{height:g}" for width, height in head.own_anchors)
