"""What the modes of convert_snn.py share: images they are measured on, fine-tuning, what they hand back and tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.quantise import Rows
from pipeline.session import Session
from utils.config.convert import ConvertConfig
from utils.darknet.network import Network
from utils.data.loader import Batch
from utils.errors import InputError
from utils.reporting.plots import plot_bars
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_energy
from utils.reporting.tables import plain_table
from utils.spiking.choices import LAYERWISE
from utils.spiking.cost_words import cost_numbers
from utils.spiking.finetune import Progress, finetune_stream
from utils.spiking.finetune_rate import finetune_rate
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.mismatch import Mismatch, mismatch_rows, tuned_line, tuned_rows
from utils.spiking.rate import RateNetwork
from utils.spiking.spike_schedule import SpikingNetwork
from utils.spiking.stream import StreamExecutor
from utils.spiking.synops import SpikeCost, measure
from utils.task import Metrics, Predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConversionResult:
    """What a mode makes: the network and its file, rows of the record, what was measured, lines, other files."""

    title: str
    network: SpikingNetwork | RateNetwork
    path: Path
    rows: Rows
    measured: dict[str, Metrics]
    message: list[str]
    files: list[Path]


@dataclass(frozen=True)
class ValidationSample:
    """The first validation images, held as batches: each mode is measured on these, so that they can be compared."""

    session: Session[ConvertConfig]
    batches: tuple[Batch, ...]
    images: int
    whole: bool

    @classmethod
    def of(cls, session: Session[ConvertConfig], images: int) -> ValidationSample:
        """The first batches that hold so many images; the last one cut."""
        dataset, seen = session.valid.dataset, 0
        held: list[Batch] = []
        for batch in session.valid:
            left = images - seen
            cut = len(batch.images) > left
            held.append(dataset.collate([dataset[i] for i in batch.indices[:left]]) if cut else batch)
            seen += len(held[-1].images)
            if seen >= images:
                break
        return cls(session, tuple(held), seen, seen == len(dataset) - len(session.valid.gaps))

    def inputs(self) -> Iterator[Tensor]:
        """[N,C,H,W] of n / 255."""
        for batch in self.batches:
            yield self.session.task.inputs(batch, self.session.device)

    def score(self, predictor: Predictor) -> Metrics:
        """The task's metrics on these images."""
        if isinstance(predictor, nn.Module):
            predictor.to(self.session.device)
        return self.session.measured(predictor, self.batches)

    def score_heads(self, heads: Sequence[list[Tensor]]) -> Metrics:
        """Metrics of raw head maps that were computed before, batch by batch."""
        stored = iter(heads)
        return self.score(lambda _: next(stored))

    @property
    def said(self) -> str:
        """Which images, in words."""
        return f"all {self.images} validation images" if self.whole else f"the first {self.images} validation images"


def check_steps(config: ConvertConfig, simulated: int) -> None:
    """Refuse a question about a step that is not among the ``simulated`` ones.

    Raises:
        InputError: names the flag.
    """
    for flag, asked in (("--early-exit", config.early_exit or 0), ("--curve", max(config.curve or (0,)))):
        if asked > simulated:
            said = f"--timesteps {simulated} are" if config.timesteps else f"{simulated} are"
            raise InputError(
                f"{flag}: {asked} steps, but only {said} simulated; give {simulated} at most, or --timesteps {asked}"
            )


def metric_word(session: Session[ConvertConfig]) -> str:
    """The metric's name alone: what stands before the @ of its heading."""
    return session.heading.partition("@")[0]


def pictures(session: Session[ConvertConfig], shown: dict[str, Metrics], cost: SpikeCost, folder: Path) -> list[Path]:
    """Answers side by side, spikes of each layer, energy."""
    place = folder / f"{session.task.pictures}.jpg"
    sheet = session.task.comparison(place, session.valid.dataset, shown, session.manifest.names)
    spikes = {f"layer {i}": layer.spikes / max(1, layer.neurons) for i, layer in cost.layers.items() if layer.spikes}
    e = cost.energy
    joules = {
        "dense, fp32": e.ann_fp32,
        "spikes, fp32 constants": e.spiking_fp32,
        "dense, int8": e.ann_int8,
        "spikes, integers": e.spiking_int8,
    }
    return [
        sheet,
        plot_bars(folder / "spikes.png", spikes, title="Spikes a neuron, by layer", unit="spikes a frame"),
        plot_energy(folder / "energy.png", joules),
        write_rows(folder / "operations.csv", [{"layer": i, **asdict(each)} for i, each in cost.layers.items()]),
    ]


T = TypeVar("T")


def tuned_stream(session: Session[ConvertConfig], executor: StreamExecutor) -> SpikingNetwork:
    """The executor's network, fine-tuned for its neurons and its T."""
    return _tuned(
        session,
        len(executor.spiking.spec.layers),
        lambda images, done: finetune_stream(
            executor, images, iterations=session.config.finetune_iterations, progress=done
        ),
    )


def tuned_rate(session: Session[ConvertConfig], made: RateNetwork, network: Network) -> RateNetwork:
    """``made``, fine-tuned towards the float network that it was normalised from."""
    return _tuned(
        session,
        len(made.spec.layers),
        lambda images, done: finetune_rate(
            made, network, images, iterations=session.config.finetune_iterations, progress=done
        ),
    )


def _tuned(session: Session[ConvertConfig], layers: int, tune: Callable[[Tensor, Progress], T]) -> T:
    images, began = tuning_images(session), time.perf_counter()
    with tqdm(total=layers, desc="fine-tune", delay=2, leave=False, disable=None) as bar:

        def done(_: int) -> None:
            bar.update()

        found = tune(images, done)
    log.info("fine-tuned on %d training images, %.0f s", len(images), time.perf_counter() - began)
    return found


def tuning_images(session: Session[ConvertConfig]) -> Tensor:
    """The first training images of a seeded order, not augmented; validation images never."""
    wanted = session.config.finetune_images
    return torch.cat(session.training_images(wanted))[:wanted].to(session.device)


def tuning_meta(session: Session[ConvertConfig]) -> dict[str, Any]:
    """What a file remembers of it."""
    config = session.config
    return {"finetuned": [config.finetune_images, config.finetune_iterations]} if config.finetune else {}


def tuning_lines(
    session: Session[ConvertConfig],
    before: dict[int, Mismatch],
    after: dict[int, Mismatch],
    rows: Rows,
    unit: str = "levels",
) -> list[str]:
    """All that is told of it."""
    title = "neurons whose count is off, before and after fine-tuning"
    table = plain_table(title, tuned_rows(before, after, unit))
    return [tuned_line(before, after), table, modes_table(session, rows)]


def mode_row(metrics: Metrics, cost: SpikeCost, steps: int, *, exact: bool) -> dict[str, Any]:
    """A mode that is shown beside, in the record."""
    return metrics.record() | cost_numbers(cost) | {"steps": steps, "exact": exact}


def layerwise_row(sample: ValidationSample, network: SpikingNetwork) -> dict[str, Any]:
    """The network that was converted, layer after layer."""
    executor = LayerwiseExecutor(network)
    return mode_row(sample.score(executor), measure(executor, sample.inputs()), network.latency, exact=True)


def modes_table(session: Session[ConvertConfig], rows: Rows) -> str:
    """The exact modes make fine-tuning unnecessary: both, in one table."""
    names = {
        "float": "float",
        "quantised": "quantised",
        "converted": "as converted",
        "spiking": "fine-tuned",
        LAYERWISE: f"{LAYERWISE}, nothing tuned",
        "settled": "settled stream, nothing tuned",
    }
    lines = [["", session.heading, "exact", "steps", "spikes", "SOP/MAC"]]
    for key in (each for each in names if each in rows):
        row = rows[key]
        spikes = [f"{row['spikes']:,.0f}", f"{row['sops_per_mac']:.2f}"] if "spikes" in row else ["", ""]
        exact = {True: "yes", False: "no", None: ""}[row.get("exact")]
        lines.append([names[key], f"{row[session.task.headline]:.4f}", exact, str(row.get("steps", "")), *spikes])
    return plain_table("fine-tuning, and modes that need none", lines)


def mismatch_table(layers: dict[int, Mismatch], unit: str) -> str:
    """Which layer breaks it."""
    return plain_table("neurons whose count is off, by layer", mismatch_rows(layers, unit))
