"""What every mode of convert_snn.py hands back, and the images that slow modes are measured on."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from pipeline.quantise import Rows
from pipeline.session import Session
from utils.config.convert import ConvertConfig
from utils.data.loader import Batch
from utils.reporting.plots import plot_bars
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_energy
from utils.reporting.tables import plain_table
from utils.spiking.mismatch import Mismatch
from utils.spiking.rate import RateNetwork
from utils.spiking.spike_schedule import SpikingNetwork
from utils.spiking.synops import LayerCost, SpikeCost
from utils.task import Metrics, Predictor


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


def metric_word(session: Session[ConvertConfig]) -> str:
    """The metric's name alone: what stands before the @ of its heading."""
    return session.heading.partition("@")[0]


def cost_lines(cost: SpikeCost) -> list[str]:
    """Spikes, operations and energy in words, with what speaks against them."""
    e = cost.energy
    micro = [f"{value / 1e6:.3g}" for value in (e.ann_fp32, e.ann_int8, e.spiking_fp32, e.spiking_int8)]
    return [
        f"{cost.spikes_per_neuron:.2f} spikes a neuron, {cost.spikes:,.0f} a frame; {cost.sops:,.0f} accumulates"
        f" and {cost.multiplications:,} multiplications a frame (means of {cost.frames} validation images)",
        f"state {cost.state_bytes:,} bytes, weights {cost.weight_bytes:,} bytes",
        "energy of the arithmetic, uJ a frame, 45 nm (Horowitz, ISSCC 2014): dense fp32 {} and int8 {}, "
        "spikes with fp32 constants {} and with integer ones {}".format(*micro),
        cost.break_even,
        heaviest(cost),
    ]


def heaviest(cost: SpikeCost) -> str:
    """The layers in which half of the accumulates are done."""
    order, seen, found = sorted(cost.layers, key=lambda i: -cost.layers[i].sops), 0.0, []
    while order and seen < cost.sops / 2:
        found.append(order.pop(0))
        seen += cost.layers[found[-1]].sops
    share = seen / max(1.0, cost.sops)
    which = ", ".join(f"{i} ({ratio(cost.layers[i])} a synapse)" for i in found)
    pixels = cost.input_macs / max(1, cost.macs)
    return (
        f"{share:.0%} of the accumulates are in layers {which}; {pixels:.0%} of the dense MACs read pixels: no spikes"
    )


def ratio(layer: LayerCost) -> str:
    """Spikes a synapse of a layer; of one that has none that spikes reach, a dash."""
    return f"{layer.sops / (layer.macs - layer.input_macs):.2f}" if layer.macs > layer.input_macs else "-"


def operations_table(title: str, cost: SpikeCost) -> str:
    """Which layers the synaptic operations are done in."""
    heading = ["layer", "neurons", "spikes a neuron", "kSOPs in it", "share", "kMACs", "of pixels", "SOP/MAC"]
    lines = [
        [
            str(i),
            f"{c.neurons:,}",
            f"{c.spikes / c.neurons:.2f}" if c.neurons else "reads out",
            f"{c.sops / 1e3:.1f}",
            f"{c.sops / max(1.0, cost.sops):.1%}",
            f"{c.macs / 1e3:.1f}",
            f"{c.input_macs / 1e3:.1f}",
            ratio(c),
        ]
        for i, c in cost.layers.items()
    ]
    return plain_table(title, [heading, *lines])


def cost_numbers(cost: SpikeCost) -> dict[str, float]:
    """The numbers of a record."""
    return {
        "spikes": cost.spikes,
        "sops": cost.sops,
        "sops_per_mac": cost.sops_per_mac,
        "spikes_per_neuron": cost.spikes_per_neuron,
        "state_bytes": cost.state_bytes,
        "energy_pj": cost.energy.spiking_int8,
        "energy_ann_fp32_pj": cost.energy.ann_fp32,
        "energy_ann_int8_pj": cost.energy.ann_int8,
        "energy_spiking_fp32_pj": cost.energy.spiking_fp32,
    }


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


def mismatch_table(layers: dict[int, Mismatch], unit: str = "levels") -> str:
    """Which layer breaks it."""
    heading = ["layer", "neurons", "off", "of them its own", f"mean, {unit}", "largest"]
    rows = [
        [str(i), f"{m.neurons:,}", f"{m.share:.2%}", f"{m.own_share:.2%}", f"{m.mean:.4f}", f"{m.largest:.3g}"]
        for i, m in layers.items()
    ]
    return plain_table("neurons whose count is off, by layer", [heading, *rows])


def peak_bytes() -> int:
    """The most memory this process ever held (Linux reports KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def curve_points(limit: int, wanted: Sequence[int] | None, also: Sequence[int] = ()) -> tuple[int, ...]:
    """Steps at which accuracy is measured: those asked for, or a geometric spread; and ``also``."""
    if wanted:
        return tuple(sorted({t for t in (*wanted, *also) if t <= limit}))
    spread, t = {1, limit}, 1.0
    while t < limit:
        spread.add(round(t))
        t *= 1.35
    return tuple(sorted(spread | {t for t in also if t <= limit}))
