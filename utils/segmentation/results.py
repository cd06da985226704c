"""What a network answers about one picture, as a mask, text, rows and a drawing; its answers and tables in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from utils.data.manifest import Manifest
from utils.data.pictures import Picture, colour
from utils.data.source_ids import ids_of
from utils.data.transforms import Letterbox
from utils.files import write_text, writing
from utils.reporting.tables import plain_table
from utils.segmentation.metrics import MaskMetrics
from utils.segmentation.run_lengths import encoded
from utils.segmentation.show import overlay

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskResult:
    """The mask of one picture: uint8 [H, W] of the picture."""

    mask: Mask
    classes: int

    def draw(self, image: Picture, names: Sequence[str]) -> Picture:
        """The picture [H, W, 3] with every class in its colour, and the largest ones named."""
        return overlay(np.repeat(image, 3, 2) if image.shape[2] == 1 else image, self.mask, names)

    def text(self, height: int, width: int) -> str:
        """Lines of class, share of the pixels."""
        return "".join(f"{label} {(self.mask == label).mean():.6f}\n" for label in self.labels())

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Class, name, area (px) and COCO's run-length code of each class, for JSON."""
        return [
            {
                "category_id": label,
                "name": names[label],
                "area": int((self.mask == label).sum()),
                "segmentation": encoded(self.mask == label),
                "score": 1.0,
            }
            for label in self.labels()
        ]

    def labels(self) -> list[int]:
        """The classes that are there."""
        return [int(label) for label in np.unique(self.mask)]

    def beside(self, stem: Path) -> list[Path]:
        """``<stem>_mask.png``: class numbers, with a palette."""
        path = stem.with_name(f"{stem.name}_mask.png")
        picture = Image.fromarray(self.mask, mode="P")
        picture.putpalette([value for label in range(self.classes) for value in colour(label)])
        with writing(path) as temporary, temporary.open("wb") as file:
            picture.save(file, format="PNG")
        return [path]


def results_of(scores: Tensor, letterboxes: Sequence[Letterbox]) -> list[MaskResult]:
    """Scores [N, classes, H, W] of the network's images -> the mask of each picture, in its own px."""
    found = []
    for each, box in zip(scores, letterboxes, strict=True):
        (top, left), (height, width) = box.pad, box.scaled
        inner = each[None, :, top : top + height, left : left + width]
        if box.original != box.scaled:
            inner = F.interpolate(inner, size=box.original, mode="bilinear", align_corners=False)
        found.append(MaskResult(inner[0].argmax(0).byte().cpu().numpy(), len(each)))
    return found


def save_results(path: Path, found: MaskMetrics, images: Sequence[Path], manifest: Manifest | None = None) -> Path:
    """COCO's results format for masks: a row an image and class, run-length coded in px of the picture.

    Numbers of images and classes are those of the json that the set was made of, if it was; a class that has none
    there, as what is no object, is left out.

    Raises:
        InputError: the file of those numbers is damaged.
    """
    ids, categories = ids_of(images, manifest)
    rows = []
    for answer in found.answers.images:
        box = answer.letterbox
        (top, left), (height, width) = box.pad, box.scaled
        inner = answer.mask[top : top + height, left : left + width]
        mask = cv2.resize(inner, box.original[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8)
        for row in MaskResult(mask, len(found.names)).rows(found.names):
            number = row["category_id"] if categories is None else categories[row["category_id"]]
            if number is not None:
                rows.append({"image_id": ids[answer.index], **row, "category_id": number})
    return write_text(path, json.dumps(rows))


def class_rows(measured: Mapping[str, MaskMetrics]) -> list[dict[str, Any]]:
    """A row a class: its pixels in the truth, the IoU of every network; None where there is none."""
    first = next(iter(measured.values()))
    true = first.answers.confusion.sum(0).tolist()
    return [
        {
            "class": name,
            "pixels": true[k],
            **{n: None if np.isnan(metrics.iou[k]) else metrics.iou[k] for n, metrics in measured.items()},
        }
        for k, name in enumerate(first.names)
    ]


def class_table(found: MaskMetrics) -> str:
    """A row a class: its share of the pixels, precision, recall, IoU; all classes first."""
    table = found.answers.confusion
    rows = [["class", "share", "precision", "recall", "IoU"]]
    rows.append(["all", "100.0%", "", f"{found.balanced:.3f}", f"{found.miou:.3f}"])
    for k, name in enumerate(found.names):
        right, answered, true = int(table[k, k]), int(table[k].sum()), int(table[:, k].sum())
        shares = [right / whole if whole else None for whole in (answered, true)]
        shares.append(None if np.isnan(found.iou[k]) else found.iou[k])
        share = f"{true / max(1, int(table.sum())):.1%}"
        rows.append([name, share, *("-" if each is None else f"{each:.3f}" for each in shares)])
    return plain_table("classes", rows)
