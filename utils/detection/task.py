"""Boxes round objects of known classes: the task of a cfg that ends in [yolo] or [region] layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from utils.darknet.heads import head_convolutions, rehead
from utils.darknet.network import State
from utils.darknet.spec import Detect, ModelSpec
from utils.data.dataset import Cache, Reading, check_still
from utils.data.event_frames import FrameRule
from utils.data.loader import Batch
from utils.data.manifest import Manifest, read_list, same_classes
from utils.data.recordings import holds_recordings
from utils.data.transforms import Letterbox, as_inputs
from utils.detection import results, show
from utils.detection.augment import Augment
from utils.detection.boxes import cxcywh_to_xyxy, paired_iou
from utils.detection.dataset import BoxBatch, DetectionDataset
from utils.detection.decode import decode
from utils.detection.evaluate import DetectionMetrics, Detections, evaluate, measure
from utils.detection.labels import label_path
from utils.detection.loss import YoloLoss, prior_biases
from utils.detection.open_data import open_data
from utils.detection.plots import plot_confusion, plot_pr_curves
from utils.detection.recordings import EventBoxDataset
from utils.errors import InputError
from utils.reporting.facts import Column, TaskChart
from utils.reporting.results import write_rows
from utils.task import GoldenFile, Loss, Predictor, Result
from utils.thresholds import Thresholds

log = logging.getLogger(__name__)

FRESH_REACH = 2.0  # scale_x_y of fresh heads: three cells answer for an object instead of one


class DetectionTask:
    """Detection, as every room above asks for it; see ``utils/task.py`` for what each method is for."""

    name = "detection"
    sample = "data/digits.data"
    primary = "map"
    headline = "map50"
    columns: tuple[Column, ...] = (
        Column("map50", "mAP@.5", "mAP@.5"),
        Column("map", "mAP@.5:.95", "mAP@.5:.95"),
        Column("precision", "P", "precision", 3),
        Column("recall", "R", "recall", 3),
        Column("f1", "F1", "F1", 3, brief=False),
    )
    losses: tuple[str, ...] = ("total", "box", "objectness", "classification")
    charts: tuple[TaskChart, ...] = (
        TaskChart(
            table="pr_curves",
            kind="curve",
            title="Precision over recall",
            x="recall",
            y="precision, mean of the classes, IoU .5",
            absent="Precision over recall is",
        ),
        TaskChart(
            table="classes",
            kind="bars",
            title="AP of each class",
            x="class",
            y="AP at IoU .5",
            absent="The classes' AP is",
            count="boxes",
        ),
    )
    pictures = "detections"
    answers = "boxes"
    postprocessing = "decode and NMS"
    idle: Mapping[str, str] = {
        "mixup": "an image has boxes of many classes; --mosaic puts four into one",
        "cutmix": "an image has boxes of many classes; --mosaic puts four into one",
        "label_smoothing": "classes of boxes are learned each for itself",
    }
    net_keys: frozenset[str] = frozenset()
    confined = ""
    made: frozenset[str] = frozenset()

    def open_data(self, place: str | Path) -> Manifest:
        """A ``.data`` file; or a folder: of a Pascal VOC set, or with images/train, images/val and labels/."""
        return open_data(place)

    def listed(self, place: Path) -> list[Path]:
        """The images of a list or folder."""
        return read_list(place)

    def label_file(self, image: Path, manifest: Manifest) -> Path:
        """A row a box, in a file named as the image is."""
        return label_path(image, manifest.labels)

    def classes(self, spec: ModelSpec) -> int:
        """How many classes the heads tell apart."""
        return max((head.classes for head in heads_of(spec)), default=0)

    def check_classes(self, spec: ModelSpec, manifest: Manifest, place: str, names: Sequence[str] = ()) -> Manifest:
        """The data with its classes in the order of ``names``, the network's own; other classes are refused."""
        told = [head.classes for head in heads_of(spec)]
        known = next((each for each in told if each != manifest.classes), manifest.classes)
        return same_classes(known, manifest, place, names, "detects {} classes")

    def dataset(
        self,
        manifest: Manifest,
        images: Path,
        size: tuple[int, int],
        *,
        augment: bool | Augment = False,
        cache: str = "auto",
        frames: FrameRule | None = None,
        **reading: Unpack[Reading],
    ) -> DetectionDataset | EventBoxDataset:
        """The images of a list with their boxes, or the moments of recordings of events with theirs."""
        if holds_recordings(images):
            return EventBoxDataset(images, manifest, size, frames=frames, augment=bool(augment), cache=cache, **reading)
        check_still(images, frames)
        return DetectionDataset(images, manifest, size, augment=augment, cache=cast(Cache, cache), **reading)

    def augmentation(
        self, manifest: Manifest, mosaic: float | None, *, mixup: float = 0.0, cutmix: float = 0.0
    ) -> Augment:
        """The usual strengths, with what the manifest says its images stand."""
        if mosaic and holds_recordings(manifest.train):
            raise InputError("--mosaic: four recordings side by side are no recording; leave it away")
        share = manifest.mosaic if mosaic is None else mosaic
        return Augment(flip=manifest.flip, mosaic=share, scale=manifest.scale)

    def inputs(self, batch: Batch, device: torch.device) -> Tensor:
        """Images in 0..1: float32 [N, C, H, W], channels last, on the device."""
        return as_inputs(batch.images, device)

    def loss(self, spec: ModelSpec, mean: Callable[[float], float] | None = None) -> Loss:
        """The YOLO loss of all heads."""
        loss = YoloLoss(heads_of(spec), mean=mean)

        def terms(raw: Sequence[Tensor], batch: BoxBatch) -> Mapping[str, Tensor]:
            return vars(loss(raw, batch.targets, (batch.images.shape[-2], batch.images.shape[-1])))

        return terms

    def adapt(self, spec: ModelSpec, manifest: Manifest, place: str, *, fresh: bool) -> ModelSpec:
        """The network for the data's classes; ``fresh`` lets it have new heads where it is for others."""
        classes = {head.classes for head in heads_of(spec)}
        if classes == {manifest.classes}:
            return spec
        message = " and ".join(str(number) for number in sorted(classes))
        if not fresh:
            raise InputError(
                f"{place}: heads for {message} classes, {manifest.path.name} has {manifest.classes}; "
                f"add -pt to give it fresh heads for {manifest.classes}, or change the cfg's filters and classes"
            )
        log.info("%s: heads for %s classes replaced by fresh ones for %d (-pt)", place, message, manifest.classes)
        return rehead(spec, manifest.classes, scale_x_y=FRESH_REACH)

    def initial_state(self, spec: ModelSpec) -> State:
        """Biases of fresh heads: boxes at the anchors, few objects, no favourite class."""
        state: State = {}
        for i, j in head_convolutions(spec).items():
            head = spec.layers[i]
            if isinstance(head, Detect):
                state[f"layers.{j}.conv.bias"] = prior_biases(head)
        return state

    def evaluate(
        self,
        predictor: Predictor,
        loader: Iterable[Any],
        spec: ModelSpec,
        names: Sequence[str],
        *,
        thresholds: Thresholds | None = None,
        device: str | torch.device = "cpu",
        progress: bool = True,
    ) -> DetectionMetrics:
        """COCO's AP, precision and recall, a confusion matrix, and how long it takes."""
        least, heads = thresholds or Thresholds(), heads_of(spec)
        return evaluate(
            predictor,
            loader,
            heads,
            names,
            conf=least.confidence,
            iou=least.overlap,
            device=device,
            progress=progress,
        )

    def merged(
        self,
        found: DetectionMetrics,
        names: Sequence[str],
        gather: Callable[[Sequence[Detections]], list[Detections]],
    ) -> DetectionMetrics:
        """The metrics of all processes' images, in the order of the data set."""
        everything = sorted(gather(found.detections), key=lambda image: image.index)
        return measure(everything, names, timing=found.timing)

    def distance(
        self, spec: ModelSpec, size: tuple[int, int], base: Sequence[Tensor]
    ) -> Callable[[Sequence[Tensor]], float]:
        """How far boxes are from those of ``base``: squared errors of scores and overlaps over squared scores.

        A cell without an object adds next to nothing, however its raw numbers move.
        """
        heads = heads_of(spec)

        def boxes(raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            found = decode(raw, heads, size)  # [N,B,5+classes]
            return cxcywh_to_xyxy(found[..., :4]), found[..., 4:5] * found[..., 5:]

        places, scores = boxes(base)
        weight = scores.amax(-1).square()  # [N,B]

        def far(raw: Sequence[Tensor]) -> float:
            moved, made = boxes(raw)
            off = (made - scores).square().sum(-1) + weight * (1 - paired_iou(moved, places)).square()
            return float(off.double().sum() / weight.double().sum().clamp_min(1e-12))

        return far

    def postprocess(
        self, raw: Sequence[Tensor], spec: ModelSpec, letterboxes: Sequence[Letterbox], thresholds: Thresholds
    ) -> list[Result]:
        """The boxes of each picture of the batch, in px of the picture."""
        return [*results.results_of(raw, heads_of(spec), letterboxes, thresholds)]

    def golden(self, raw: Sequence[Tensor], spec: ModelSpec, size: tuple[int, int], names: Sequence[str]) -> GoldenFile:
        """boxes.json: what the heads make of the golden accumulators, in floating point."""
        return results.golden_boxes(raw, heads_of(spec), size, names)

    def training_picture(self, path: Path, dataset: DetectionDataset, names: Sequence[str]) -> Path:
        """Images as the first epoch augments them, with their labels."""
        return show.training_sheet(path, dataset, names)

    def validation_picture(
        self, path: Path, dataset: DetectionDataset, found: DetectionMetrics, names: Sequence[str], title: str
    ) -> Path:
        """What is there beside what is found, at the confidence where F1 is best."""
        return show.validation_sheet(path, dataset, found, names, title)

    def comparison(
        self, path: Path, dataset: DetectionDataset, measured: Mapping[str, DetectionMetrics], names: Sequence[str]
    ) -> Path:
        """A sheet of validation images: the truth, then each network's detections."""
        return show.compare(path, dataset, measured, names)

    def separate(
        self, folder: Path, dataset: DetectionDataset, measured: Mapping[str, DetectionMetrics], names: Sequence[str]
    ) -> list[Path]:
        """What ``comparison`` shows, each picture in a file of its own: ``<image>-<column>-<title>.jpg``."""
        return show.separate(folder, dataset, measured, names)

    def class_table(self, found: DetectionMetrics) -> str:
        """A row a class: boxes, precision, recall, F1, AP@.5, AP@.5:.95; all classes first."""
        return results.class_table(found)

    def plots(self, folder: Path, measured: Mapping[str, DetectionMetrics], names: Sequence[str]) -> list[Path]:
        """PR curves, also as numbers, and the confusion matrix of the first network."""
        first = next(iter(measured.values()))
        rows = write_rows(folder / "pr_curves.csv", results.pr_rows(measured))
        plot_pr_curves(first, folder / "pr_curves.png")
        plot_confusion(first.confusion, names, folder / "confusion.png")
        return [folder / "pr_curves.png", rows, folder / "confusion.png"]

    def tables(self, measured: Mapping[str, DetectionMetrics]) -> dict[str, list[dict[str, Any]]]:
        """pr_curves.csv and classes.csv."""
        return {"pr_curves.csv": results.pr_rows(measured), "classes.csv": results.class_rows(measured)}

    def results_json(
        self, path: Path, found: DetectionMetrics, images: Sequence[Path], manifest: Manifest | None = None
    ) -> Path:
        """Detections in COCO's results format, with the ids of the json that the set was made of, if it was."""
        return results.save_results(path, found, images, manifest)


def heads_of(spec: ModelSpec) -> list[Detect]:
    """The detection heads, in cfg order."""
    return [layer for layer in spec.layers if isinstance(layer, Detect)]
