"""mAP@.5 as Darknet's ``detector map`` computes it, beside ours: what each difference between the two is worth.

  python3 benchmarks/darknet_ap.py --weights X.weights --cfg X.cfg --data coco.data
  python3 benchmarks/darknet_ap.py --weights X.weights --cfg X.cfg --data coco.data --stb /usr/include/stb

Darknet's program stretches (or with -letter_box letterboxes) a float image by a bilinear filter of its own, takes
candidates above 0.005, suppresses at an overlap of 0.45 as the cfg's nms_kind says, pairs each detection with the box
it overlaps most, taken or not, and averages the precision over 101 levels of recall (-points 101) and over all
classes, those without a box included. Every row changes one of these; the last column is the mean over the classes
that have a box, as COCO's is.
``--stb`` names a folder with stb_image.h, the decoder of a Darknet that was built without OpenCV (gcc compiles it).
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from terminaltables import AsciiTable

from models import Loaded, build, load_model
from utils.darknet.fold import BN_EPS
from utils.darknet.network import Network
from utils.data import transforms
from utils.data.images import read_image
from utils.data.manifest import read_list
from utils.detection.average_precision import average_precision
from utils.detection.boxes import cxcywh_to_xyxy, pairwise_iou
from utils.detection.decode import decode
from utils.detection.labels import read_all
from utils.detection.nms import non_max_suppression, suppression_of
from utils.detection.open_data import open_data
from utils.detection.task import heads_of

CONFIDENCE, OVERLAP = 0.005, 0.45  # Darknet's own, written in its code
RECALLS = np.arange(101) / 100
NOISY = 3  # seeds of the row that shakes every pixel by a level

Array = NDArray[Any]
Decode = Callable[[Path], Array]  # -> uint8 [H, W, 3]
Filter = Callable[[Array, tuple[int, int]], Array]  # uint8 [H, W, 3], (height, width) -> float32 0..255


@dataclass(frozen=True)
class Variant:
    """One way to get from files to an AP."""

    title: str
    how: transforms.Resize
    scale: Filter
    decode: Decode
    noise: int | None = None  # seed
    plain: bool = False  # suppression by IoU, whatever the cfg says
    eps: float = BN_EPS  # added to the variance of batch norm


def ours(image: Array, size: tuple[int, int]) -> Array:
    """The filter of every script: areas averaged on the way down."""
    return transforms.resize(image, size).astype(np.float32)


def opencv_linear(image: Array, size: tuple[int, int]) -> Array:
    """OpenCV's bilinear filter, without averaging."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)


def darknet_linear(image: Array, size: tuple[int, int]) -> Array:
    """Darknet's bilinear filter: corners on corners, floats, no averaging.

    Source: resize_image of Darknet's image.c (the formula).
    """
    value = image.astype(np.float32)
    for axis, wanted in ((1, size[1]), (0, size[0])):
        have = value.shape[axis]
        place = np.arange(wanted, dtype=np.float32) * np.float32((have - 1) / max(1, wanted - 1))
        low = np.minimum(place.astype(np.int64), have - 1)
        high, share = np.minimum(low + 1, have - 1), place - low
        share[-1] = 0
        low[-1] = have - 1
        share = share.reshape((-1, 1) if axis else (-1, 1, 1))
        value = (1 - share) * value.take(low, axis) + share * value.take(high, axis)
    return value


def stb_decoder(folder: Path) -> Decode:
    """stb_image, compiled here from the header in a folder."""
    place = Path(tempfile.mkdtemp())
    (place / "stb.c").write_text('#define STB_IMAGE_IMPLEMENTATION\n#include "stb_image.h"\n')
    made = place / "stb.so"
    subprocess.run(
        ["gcc", "-O2", "-shared", "-fPIC", f"-I{folder.resolve()}", str(place / "stb.c"), "-o", str(made), "-lm"],
        check=True,
    )
    library = ctypes.CDLL(str(made))
    library.stbi_load.restype = ctypes.POINTER(ctypes.c_ubyte)

    def read(path: Path) -> Array:
        width, height, channels = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        out = [ctypes.byref(each) for each in (width, height, channels)]
        data = library.stbi_load(str(path).encode(), *out, 3)
        image = np.ctypeslib.as_array(data, (height.value, width.value, 3)).copy()
        library.stbi_image_free(data)
        return image

    return read


def prepared(path: Path, size: tuple[int, int], variant: Variant) -> tuple[Array, transforms.Letterbox]:
    """The network's image, float32 [H, W, 3] of 0..255, and how it was made."""
    image = variant.decode(path)
    if variant.noise is not None:
        rng = np.random.Generator(np.random.PCG64((variant.noise, sum(path.name.encode()))))
        image = (image.astype(np.int16) + rng.integers(-1, 2, image.shape)).clip(0, 255).astype(np.uint8)
    box = transforms.fit((image.shape[0], image.shape[1]), size, variant.how)
    out = np.full((*size, 3), transforms.GREY, np.float32)
    (top, left), (h, w) = box.pad, box.scaled
    out[top : top + h, left : left + w] = variant.scale(image, box.scaled)
    return out, box


def with_eps(loaded: Loaded, eps: float) -> Loaded:
    """The same weights with another eps in batch norm."""
    network = loaded.network
    if eps == BN_EPS or network is None:
        return loaded
    state = {k: v + (eps - BN_EPS) if k.endswith("running_var") else v for k, v in network.state.items()}
    return replace(loaded, predictor=build(Network(network.spec, state)))


def found_by(loaded: Loaded, images: Sequence[Path], variant: Variant) -> list[Array]:
    """Detections of each image, [n, 6] x1, y1, x2, y2 (0..1 of the picture, not clipped), score, class."""
    heads, found, loaded = heads_of(loaded.spec), [], with_eps(loaded, variant.eps)
    for path in images:
        pixels, box = prepared(path, loaded.size, variant)
        with torch.inference_mode():
            raw = loaded.predictor(torch.from_numpy(pixels / 255).permute(2, 0, 1)[None].contiguous())
        rule = None if variant.plain else suppression_of(heads, [box.scaled])
        options: dict[str, Any] = {"conf": CONFIDENCE, "iou": OVERLAP, "multi_label": True, "rule": rule}
        (rows,) = non_max_suppression(
            decode(raw, heads, loaded.size), max_candidates=20_000, max_boxes=20_000, **options
        )  # fmt: skip
        (top, left), (h, w) = box.pad, box.scaled
        moved = rows.numpy().astype(np.float64)
        moved[:, :4] = (moved[:, :4] - (left, top, left, top)) / (w, h, w, h)
        found.append(moved)
    return found


def darknet_ap(truth: Sequence[Array], found: Sequence[Array], classes: int) -> Array:
    """AP of each class at an overlap of 0.5: each detection belongs to the box it overlaps most, taken or not.

    Source: validate_detector_map of Darknet's detector.c (the rule).
    """
    rows: list[tuple[float, int, tuple[int, int] | None]] = []
    for k, (known, seen) in enumerate(zip(truth, found, strict=True)):
        over = pairwise_iou(torch.from_numpy(seen[:, :4]), torch.from_numpy(known[:, 1:])).numpy()
        over = np.where((over > 0.5) & (seen[:, 5:] == known[None, :, 0]), over, 0.0)
        for i, row in enumerate(seen):
            best = int(over[i].argmax()) if len(known) else 0
            rows.append((row[4], int(row[5]), (k, best) if len(known) and over[i, best] > 0 else None))
    rows.sort(key=lambda row: -row[0])
    counts = np.bincount(np.concatenate([known[:, 0] for known in truth]).astype(np.int64), minlength=classes)
    result = np.zeros(classes)
    taken: set[tuple[int, int] | None] = set()
    hits: list[list[int]] = [[] for _ in range(classes)]
    for _, label, place in rows:
        hits[label].append(int(place is not None and place not in taken))
        taken.add(place)
    for label, right in enumerate(hits):
        if not right or not counts[label]:
            continue
        total = np.cumsum(right)
        precision, recall = total / np.arange(1, len(right) + 1), total / counts[label]
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, RECALLS, side="left")
        result[label] = np.where(at < len(highest), highest[np.minimum(at, len(highest) - 1)], 0.0).mean()
    return result


def corners_of(rows: Array) -> Array:
    """Labels [n, 5] (class, cx, cy, w, h) as (class, x1, y1, x2, y2), float64."""
    corners = cxcywh_to_xyxy(torch.from_numpy(rows[:, 1:])).numpy()
    return np.concatenate([rows[:, :1], corners], 1).astype(np.float64)


def means(each: Array, truth: Sequence[Array]) -> tuple[float, float]:
    """The mean AP over all classes, and over those that have a box."""
    present = np.unique(np.concatenate([known[:, 0] for known in truth])).astype(np.int64)
    return float(each.mean()), float(each[present].mean())


def measured(loaded: Loaded, images: Sequence[Path], truth: Sequence[Array], names: Sequence[str], variant: Variant,
             *, coco: bool = False) -> tuple[float, float]:  # fmt: skip
    """mAP@.5 over all classes and over those that have a box."""
    found = found_by(loaded, images, variant)
    if not coco:
        return means(darknet_ap(truth, found, len(names)), truth)
    clipped = [np.concatenate([seen[:, :4].clip(0, 1), seen[:, 4:]], 1) for seen in found]
    scores = average_precision(truth, clipped, names)
    return means(np.nan_to_num([each.ap50 for each in scores.per_class]), truth)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--cfg", type=Path, default=None)
    parser.add_argument("--data", required=True)
    parser.add_argument("--stb", type=Path, default=None, help="folder of stb_image.h")
    args = parser.parse_args()
    loaded, manifest = load_model(args.weights, args.cfg), open_data(args.data)
    images, names = read_list(manifest.valid), manifest.names
    boxes, _ = read_all(images, manifest, manifest.valid)
    truth = [corners_of(rows) for rows in boxes]
    variants: list[tuple[Variant, bool]] = [
        (Variant("ours, letterboxed, COCO's AP", "letterbox", ours, read_image), True),
        (Variant("ours, stretched, COCO's AP", "stretch", ours, read_image), True),
        (Variant("... with suppression by IoU alone", "stretch", ours, read_image, plain=True), True),
        (Variant("stretched, Darknet's AP", "stretch", ours, read_image), False),
        (Variant("... and OpenCV's bilinear filter", "stretch", opencv_linear, read_image), False),
        (Variant("... or Darknet's bilinear filter", "stretch", darknet_linear, read_image), False),
    ]
    if args.stb:
        variants.append((Variant("    and stb's decoder", "stretch", darknet_linear, stb_decoder(args.stb)), False))
    variants.append((Variant("    or 1e-5 in batch norm", "stretch", darknet_linear, read_image, eps=1e-5), False))
    variants += [
        (
            Variant(f"    or each pixel up to 1 level off, seed {seed}", "stretch", darknet_linear, read_image, seed),
            False,
        )
        for seed in range(NOISY)
    ]
    table = [["", "all classes", "classes with a box"]]
    for variant, coco in variants:
        values = measured(loaded, images, truth, names, variant, coco=coco)
        table.append([variant.title, *(f"{value:.4f}" for value in values)])
        sys.stderr.write(f"{' '.join(table[-1])}\n")
    sys.stdout.write(AsciiTable(table, f"mAP@.5 of {args.weights.name}, {len(images)} images").table + "\n")


if __name__ == "__main__":
    main()
