"""What test.py prints and leaves: tables, curves, pictures, a record."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.session import RUNS, Session, dataset_of
from utils.darknet.shapes import granularity
from utils.data.loader import Loader, make_loader
from utils.detection.average_precision import RECALLS
from utils.detection.boxes import xyxy_to_cxcywh
from utils.detection.evaluate import Metrics, coco_results, evaluate
from utils.detection.nms import non_max_suppression
from utils.detection.pictures import comparison_grid, draw_boxes, save_picture, truth_as_boxes
from utils.detection.plots import plot_confusion, plot_pr_curves
from utils.files import write_text
from utils.reporting.record import Record, finish_record, new_run_folder, start_record
from utils.reporting.results import write_rows
from utils.reporting.tables import comparison_table, plain_table

log = logging.getLogger(__name__)

SHOWN, APART = 0.25, 0.45  # confidence of the boxes that pictures show, and how much two of them may overlap (IoU)
PICTURES, APIECE = 8, 6  # validation images on a sheet, and as files of their own
PAGE = 384  # px; the longer side of those is at least about this


def inputs_of(session: Session) -> list[Path]:
    """The files a run read."""
    named = [session.loaded.path, session.manifest.path, session.manifest.valid]
    return [path for path in named if path.is_file()]  # a data set may be a folder


def begin(session: Session, script: str) -> Record:
    """A new run folder and the record of a run that begins."""
    folder = new_run_folder(RUNS, script, session.args.name)
    args, seed = vars(session.args), session.args.seed
    return start_record(
        folder, script=script, args=args, device=str(session.device), seed=seed, inputs=inputs_of(session)
    )


def report_test(session: Session) -> Record:
    """Measure once, and tell everything about it."""
    record = begin(session, "test")
    metrics = session.score(session.loaded.predictor)
    row = session.numbers(session.loaded.predictor, metrics, session.loaded.spec, session.loaded.path)
    if session.loaded.kind != "float":
        row["energy_pj"] = None  # depends on the spikes; convert_snn.py counts them
    log.info(class_table(metrics))
    log.info(comparison_table(f"{session.loaded.path.name} ({session.loaded.kind})", {"value": row}))
    time = metrics.timing
    log.info(
        "%.1f ms forward, %.1f ms decode and NMS, %.1f ms in all an image, %d threads",
        time.forward, time.nms, time.total, torch.get_num_threads(),
    )  # fmt: skip
    outputs = pictures(session, metrics, record.folder)
    if session.args.save_json:
        outputs.append(save_json(session, metrics, record.folder / "detections.json"))
    timing = {"forward_ms": time.forward, "nms_ms": time.nms, "total_ms": time.total}
    return finish_record(record, metrics={**row, **timing}, outputs=outputs)


def class_table(metrics: Metrics) -> str:
    """A row a class: boxes, precision, recall, F1, AP@.5, AP@.5:.95; all classes first."""
    rows = [["class", "boxes", "P", "R", "F1", "AP@.5", "AP@.5:.95"]]
    boxes = sum(each.truth for each in metrics.per_class)
    everything = [metrics.precision, metrics.recall, metrics.f1, metrics.map50, metrics.map]
    rows.append(["all", str(boxes), *(f"{value:.3f}" for value in everything)])
    for each in metrics.per_class:
        values = [each.precision, each.recall, each.f1, each.ap50, each.ap]
        rows.append([each.name, str(each.truth), *(f"{value:.3f}" if each.truth else "-" for value in values)])
    return plain_table("classes", rows)


def pictures(session: Session, metrics: Metrics, folder: Path) -> list[Path]:
    """PR curves, also as numbers, the confusion matrix, and the first images with truth and detections."""
    names = session.manifest.names
    write_rows(folder / "pr_curves.csv", pr_rows({session.loaded.kind: metrics}))
    plot_pr_curves(metrics, folder / "pr_curves.png")
    plot_confusion(metrics.confusion, names, folder / "confusion.png")
    compare(session, {session.loaded.kind: metrics}, folder / "detections.jpg")
    return [folder / name for name in ("pr_curves.png", "pr_curves.csv", "confusion.png", "detections.jpg")]


def pr_rows(measured: dict[str, Metrics]) -> list[dict[str, Any]]:
    """Precision at COCO's 101 levels of recall, IoU .5: the mean over the classes that occur, a column a network."""
    known = {name: metrics.curves[[each.truth > 0 for each in metrics.per_class]] for name, metrics in measured.items()}
    means = {name: curves.mean(axis=0).tolist() if len(curves) else None for name, curves in known.items()}
    return [
        {"recall": round(float(recall), 2), **{name: mean[i] if mean else None for name, mean in means.items()}}
        for i, recall in enumerate(RECALLS)
    ]


def compare(session: Session, measured: dict[str, Metrics], path: Path) -> None:
    """A sheet of validation images: the truth, then each network's detections."""
    samples, columns = _columns(session, measured, PICTURES)
    comparison_grid(samples, columns, session.manifest.names, path)


def separate(session: Session, measured: dict[str, Metrics], folder: Path) -> list[Path]:
    """What `compare` shows, each picture in a file of its own: ``<image>-<column>-<title>.jpg``."""
    samples, columns = _columns(session, measured, APIECE)
    paths = []
    for row, image in enumerate(samples, 1):
        for column, (title, boxes) in enumerate(columns.items()):
            path = folder / f"{row}-{column}-{title.replace(' ', '_')}.jpg"
            save_picture(path, draw_boxes(image, boxes[row - 1], session.manifest.names, least=PAGE))
            paths.append(path)
    return paths


def _columns(session: Session, measured: dict[str, Metrics], most: int) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Validation images that hold something, and by title the boxes in each: the truth, then each network's."""
    first = next(iter(measured.values())).detections
    chosen = sorted(range(len(first)), key=lambda i: (-min(4, len(first[i].truth)), i))[:most]
    samples = [session.valid.dataset[first[i].index].image for i in chosen]
    columns = {"ground truth": [truth_as_boxes(first[i].truth) for i in chosen]}
    for title, metrics in measured.items():
        columns[title] = [boxes_to_show(metrics.detections[i].boxes, session.manifest.classes) for i in chosen]
    return samples, columns


def boxes_to_show(boxes: Tensor, classes: int) -> Tensor:
    """Of the boxes [n, 6] that evaluation keeps, one a place: AP wants all that a box could be, a reader the best."""
    certain = F.one_hot(boxes[:, 5].long(), classes).to(boxes)  # so that a candidate's score is the box's own
    decoded = torch.cat((xyxy_to_cxcywh(boxes[:, :4]), boxes[:, 4:5], certain), dim=1)
    return non_max_suppression(decoded[None], conf=SHOWN, iou=APART, agnostic=True)[0]


def save_json(session: Session, metrics: Metrics, path: Path) -> Path:
    """Detections in COCO's results format; image ids are the files' stems, as numbers where they are numbers."""
    stems = [image.stem for image in session.valid.dataset.images]
    ids = [int(stem) if stem.isdigit() else stem for stem in stems]
    return write_text(path, json.dumps(coco_results(metrics.detections, ids)))


def benchmark(session: Session) -> Record:
    """mAP and speed over image sizes and NMS thresholds."""
    record = begin(session, "test")
    rows, results = [["image", "NMS IoU", "mAP@.5", "mAP@.5:.95", "ms forward", "ms in all"]], {}
    for size in benchmark_sizes(session):
        loader = _loader(session, size)
        for iou in (0.5, 0.7):
            metrics = _measure(session, loader, iou)
            results[f"{size[0]}x{size[1]} iou {iou}"] = {**metrics.record(), "total_ms": metrics.timing.total}
            values = (metrics.map50, metrics.map, metrics.timing.forward, metrics.timing.total)
            rows.append([f"{size[0]}x{size[1]}", f"{iou}", *(f"{value:.3f}" for value in values)])
    log.info(plain_table(f"{session.loaded.path.name} ({session.loaded.kind})", rows))
    return finish_record(record, metrics=results)


def benchmark_sizes(session: Session) -> list[tuple[int, int]]:
    """(height, width) in px: about 3/4, 1 and 5/4 of the session's, in whole steps of the network."""
    step = granularity(session.loaded.spec)
    height, width = ([max(step, round(side * n / 4 / step) * step) for n in (3, 4, 5)] for side in session.size)
    return list(dict.fromkeys(zip(height, width, strict=True)))  # a coarse step may make two of them the same


def _loader(session: Session, size: tuple[int, int]) -> Loader:
    dataset = dataset_of(session.args, session.manifest, session.loaded.spec, size, session.manifest.valid)
    return make_loader(dataset, session.valid.batch_size, workers=session.args.workers)


def _measure(session: Session, loader: Loader, iou: float) -> Metrics:
    predictor, names, conf = session.loaded.predictor, session.manifest.names, session.args.conf_thres
    return evaluate(
        predictor.to(session.device), loader, session.heads, names, conf=conf, iou=iou, device=session.device
    )
