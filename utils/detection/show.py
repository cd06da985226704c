"""Sheets of what a detector sees and finds: training images, validation images, networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.data.images import save_picture
from utils.data.pictures import save_apiece
from utils.detection.boxes import xyxy_to_cxcywh
from utils.detection.dataset import DetectionDataset, collate
from utils.detection.evaluate import DetectionMetrics
from utils.detection.nms import non_max_suppression
from utils.detection.pictures import batch_mosaic, comparison_grid, draw_boxes, truth_as_boxes

TRAINING = 16  # training images on a sheet
SHOWN = 8  # validation images in the picture of an epoch
MOST = 30  # boxes drawn in an image, the best; an untrained network finds hundreds
CONFIDENCE, APART = 0.25, 0.45  # of the boxes that comparisons show, and how much two of them may overlap (IoU)
PICTURES, APIECE = 8, 6  # validation images on a sheet, and as files of their own
PAGE = 384  # px; the longer side of those is at least about this


def training_sheet(path: Path, dataset: DetectionDataset, names: Sequence[str]) -> Path:
    """Images as the first epoch augments them, with their labels."""
    dataset.set_epoch(0)
    samples = [dataset[i] for i in range(min(TRAINING, len(dataset)))]
    batch = collate(samples)  # of their pictures, whatever the network is shown
    save_picture(path, batch_mosaic(batch.images, batch.targets, names))
    return path


def validation_sheet(
    path: Path, dataset: DetectionDataset, metrics: DetectionMetrics, names: Sequence[str], title: str
) -> Path:
    """What is there beside what is found, at the confidence where F1 is best."""
    found = metrics.detections[:SHOWN]
    images = [dataset[item.index].image for item in found]
    seen = [item.boxes[item.boxes[:, 4] >= metrics.confidence][:MOST] for item in found]
    comparison_grid(images, {"ground truth": [truth_as_boxes(item.truth) for item in found], title: seen}, names, path)
    return path


def compare(
    path: Path, dataset: DetectionDataset, measured: Mapping[str, DetectionMetrics], names: Sequence[str]
) -> Path:
    """A sheet of validation images: the truth, then each network's detections."""
    samples, columns = _columns(dataset, measured, len(names), PICTURES)
    comparison_grid(samples, columns, names, path)
    return path


def separate(
    folder: Path, dataset: DetectionDataset, measured: Mapping[str, DetectionMetrics], names: Sequence[str]
) -> list[Path]:
    """What `compare` shows, each picture in a file of its own: ``<image>-<column>-<title>.jpg``."""
    samples, columns = _columns(dataset, measured, len(names), APIECE)
    rows = [
        [draw_boxes(image, boxes[n], names, least=PAGE) for boxes in columns.values()]
        for n, image in enumerate(samples)
    ]
    return save_apiece(folder, rows, [*columns])


def boxes_to_show(boxes: Tensor, classes: int) -> Tensor:
    """Of the boxes [n, 6] that evaluation keeps, one a place: AP wants all that a box could be, a reader the best."""
    certain = F.one_hot(boxes[:, 5].long(), classes).to(boxes)  # so that a candidate's score is the box's own
    decoded = torch.cat((xyxy_to_cxcywh(boxes[:, :4]), boxes[:, 4:5], certain), dim=1)
    return non_max_suppression(decoded[None], conf=CONFIDENCE, iou=APART, agnostic=True)[0]


def _columns(
    dataset: DetectionDataset, measured: Mapping[str, DetectionMetrics], classes: int, most: int
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Validation images that hold something, and by title the boxes in each: the truth, then each network's."""
    first = next(iter(measured.values())).detections
    chosen = sorted(range(len(first)), key=lambda i: (-min(4, len(first[i].truth)), i))[:most]
    samples = [dataset[first[i].index].image for i in chosen]
    columns = {"ground truth": [truth_as_boxes(first[i].truth) for i in chosen]}
    for title, metrics in measured.items():
        columns[title] = [boxes_to_show(metrics.detections[i].boxes, classes) for i in chosen]
    return samples, columns
