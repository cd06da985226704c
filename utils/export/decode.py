"""What the heads' accumulators say: boxes, from the files of this folder alone.

  python3 decode.py                in the folder of manifest.json: the golden images' boxes, compared with boxes.json
  python3 decode.py other/folder

Needs Python 3.10 and numpy. Formulas: Darknet's yolo_layer.c (get_yolo_box) and region_layer.c (get_region_box).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
LARGEST_LOG = 8.0  # of a side, in anchors: exp(8) is 2981 of them
MOST_CANDIDATES, MOST_BOXES = 1000, 300  # where the manifest says nothing
TOLERANCE = {"score": 1e-4, "xyxy": 1e-2}  # px; float32 functions differ in their last bits


def logistic(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def decode(manifest: dict[str, Any], accumulators: dict[int, Array]) -> Array:
    """Every head's boxes, float32 [n, 5 + classes]: cx, cy, w, h (px of the network's image), objectness, classes.

    Args:
        manifest: what manifest.json holds.
        accumulators: layer number -> int32 [C,H,W] of the layer that a head reads.
    """
    layers = {each["layer"]: each for each in manifest["layers"]}
    found = []
    for head in (each for each in manifest["layers"] if each["kind"] == "head"):
        source = layers[head["inputs"][0]]
        acc, scale = accumulators[source["layer"]], np.array(source["read_out"]["scale"])
        raw = (acc.astype(np.float64) * scale[:, None, None]).astype(np.float32)
        raw = logistic(raw) if source["activation"] == "logistic" else raw
        anchors, cell = np.array(head["anchors_px"], np.float32), np.array(head["cell"], np.float32)
        values = raw.reshape(len(anchors), 5 + head["classes"], *raw.shape[1:]).transpose(0, 2, 3, 1)  # [A,H,W,5+C]
        rows, columns = np.mgrid[: raw.shape[1], : raw.shape[2]]
        xy, wh, rest = values[..., :2], values[..., 2:4], values[..., 4:]
        if head["new_coords"]:
            size = (2 * wh) ** 2 * anchors[:, None, None]
        else:
            xy, size = logistic(xy), np.exp(np.minimum(wh, LARGEST_LOG)) * anchors[:, None, None]
            rest = np.concatenate((logistic(rest[..., :1]), classes_of(head, rest[..., 1:])), -1)
        centre = (xy * head["scale_x_y"] - head["reach"] + np.stack((columns, rows), -1)) * cell
        found.append(np.concatenate((centre, size, rest), -1).reshape(-1, values.shape[-1]))
    return np.concatenate(found).astype(np.float32)


def classes_of(head: dict[str, Any], x: Array) -> Array:
    """Probabilities of the classes: a logistic each, or together 1."""
    if not head["softmax"]:
        return logistic(x)
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def suppress(manifest: dict[str, Any], decoded: Array) -> Array:
    """The boxes that stay, float32 [n, 6]: x1, y1, x2, y2, score, class; best first, of a class's overlaps the best."""
    rule, power = manifest["suppression"], manifest["suppression"]["distance_power"]
    label = decoded[:, 5:].argmax(1)
    score = decoded[:, 4] * decoded[np.arange(len(decoded)), 5 + label]
    kept = np.flatnonzero(score > rule["confidence"])
    kept = kept[np.argsort(-score[kept], kind="stable")][: rule.get("candidates", MOST_CANDIDATES)]
    half = decoded[kept, 2:4] / 2
    corners = np.concatenate((decoded[kept, :2] - half, decoded[kept, :2] + half), 1)
    _, height, width = manifest["image"]["shape"]
    shares = corners / (1.0 if power is None else np.array([width, height, width, height]))
    stays = np.ones(len(kept), bool)
    for i in range(len(kept)):
        if stays[i]:
            over = overlaps(shares[i].astype(np.float64), shares[i + 1 :].astype(np.float64), power) > rule["iou"]
            stays[i + 1 :] &= ~(over & (label[kept[i + 1 :]] == label[kept[i]]))
    boxes = np.concatenate((corners, score[kept, None], label[kept, None]), 1)
    return boxes[stays][: rule.get("boxes", MOST_BOXES)].astype(np.float32)


def overlaps(one: Array, others: Array, power: float | None) -> Array:
    """IoU, less the distance of the centres where a power says so: (d^2 / c^2)^power, c the diagonal round both."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    both = (high - low).clip(0).prod(1)
    iou = both / ((one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - both)
    if power is None:
        return iou
    apart = ((one[:2] + one[2:]) / 2 - (others[:, :2] + others[:, 2:]) / 2) ** 2
    round_both = (np.maximum(one[2:], others[:, 2:]) - np.minimum(one[:2], others[:, :2])) ** 2
    return iou - (apart.sum(1) / round_both.sum(1)) ** power


def check(folder: Path, manifest: dict[str, Any], k: int) -> str:
    """The boxes of golden image ``k`` as text.

    Raises:
        ValueError: they are not those of boxes.json.
    """
    ends = [each["inputs"][0] for each in manifest["layers"] if each["kind"] == "head"]
    accumulators = {i: np.load(folder / manifest["golden"]["tensors"][k][str(i)]["files"]["npy"]) for i in ends}
    boxes = suppress(manifest, decode(manifest, accumulators))
    golden = json.loads((folder / f"golden/{k}/boxes.json").read_text())["boxes"]
    if [each["class"] for each in golden] != boxes[:, 5].astype(int).tolist():
        raise ValueError(f"golden/{k}/boxes.json: {len(golden)} boxes, {len(boxes)} decoded, or other classes")
    for n, (row, each) in enumerate(zip(boxes, golden, strict=True)):
        if abs(row[4] - each["score"]) > TOLERANCE["score"] or abs(row[:4] - each["xyxy"]).max() > TOLERANCE[
            "xyxy"
        ] * max(1, abs(row[:4]).max() / 100):
            raise ValueError(f"golden/{k}/boxes.json: box {n} is {each}, decoded {row.tolist()}")
    lines = [
        f"golden/{k}: {manifest['names'][int(row[5])]} {row[4]:.3f} at {', '.join(f'{v:.1f}' for v in row[:4])}\n"
        for row in boxes
    ]
    return "".join(lines) or f"golden/{k}: no box\n"


def main(folder: Path) -> int:
    """Print and compare; the exit code."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for k in range(manifest["golden"]["images"]):
        try:
            sys.stdout.write(check(folder, manifest, k))
        except ValueError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent))
