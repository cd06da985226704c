"""A network and its data: opened from a config, measured the same way by every script."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from models import Darknet, Loaded, load_model
from pipeline.images import check_resize, dataset_of
from utils.config.as_trained import as_trained, data_as_trained, shown_of
from utils.config.measure import TestConfig
from utils.config.run import RunConfig
from utils.darknet.counts import count
from utils.darknet.memory import check_memory
from utils.darknet.shapes import granularity, image_size
from utils.darknet.spec import ModelSpec
from utils.darknet.training_words import batch_size
from utils.data.images import UnreadableImageError
from utils.data.loader import Loader, make_loader
from utils.data.manifest import Manifest
from utils.data.plain_images import BareFolder, bare_folder, is_bare
from utils.errors import InputError
from utils.files import alone, take
from utils.reporting.facts import TaskFacts
from utils.reporting.files import file_bytes
from utils.reporting.latency import Latency, measure_in_turns
from utils.reporting.record import Record, new_run_folder, start_record
from utils.reporting.runs import RUNS, WEIGHTS, newest
from utils.spiking.energy import FP32, Constants, dense_energy
from utils.task import Metrics, Task
from utils.tasks import check_idle, check_serves, task_of
from utils.thresholds import Thresholds
from utils.training.device import select_device

log = logging.getLogger(__name__)


C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class Session(Generic[C]):
    """What a script works on: the network it was given, and the data it is measured and calibrated on."""

    config: C
    loaded: Loaded
    task: Task
    manifest: Manifest
    size: tuple[int, int]
    valid: Loader[Any]
    device: torch.device
    thresholds: Thresholds = Thresholds()
    target: Path | None = None  # the name this run took for the network it makes

    @property
    def meta(self) -> dict[str, Any]:
        """What a network made of this one remembers of it."""
        shown = {"size": list(self.size), **shown_of(self.config), "data": self.config.data}
        return {"from": str(self.loaded.path), **shown}

    def score(self, predictor: nn.Module) -> Metrics:
        """The task's metrics on the validation images, fp32."""
        return self.measured(predictor.to(self.device), self.valid)

    def measured(self, predictor: Any, batches: Any, thresholds: Thresholds | None = None) -> Metrics:
        """The task's metrics of a predictor on any batches.

        Raises:
            InputError: nobody says what is in the images.
        """
        if isinstance(self.manifest, BareFolder):
            raise InputError(f"{self.manifest.path}: images without labels, nothing to score on; give a data set")
        return self.task.evaluate(
            predictor,
            batches,
            self.loaded.spec,
            self.manifest.names,
            thresholds=thresholds or self.thresholds,
            device=self.device,
        )

    def headline(self, metrics: Metrics) -> float:
        """The number that searches and limits go by."""
        return float(metrics.record()[self.task.headline])

    @property
    def heading(self) -> str:
        """The word for that number."""
        return TaskFacts.of(self.task).score.heading

    def training_images(self, images: int) -> list[Tensor]:
        """Batches [N, C, H, W] in 0..1 of the first so many training images of a seeded order, not augmented."""
        batches = self.training_batches(-(-images // self.valid.batch_size))
        return [self.task.inputs(each, torch.device("cpu")) for each in batches]

    def validation_images(self, images: int) -> Tensor:
        """The first so many validation images that can be read, [N, C, H, W] in 0..1."""
        return self.task.inputs(self.validation_batch(images), torch.device("cpu")).contiguous()

    def validation_batch(self, images: int) -> Any:
        """The first so many validation images that can be read, in one batch; the others are told and skipped.

        Raises:
            InputError: fewer can be read.
        """
        dataset, samples, last = self.valid.dataset, list[Any](), None
        for i in range(len(dataset)):
            if len(samples) == images:
                break
            try:
                samples.append(dataset[i])
            except UnreadableImageError as error:
                self.valid.skip(i, str(error))
                last = error
        if len(samples) < images:
            raise last or InputError(f"{self.manifest.valid}: {len(samples)} images of {images}; ask for fewer")
        return dataset.collate(samples)

    def training_batches(self, count: int) -> Iterator[Any]:
        """The first so many training batches of a seeded order, with their labels, not augmented."""
        dataset = dataset_of(self.config, self.task, self.manifest, self.loaded.spec, self.size, cache="off")
        loader = make_loader(dataset, self.valid.batch_size, workers=0, shuffle=True, seed=self.config.seed)
        yield from islice(loader, count)

    def numbers(
        self, metrics: Metrics, spec: ModelSpec, path: Path | None, constants: Constants | None = FP32
    ) -> dict[str, Any]:
        """A stage's row, by the record's names; `timed` puts its latency in.

        ``constants``: what it computes in; None: spikes, whose energy depends on how many there are.
        """
        counts = count(spec, self.size)
        dense = None if spec.neurons or spec.recurrent else constants
        return {
            **metrics.record(),
            "params": counts.params,
            "macs": counts.macs,
            "bytes": file_bytes(path) if path else None,
            "energy_pj": dense_energy(counts, dense) if dense else None,
        }

    def timed(self, rows: dict[str, dict[str, Any]], predictors: Mapping[str, nn.Module]) -> None:
        """Put the latencies of the networks that have a row into it, taken in turns on one image.

        A stage of compress.py is not timed: the chain times all its networks at its end, so that each has one number.
        """
        if not self.config.fingerprint:
            for name, latency in self.latencies({n: each for n, each in predictors.items() if n in rows}).items():
                rows[name]["latency_ms"] = latency.median

    def latencies(
        self, predictors: Mapping[str, nn.Module], batch: int = 1, seconds: float = 2.0
    ) -> dict[str, Latency]:
        """Name -> how long it takes for a batch of the first validation image, in turns; ``seconds`` for each."""
        images = torch.cat([self.validation_images(1).to(self.device)] * batch)
        return measure_in_turns({n: each.to(self.device) for n, each in predictors.items()}, images, seconds=seconds)

    def begin(self, script: str) -> Record:
        """A new run folder and the record of a run that begins."""
        named = [self.loaded.path, self.manifest.path, self.manifest.valid]
        return start_record(
            new_run_folder(RUNS, script, self.config.name),
            script=script,
            args=self.config.values,
            device=str(self.device),
            seed=self.config.seed,
            inputs=[path for path in named if path.is_file()],  # a data set may be a folder
            task=self.task,
        )

    def begin_making(self, script: str, suffix: str) -> tuple[Self, Record]:
        """The session with its network's name, and the record: both taken in one go, so that their numbers agree."""
        with alone(RUNS):
            (target,) = take(self.leaving(suffix))
            return replace(self, target=target), self.begin(script)

    def leaving(self, suffix: str) -> Path:
        """Where the network that is made of this one goes."""
        return self.target or WEIGHTS / f"{self.free_stem()}{suffix}"

    def free_stem(self) -> str:
        """The network's name without its endings, with ``--name`` behind it: what files made of it are called."""
        stem = self.loaded.path.name
        for ending in (".pt", ".weights", ".int", ".snn"):
            stem = stem.removesuffix(ending)
        return f"{stem}_{self.config.name}" if self.config.name else stem


def open_session(
    config: C,
    *,
    scripts: str = "",
    sparse: bool = False,
    thresholds: Thresholds | None = None,
    rect: bool = False,
    bare: bool = False,
) -> Session[C]:
    """Load ``--weights`` (by default the newest network that fits) and ``--data``.

    Args:
        config: of the script; the session's has ``gray_scale`` as the network needs it.
        scripts: names, separated by spaces; the newest network that one of them left is the default of ``--weights``.
        sparse: only training runs with ``-sr`` count.
        thresholds: what counts as an answer when the network is measured.
        rect: validate batches of images of similar aspect, with less padding.
        bare: ``--data`` may be a folder of images without labels, on which nothing can be measured.

    Raises:
        InputError: a file is missing, or weights, cfg and data do not belong together.
    """
    given = getattr(config, "weights", "")
    weights = Path(given) if given else newest(scripts, sparse=sparse)
    loaded = load_model(weights, getattr(config, "cfg", None))
    task = task_of(loaded.spec, str(loaded.path))
    if not isinstance(config, TestConfig):
        check_serves(task, loaded.path)
    check_idle(task, config.given)
    config = data_as_trained(config, loaded.data, loaded.path, task)
    manifest = _data_of(loaded, task, config.data, bare=bare)
    config = as_trained(config, grey=loaded.grey, resize=loaded.resize, jpeg=loaded.jpeg)
    size = image_size(config.img_size, loaded.spec, loaded.size)
    check_resize(config, manifest, size)
    images, device = config.batch_size or batch_size(loaded.spec), select_device(config.device)
    check_memory(loaded.spec, size, min(images, len(task.listed(manifest.valid))), device)
    dataset = dataset_of(config, task, manifest, loaded.spec, size, images=manifest.valid)
    step = granularity(loaded.spec) if rect else 0
    valid = make_loader(dataset, images, workers=config.workers, rect=step)
    return Session(config, loaded, task, manifest, size, valid, device, thresholds or Thresholds())


def _data_of(loaded: Loaded, task: Task, place: str, *, bare: bool) -> Manifest:
    if bare and is_bare(place):
        return bare_folder(place, task.classes(loaded.spec), loaded.names)
    return task.check_classes(loaded.spec, task.open_data(place), str(loaded.path), loaded.names)


def trained_as_spikes(loaded: Loaded, flag: str, least: int = 1) -> Darknet:
    """The network, if it was trained as spikes over so many steps.

    Raises:
        InputError: it was not; names the flag that asks for it.
    """
    if not isinstance(loaded.predictor, Darknet) or not loaded.spec.neurons:
        raise InputError(
            f"{flag}: {loaded.path} was not trained as spikes, a {loaded.kind} network has no steps of its own; train "
            "one with train.py --spiking lif"
        )
    if loaded.spec.timesteps < least:
        raise InputError(
            f"{flag}: {loaded.path} takes one step, which is the least; train one with train.py --spiking lif "
            "--timesteps 4"
        )
    return loaded.predictor
