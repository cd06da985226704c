"""A class for every pixel: the task of a cfg that ends in a [segment] layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet.heads import only_output
from utils.darknet.spec import ModelSpec, Segment
from utils.data.dataset import Cache, Reading, check_still
from utils.data.event_frames import FrameRule
from utils.data.loader import Batch
from utils.data.manifest import Manifest, read_list
from utils.data.transforms import Jitter, Letterbox, as_inputs
from utils.one_output import OneOutputTask
from utils.reporting.confusion import plot_confusion
from utils.reporting.facts import Column, TaskChart
from utils.segmentation import results, show
from utils.segmentation.dataset import MaskBatch, MaskDataset
from utils.segmentation.metrics import (
    MaskAnswers,
    MaskMetrics,
    check_sizes,
    enlarged,
    evaluate,
    joined,
    measure,
    scores_of,
    truth_of,
)
from utils.segmentation.open_data import IGNORED, mask_path, open_data
from utils.task import GoldenFile, Loss, Predictor, Result
from utils.thresholds import Thresholds

log = logging.getLogger(__name__)


class SegmentationTask(OneOutputTask):
    """Segmentation, as every room above asks for it; see ``utils/task.py`` for what each method is for."""

    name = "segmentation"
    sample = "data/digit-masks.data"
    primary = "miou"
    headline = "miou"
    columns: tuple[Column, ...] = (
        Column("miou", "mIoU", "mIoU"),
        Column("accuracy", "pixels", "pixel accuracy"),
        Column("balanced", "per class", "mean accuracy of the classes", brief=False),
    )
    losses: tuple[str, ...] = ("total",)
    charts: tuple[TaskChart, ...] = (
        TaskChart(
            table="classes",
            kind="bars",
            title="IoU of each class",
            x="class",
            y="IoU",
            absent="The classes' IoU is",
            count="pixels",
        ),
    )
    pictures = "masks"
    answers = "classes"
    postprocessing = "bilinear and argmax"
    idle: Mapping[str, str] = {
        "iou_thres": "every pixel has one class",
        "conf_thres": "every pixel has one class",
        "agnostic_nms": "every pixel has one class",
        "classes": "every pixel has one class",
        "mosaic": "pictures are moved and scaled with their masks instead",
        "mixup": "every pixel has one class",
        "cutmix": "every pixel has one class",
        "label_smoothing": "the pixels of a class are many, and sure",
        "t_data": "a teacher of masks judges the labelled pictures",
    }
    net_keys: frozenset[str] = frozenset()
    confined = ""
    made: frozenset[str] = frozenset()

    def open_data(self, place: str | Path) -> Manifest:
        """A folder with images/, masks/ and names.txt, or a ``.data`` file whose ``labels`` is the folder of masks."""
        return open_data(place)

    def listed(self, place: Path) -> list[Path]:
        """The images of a list or folder."""
        return read_list(place)

    def label_file(self, image: Path, manifest: Manifest) -> Path:
        """The mask of the same name."""
        return mask_path(image, manifest)

    def dataset(
        self,
        manifest: Manifest,
        images: Path,
        size: tuple[int, int],
        *,
        augment: bool | Jitter = False,
        cache: str = "auto",
        frames: FrameRule | None = None,
        **reading: Unpack[Reading],
    ) -> MaskDataset:
        """The images of a list or folder with their masks."""
        check_still(images, frames)
        return MaskDataset(images, manifest, size, augment=augment, cache=cast(Cache, cache), **reading)

    def augmentation(
        self, manifest: Manifest, mosaic: float | None, *, mixup: float = 0.0, cutmix: float = 0.0
    ) -> Jitter:
        """The usual strengths, with the share of mirrored images that the manifest says they stand."""
        return Jitter(flip=manifest.flip, scale=manifest.scale)

    def inputs(self, batch: Batch, device: torch.device) -> Tensor:
        """Images in 0..1: float32 [N, C, H, W], channels last, on the device."""
        return as_inputs(batch.images, device)

    def loss(self, spec: ModelSpec, mean: Callable[[float], float] | None = None) -> Loss:
        """Cross entropy of the pixels that count, over all of a batch."""
        output = output_of(spec)

        def terms(raw: Sequence[Tensor], batch: MaskBatch) -> Mapping[str, Tensor]:
            scores = enlarged(raw, output)
            check_sizes(scores, batch.masks.shape[1:], output)
            truth = truth_of(batch.masks, output).to(scores.device)
            known = (truth != IGNORED).sum()
            total = F.cross_entropy(scores, truth, ignore_index=IGNORED, reduction="sum")
            counted = mean(float(known)) if mean else float(known)  # of all processes: their shares differ
            return {"total": total / max(1.0, counted)}

        return terms

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
    ) -> MaskMetrics:
        """mIoU, pixel accuracy, the pixels counted, and how long it takes."""
        return evaluate(predictor, loader, output_of(spec), names, device=device, progress=progress)

    def merged(
        self,
        found: MaskMetrics,
        names: Sequence[str],
        gather: Callable[[Sequence[MaskAnswers]], list[MaskAnswers]],
    ) -> MaskMetrics:
        """The metrics of all processes' images, in the order of the data set."""
        return measure(joined(gather([found.answers])), names, timing=found.timing)

    def distance(
        self, spec: ModelSpec, size: tuple[int, int], base: Sequence[Tensor]
    ) -> Callable[[Sequence[Tensor]], float]:
        """The divergence of Kullback and Leibler of the classes of a cell from those of ``base``, nats, their mean."""
        wanted = base[-1].float().softmax(1).double()

        def far(raw: Sequence[Tensor]) -> float:
            made = raw[-1].float().softmax(1).double().clamp_min(1e-12)
            return float((wanted * (wanted.clamp_min(1e-12).log() - made.log())).sum(1).mean())

        return far

    def postprocess(
        self, raw: Sequence[Tensor], spec: ModelSpec, letterboxes: Sequence[Letterbox], thresholds: Thresholds
    ) -> list[Result]:
        """The mask of each picture, in its own px."""
        return [*results.results_of(scores_of(raw, output_of(spec)).cpu(), letterboxes)]

    def golden(self, raw: Sequence[Tensor], spec: ModelSpec, size: tuple[int, int], names: Sequence[str]) -> GoldenFile:
        """masks.json: the classes of the golden images by the golden accumulators, run-length coded."""
        boxes = [Letterbox(size, size, (0, 0), size)] * len(raw[-1])
        found = results.results_of(scores_of(raw, output_of(spec)).cpu(), boxes)
        return GoldenFile("masks.json", tuple({"classes": each.rows(names)} for each in found))

    def training_picture(self, path: Path, dataset: MaskDataset, names: Sequence[str]) -> Path:
        """Images as the first epoch changes them, under their masks."""
        return show.training_sheet(path, dataset, names)

    def validation_picture(
        self, path: Path, dataset: MaskDataset, found: MaskMetrics, names: Sequence[str], title: str
    ) -> Path:
        """The truth beside the answer."""
        return show.validation_sheet(path, dataset, found, names, title)

    def comparison(
        self, path: Path, dataset: MaskDataset, measured: Mapping[str, MaskMetrics], names: Sequence[str]
    ) -> Path:
        """A sheet of validation images: the truth, then each network's answer."""
        return show.compare(path, dataset, measured, names)

    def separate(
        self, folder: Path, dataset: MaskDataset, measured: Mapping[str, MaskMetrics], names: Sequence[str]
    ) -> list[Path]:
        """What ``comparison`` shows, each picture in a file of its own."""
        return show.separate(folder, dataset, measured, names)

    def class_table(self, found: MaskMetrics) -> str:
        """A row a class: its share of the pixels, precision, recall, IoU; all classes first."""
        return results.class_table(found)

    def plots(self, folder: Path, measured: Mapping[str, MaskMetrics], names: Sequence[str]) -> list[Path]:
        """The confusion matrix of the first network's pixels."""
        first = next(iter(measured.values()))
        return [plot_confusion(first.answers.confusion, names, folder / "confusion.png")]

    def tables(self, measured: Mapping[str, MaskMetrics]) -> dict[str, list[dict[str, Any]]]:
        """classes.csv."""
        return {"classes.csv": results.class_rows(measured)}

    def results_json(
        self, path: Path, found: MaskMetrics, images: Sequence[Path], manifest: Manifest | None = None
    ) -> Path:
        """COCO's results format for masks, run-length coded in px of the picture."""
        return results.save_results(path, found, images, manifest)


def output_of(spec: ModelSpec) -> Segment:
    """The one output of a network that makes masks.

    Raises:
        InputError: there are several.
    """
    return cast(Segment, only_output(spec, "a pixel has one class"))
