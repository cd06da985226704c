"""What is said at the end of a sequence, or at each of its steps: the task of a cfg that ends in [sequence]."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Unpack, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet.heads import only_output
from utils.darknet.spec import ModelSpec, SequenceOutput
from utils.data.dataset import Reading
from utils.data.event_frames import FrameRule
from utils.data.manifest import Manifest
from utils.data.transforms import Letterbox
from utils.errors import InputError
from utils.one_output import OneOutputTask
from utils.reporting.confusion import plot_confusion
from utils.reporting.facts import Column, TaskChart
from utils.reporting.results import write_rows
from utils.sequences import show
from utils.sequences.dataset import SequenceBatch, SequenceDataset, make_dataset
from utils.sequences.metrics import SequenceAnswers, SequenceMetrics, evaluate, joined, measure, readings
from utils.sequences.open_data import ADDING, DIGITS, FASHION, listed, open_data
from utils.task import GoldenFile, Loss, Predictor, Result
from utils.thresholds import Thresholds

CLASSES = (Column("top1", "top-1", "top-1 accuracy"), Column("balanced", "per class", "mean accuracy of the classes"))
VALUES = (
    Column("r2", "R2", "share of the variance that is explained"),
    Column("mse", "MSE", "mean squared error", share=False),
)
NO_SAMPLE = "data/digits.data"  # what --data is where nobody says it: boxes, which are refused
PICTURE = "a sequence is no picture"


class SequenceTask(OneOutputTask):
    """Sequences, as every room above asks for it; see ``utils/task.py`` for what each method is for."""

    name = "sequences"
    losses: tuple[str, ...] = ("total",)
    pictures = "sequences"
    answers = "answers"
    postprocessing = "read-out"
    idle: Mapping[str, str] = {
        **dict.fromkeys(("img_size", "resize", "jpeg", "gray_scale", "mosaic", "rect", "multi_scale"), PICTURE),
        **dict.fromkeys(("iou_thres", "conf_thres", "agnostic_nms", "classes"), "there are no boxes"),
        **dict.fromkeys(("mixup", "cutmix", "label_smoothing"), "steps of two sequences are of no one class"),
        "cache": "pictures are always kept in memory, and sums are made",
        "sparse": "pruning has no rule for what comes back from the step before",
        "kd": "a teacher has nothing to say about a sequence yet",
        "quantized": "a layer that reads its own past has no integer form",
        "fpga": "a layer that reads its own past has no integer form",
        "spiking": "the cfg says by [lif_rnn] or [ltc_rnn] what spikes",
        "act": "units of recurrent layers have no activation to put another in place of",
    }
    net_keys: frozenset[str] = frozenset()
    made = frozenset([ADDING, DIGITS, FASHION])
    confined = "a network of sequences is trained by train.py and measured by test.py, and has no other form yet"

    def __init__(self, output: SequenceOutput) -> None:
        self.output = output
        self.sample = output.data or NO_SAMPLE
        values = output.predicts == "value"
        self.columns: tuple[Column, ...] = VALUES if values else CLASSES
        self.primary = self.headline = self.columns[0].name
        what = "mean squared error" if values else "share that is right"
        self.charts: tuple[TaskChart, ...] = (
            TaskChart("course", "curve", "What is said at each step", "step", what, "The course over the steps is"),
        )

    @classmethod
    def of(cls, spec: ModelSpec) -> SequenceTask:
        """That of a network.

        Raises:
            InputError: it has several outputs.
        """
        return cls(cast(SequenceOutput, only_output(spec, "a sequence has one answer")))

    def open_data(self, place: str | Path) -> Manifest:
        """A set that is made here, or a folder of IDX files; the cfg's data= is the ``sample``."""
        manifest = open_data(place)
        if (manifest.names == ("sum",)) != (self.output.predicts == "value"):
            raise InputError(
                f"--data {manifest.path}: the network predicts a {self.output.predicts}, which these sequences have "
                "not; give others, or another cfg of cfg/sequences/"
            )
        return manifest

    def listed(self, place: Path) -> list[Path]:
        """A name for every sequence."""
        return listed(place)

    def label_file(self, image: Path, manifest: Manifest) -> Path:
        """There is no file of its own."""
        return manifest.path

    def dataset(
        self,
        manifest: Manifest,
        images: Path,
        size: tuple[int, int],
        *,
        augment: Any = False,
        cache: str = "auto",
        frames: FrameRule | None = None,
        **reading: Unpack[Reading],
    ) -> SequenceDataset:
        """The sequences of a split; those of the adding task that are trained on are others each epoch."""
        order = self.output.order
        steps = frames.steps if frames else 0
        return make_dataset(
            manifest,
            images,
            order,
            steps=steps,
            channels=reading.get("channels", 3),
            seed=reading.get("seed", 0),
            unreadable=reading.get("unreadable", "stop"),
        )

    def augmentation(
        self, manifest: Manifest, mosaic: float | None, *, mixup: float = 0.0, cutmix: float = 0.0
    ) -> bool:
        """None."""
        return False

    def inputs(self, batch: SequenceBatch, device: torch.device) -> Tensor:
        """Sequences, float32 [N, T, C, 1, 1]."""
        return batch.images.to(device, non_blocking=True)

    def loss(self, spec: ModelSpec, mean: Callable[[float], float] | None = None) -> Loss:
        """Cross entropy or squared error, of the last step or of each; at step t of T it counts t / T.

        Of a part of the steps, as FPTT has them, the last one is that part's, and what is to be said is the same.
        """
        output = self.output

        def terms(raw: Sequence[Tensor], batch: SequenceBatch) -> Mapping[str, Tensor]:
            found = readings(raw)
            count = found.shape[1]
            chosen = slice(None) if output.at == "every" else slice(count - 1, None)
            found, truth = found[:, chosen], batch.truth.to(found.device)
            share = torch.arange(batch.begin + 1, batch.begin + count + 1, device=found.device)[chosen] / batch.whole
            if output.predicts == "value":
                each = (found[..., 0] - truth[:, None]).square()
            else:
                each = F.cross_entropy(
                    found.transpose(1, 2), truth[:, None].expand(-1, found.shape[1]), reduction="none"
                )
            return {"total": (each * share).mean()}

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
    ) -> SequenceMetrics:
        """The numbers at the last step, the course over the steps, and how long it takes."""
        return evaluate(predictor, loader, self.output, device=device, progress=progress)

    def merged(
        self,
        found: SequenceMetrics,
        names: Sequence[str],
        gather: Callable[[Sequence[SequenceAnswers]], list[SequenceAnswers]],
    ) -> SequenceMetrics:
        """The metrics of all processes' sequences."""
        return measure(joined(gather([found.answers])), self.output, timing=found.timing)

    def distance(
        self, spec: ModelSpec, size: tuple[int, int], base: Sequence[Tensor]
    ) -> Callable[[Sequence[Tensor]], float]:
        """The mean squared difference of what is said at the last step."""
        wanted = readings(base)[:, -1].double()
        return lambda raw: float((readings(raw)[:, -1].double() - wanted).square().mean())

    def postprocess(
        self, raw: Sequence[Tensor], spec: ModelSpec, letterboxes: Sequence[Letterbox], thresholds: Thresholds
    ) -> list[Result]:
        """Nothing can be drawn on a picture."""
        self._refuse()

    def golden(self, raw: Sequence[Tensor], spec: ModelSpec, size: tuple[int, int], names: Sequence[str]) -> GoldenFile:
        """There is no hand-off."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(f"[sequence]: {self.confined}; use those two")

    def training_picture(self, path: Path, dataset: SequenceDataset, names: Sequence[str]) -> Path:
        """Sequences as the network sees them."""
        return show.inputs_sheet(path, dataset, names)

    def validation_picture(
        self, path: Path, dataset: SequenceDataset, found: SequenceMetrics, names: Sequence[str], title: str
    ) -> Path:
        """Sequences, and what is said of them step by step."""
        return show.answers_sheet(path, dataset, {title: found}, names)

    def comparison(
        self, path: Path, dataset: SequenceDataset, measured: Mapping[str, SequenceMetrics], names: Sequence[str]
    ) -> Path:
        """Sequences, and what each network says of them step by step."""
        return show.answers_sheet(path, dataset, measured, names)

    def separate(
        self, folder: Path, dataset: SequenceDataset, measured: Mapping[str, SequenceMetrics], names: Sequence[str]
    ) -> list[Path]:
        """What ``comparison`` shows, in a folder."""
        return [show.answers_sheet(folder / "sequences.jpg", dataset, measured, names)]

    def class_table(self, found: SequenceMetrics) -> str:
        """What is said at a quarter of the steps, at half, at three quarters, and at the end."""
        return show.course_table(found.course, self.columns[-1].heading if self.primary == "r2" else "top-1")

    def plots(self, folder: Path, measured: Mapping[str, SequenceMetrics], names: Sequence[str]) -> list[Path]:
        """The course over the steps, drawn and as numbers; of classes, which is taken for which."""
        what = self.charts[0].y
        rows = write_rows(folder / "course.csv", show.course_rows(measured))
        drawn = [show.plot_course(folder / "course.png", {name: m.course for name, m in measured.items()}, what), rows]
        if self.output.predicts == "class":
            table = show.confusion(next(iter(measured.values())).answers, len(names))
            drawn.append(plot_confusion(table, names, folder / "confusion.png"))
        return drawn

    def tables(self, measured: Mapping[str, SequenceMetrics]) -> dict[str, list[dict[str, Any]]]:
        """course.csv."""
        return {"course.csv": show.course_rows(measured)}

    def results_json(
        self, path: Path, found: SequenceMetrics, images: Sequence[Path], manifest: Manifest | None = None
    ) -> Path:
        """A row a sequence: its name, what is true, what is said at the last step."""
        return show.save_results(path, found, images, values=self.output.predicts == "value")
