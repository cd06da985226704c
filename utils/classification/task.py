"""One class for a whole picture: the task of a cfg that ends in a [softmax] layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.classification import results, show
from utils.classification.dataset import BlendedBatch, ClassAugment, ClassBatch, ClassDataset
from utils.classification.metrics import (
    TOP,
    ClassAnswers,
    ClassificationMetrics,
    evaluate,
    joined,
    measure,
    probabilities,
    scores_of,
)
from utils.classification.open_data import open_data
from utils.classification.recordings import EventDataset
from utils.darknet.heads import only_output
from utils.darknet.spec import ModelSpec, Softmax
from utils.data.dataset import Cache, Reading, check_still
from utils.data.event_frames import FrameRule
from utils.data.loader import Batch
from utils.data.manifest import Manifest, read_list
from utils.data.recordings import holds_recordings
from utils.data.transforms import Letterbox, as_inputs
from utils.errors import InputError
from utils.one_output import OneOutputTask
from utils.reporting.confusion import plot_confusion
from utils.reporting.facts import Column, TaskChart
from utils.reporting.results import write_rows
from utils.task import GoldenFile, Loss, Predictor, Result
from utils.thresholds import Thresholds

log = logging.getLogger(__name__)

LARGEST_TABLE = 200  # classes whose confusion matrix is written and drawn


class ClassificationTask(OneOutputTask):
    """Classification, as every room above asks for it; see ``utils/task.py`` for what each method is for."""

    name = "classification"
    sample = "data/digit-classes.data"
    primary = "top1"
    headline = "top1"
    columns: tuple[Column, ...] = (
        Column("top1", "top-1", "top-1 accuracy"),
        Column("top5", "top-5", "top-5 accuracy"),
        Column("balanced", "per class", "mean accuracy of the classes", brief=False),
    )
    losses: tuple[str, ...] = ("total",)
    charts: tuple[TaskChart, ...] = (
        TaskChart(
            table="classes",
            kind="bars",
            title="Accuracy of each class",
            x="class",
            y="share of its images that are known",
            absent="The classes' accuracy is",
            count="images",
        ),
    )
    pictures = "classes"
    answers = "classes"
    postprocessing = "softmax"
    idle: Mapping[str, str] = {
        "iou_thres": "classes do not overlap",
        "agnostic_nms": "classes do not overlap",
        "mosaic": "an image of four pictures is of no one class",
        "rect": "every picture is fitted into the network's image",
        "t_data": "a teacher of classes judges the labelled pictures",
        "multi_scale": "training cuts out parts of many sizes already",
    }
    net_keys = frozenset(["label_smooth_eps"])
    confined = ""
    made: frozenset[str] = frozenset()

    def open_data(self, place: str | Path) -> Manifest:
        """A folder with train/CLASS/ and val/CLASS/, or a ``.data`` file whose lists tell classes by their paths."""
        return open_data(place)

    def listed(self, place: Path) -> list[Path]:
        """The images of a list or folder."""
        return read_list(place)

    def label_file(self, image: Path, manifest: Manifest) -> Path:
        """The image's folder, which names its class."""
        return image.parent

    def dataset(
        self,
        manifest: Manifest,
        images: Path,
        size: tuple[int, int],
        *,
        augment: bool | ClassAugment = False,
        cache: str = "auto",
        frames: FrameRule | None = None,
        **reading: Unpack[Reading],
    ) -> ClassDataset | EventDataset:
        """The images of a list or folder with their classes, or recordings of events with theirs."""
        if holds_recordings(images):
            if isinstance(augment, ClassAugment) and (augment.mixup or augment.cutmix):
                raise InputError(f"{images}: recordings of events are not mixed; leave --mixup and --cutmix away")
            return EventDataset(images, manifest, size, frames=frames, augment=bool(augment), cache=cache, **reading)
        check_still(images, frames)
        return ClassDataset(images, manifest, size, augment=augment, cache=cast(Cache, cache), **reading)

    def augmentation(
        self, manifest: Manifest, mosaic: float | None, *, mixup: float = 0.0, cutmix: float = 0.0
    ) -> ClassAugment:
        """The usual strengths, with the share of mirrored images that the manifest says they stand; how they mix."""
        return ClassAugment(flip=manifest.flip, mixup=mixup, cutmix=cutmix)

    def inputs(self, batch: Batch, device: torch.device) -> Tensor:
        """Images in 0..1: float32 [N, C, H, W], channels last, on the device; or frames [N, T, C, H, W]."""
        return as_inputs(batch.images, device)

    def loss(self, spec: ModelSpec, mean: Callable[[float], float] | None = None) -> Loss:
        """Cross entropy, with the smoothing of labels that [net] label_smooth_eps says (0 without).

        An image that is mixed of two has both classes, by their shares.
        """
        output = output_of(spec)
        if output.groups > 1:
            raise InputError(
                f"cfg line {output.line}: [softmax] with groups={output.groups} cannot be trained, an image has one "
                "class; set groups=1"
            )
        smooth = float(dict(spec.net).get("label_smooth_eps", 0))
        if not 0 <= smooth < 1:
            raise InputError(f"cfg [net]: label_smooth_eps={smooth:g} must be from 0 to below 1; correct it")

        def terms(raw: Sequence[Tensor], batch: ClassBatch) -> Mapping[str, Tensor]:
            scores = scores_of(raw, output)
            labels = batch.labels.to(scores.device)
            if not isinstance(batch, BlendedBatch):
                return {"total": F.cross_entropy(scores, labels, label_smoothing=smooth)}
            others, shares = batch.others.to(scores.device), batch.shares.to(scores.device)
            own, other = (
                F.cross_entropy(scores, each, label_smoothing=smooth, reduction="none") for each in (labels, others)
            )
            return {"total": (shares * own + (1 - shares) * other).mean()}

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
    ) -> ClassificationMetrics:
        """Top-1, top-5, the confusion matrix, and how long it takes."""
        return evaluate(predictor, loader, output_of(spec), names, device=device, progress=progress)

    def merged(
        self,
        found: ClassificationMetrics,
        names: Sequence[str],
        gather: Callable[[Sequence[ClassAnswers]], list[ClassAnswers]],
    ) -> ClassificationMetrics:
        """The metrics of all processes' images, in the order of the data set."""
        return measure(joined(gather([found.answers])), names, timing=found.timing)

    def distance(
        self, spec: ModelSpec, size: tuple[int, int], base: Sequence[Tensor]
    ) -> Callable[[Sequence[Tensor]], float]:
        """The divergence of Kullback and Leibler of the probabilities from those of ``base``, nats an image."""
        output = output_of(spec)
        wanted = probabilities(base, output).double()

        def far(raw: Sequence[Tensor]) -> float:
            made = probabilities(raw, output).double().clamp_min(1e-12)
            return float(F.kl_div(made.log(), wanted, reduction="batchmean"))

        return far

    def postprocess(
        self, raw: Sequence[Tensor], spec: ModelSpec, letterboxes: Sequence[Letterbox], thresholds: Thresholds
    ) -> list[Result]:
        """The likeliest classes of each picture."""
        return [*results.results_of(probabilities(raw, output_of(spec)).cpu(), thresholds)]

    def golden(self, raw: Sequence[Tensor], spec: ModelSpec, size: tuple[int, int], names: Sequence[str]) -> GoldenFile:
        """classes.json: the five likeliest classes by the golden accumulators, in floating point."""
        found = results.results_of(probabilities(raw, output_of(spec)).cpu(), Thresholds(confidence=0.0))
        return GoldenFile("classes.json", tuple({"most": TOP, "classes": each.rows(names)} for each in found))

    def training_picture(self, path: Path, dataset: ClassDataset, names: Sequence[str]) -> Path:
        """Images as the first epoch changes them, with their classes."""
        return show.training_sheet(path, dataset, names)

    def validation_picture(
        self, path: Path, dataset: ClassDataset, found: ClassificationMetrics, names: Sequence[str], title: str
    ) -> Path:
        """Validation images with what they are taken for."""
        return show.validation_sheet(path, dataset, found, names, title)

    def comparison(
        self, path: Path, dataset: ClassDataset, measured: Mapping[str, ClassificationMetrics], names: Sequence[str]
    ) -> Path:
        """A sheet of validation images: the truth, then each network's answer."""
        return show.compare(path, dataset, measured, names)

    def separate(
        self, folder: Path, dataset: ClassDataset, measured: Mapping[str, ClassificationMetrics], names: Sequence[str]
    ) -> list[Path]:
        """What ``comparison`` shows, each picture in a file of its own."""
        return show.separate(folder, dataset, measured, names)

    def class_table(self, found: ClassificationMetrics) -> str:
        """A row a class: images, precision, recall, what it is taken for; all classes first."""
        return results.class_table(found)

    def plots(self, folder: Path, measured: Mapping[str, ClassificationMetrics], names: Sequence[str]) -> list[Path]:
        """The confusion matrix of the first network, drawn and as numbers, where it is not too large."""
        first = next(iter(measured.values()))
        if len(names) > LARGEST_TABLE:
            log.info("no confusion matrix: %d classes, at most %d are drawn", len(names), LARGEST_TABLE)
            return []
        rows = write_rows(folder / "confusion.csv", results.confusion_rows(first))
        return [plot_confusion(first.confusion, names, folder / "confusion.png"), rows]

    def tables(self, measured: Mapping[str, ClassificationMetrics]) -> dict[str, list[dict[str, Any]]]:
        """classes.csv."""
        return {"classes.csv": results.class_rows(measured)}

    def results_json(
        self, path: Path, found: ClassificationMetrics, images: Sequence[Path], manifest: Manifest | None = None
    ) -> Path:
        """A row an image: its file, its class, the likeliest classes."""
        return results.save_results(path, found, images)


def output_of(spec: ModelSpec) -> Softmax:
    """The one output of a network that classifies.

    Raises:
        InputError: there are several.
    """
    return cast(Softmax, only_output(spec, "a picture has one class"))
