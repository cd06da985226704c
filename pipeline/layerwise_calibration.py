"""convert_snn.py --finetune: what it is given, what it leaves, and the exact modes that do without it, side by side."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.conversion_result import ValidationSample, cost_numbers
from pipeline.quantise import Rows
from pipeline.session import Session
from utils.config.convert import ConvertConfig
from utils.darknet.network import Network
from utils.reporting.tables import plain_table
from utils.spiking import mismatch
from utils.spiking.choices import LAYERWISE
from utils.spiking.finetune import Progress, finetune_stream
from utils.spiking.finetune_rate import finetune_rate
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.mismatch import Mismatch
from utils.spiking.rate import RateNetwork
from utils.spiking.spike_schedule import SpikingNetwork
from utils.spiking.stream import StreamExecutor
from utils.spiking.synops import SpikeCost, measure
from utils.task import Metrics

log = logging.getLogger(__name__)

T = TypeVar("T")


def tuned_stream(session: Session[ConvertConfig], executor: StreamExecutor) -> SpikingNetwork:
    """The executor's network, fine-tuned for its neurons and its T."""
    return _message(
        session,
        len(executor.spiking.spec.layers),
        lambda images, done: finetune_stream(
            executor, images, iterations=session.config.finetune_iterations, progress=done
        ),
    )


def tuned_rate(session: Session[ConvertConfig], made: RateNetwork, network: Network) -> RateNetwork:
    """``made``, fine-tuned towards the float network that it was normalised from."""
    return _message(
        session,
        len(made.spec.layers),
        lambda images, done: finetune_rate(
            made, network, images, iterations=session.config.finetune_iterations, progress=done
        ),
    )


def _message(session: Session[ConvertConfig], layers: int, tune: Callable[[Tensor, Progress], T]) -> T:
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


def tuning_table(before: dict[int, Mismatch], after: dict[int, Mismatch], unit: str = "levels") -> str:
    """Which layers it helped, on validation images."""
    heading = ["layer", "neurons", "off, converted", "fine-tuned", f"mean off, {unit}", "fine-tuned"]
    rows = [
        [str(i), f"{a.neurons:,}", f"{a.share:.2%}", f"{b.share:.2%}", f"{a.mean:.4f}", f"{b.mean:.4f}"]
        for i, a, b in ((i, a, after[i]) for i, a in before.items())
    ]
    return plain_table("neurons whose count is off, before and after fine-tuning", [heading, *rows])


def tuned_line(before: dict[int, Mismatch], after: dict[int, Mismatch]) -> str:
    """The same in a line."""
    a, b = (mismatch.overall(layers) for layers in (before, after))
    return f"fine-tuned: {a.share:.2%} of the neurons were off, {b.share:.2%} are; by {a.mean:.4f} and {b.mean:.4f}"


def tuning_lines(
    session: Session[ConvertConfig],
    before: dict[int, Mismatch],
    after: dict[int, Mismatch],
    rows: Rows,
    unit: str = "levels",
) -> list[str]:
    """All that is told of it."""
    return [tuned_line(before, after), tuning_table(before, after, unit), modes_table(session, rows)]


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
