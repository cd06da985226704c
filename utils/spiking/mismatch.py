"""Which layer breaks it: how far spike counts are from the levels they should have become, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mismatch:
    """A layer's neurons over some images.

    ``wrong``: those whose count differs from the golden level. ``own``: those whose count differs from the level that
    the charge they received asks for, so that this layer itself is to blame and not what it was sent. ``mean``: mean
    |difference| over all neurons, ``largest``: the largest, in levels.
    """

    neurons: int
    wrong: int
    own: int
    mean: float
    largest: float

    @property
    def share(self) -> float:
        """Wrong neurons, 0..1."""
        return self.wrong / max(1, self.neurons)

    @property
    def own_share(self) -> float:
        """Neurons that are wrong by their own fault, 0..1."""
        return self.own / max(1, self.neurons)


def mismatch(count: Tensor, asked: Tensor, golden: Tensor, tolerance: float = 0.0) -> Mismatch:
    """One layer on some images.

    Args:
        count: what the neurons fired, signed, [N,C,H,W].
        asked: the level for the charge that they received.
        golden: the level of the network that is being imitated.
        tolerance: differences up to it count as none.
    """
    off = (count.double() - golden.double()).abs()
    own = (count.double() - asked.double()).abs()
    wrong, blamed = int((off > tolerance).sum()), int((own > tolerance).sum())
    return Mismatch(off.numel(), wrong, blamed, float(off.mean()), float(off.max()))


def together(parts: Sequence[Mapping[int, Mismatch]]) -> dict[int, Mismatch]:
    """Layer by layer over several batches."""
    return {i: _sum([part[i] for part in parts]) for i in parts[0]} if parts else {}


def _sum(parts: Sequence[Mismatch]) -> Mismatch:
    neurons = sum(part.neurons for part in parts)
    mean = sum(part.mean * part.neurons for part in parts) / max(1, neurons)
    wrong, own = sum(part.wrong for part in parts), sum(part.own for part in parts)
    return Mismatch(neurons, wrong, own, mean, max(part.largest for part in parts))


def overall(layers: Mapping[int, Mismatch]) -> Mismatch:
    """All layers as one."""
    return _sum(list(layers.values()))


def is_exact(layers: Mapping[int, Mismatch]) -> bool:
    """No neuron of any layer is off."""
    return all(layer.wrong == 0 for layer in layers.values())


def rows(layers: Mapping[int, Mismatch]) -> list[dict[str, float | int]]:
    """For a csv: layer, neurons, wrong, own, mean, largest."""
    return [
        {"layer": i, "neurons": m.neurons, "wrong": m.wrong, "own": m.own, "mean": m.mean, "largest": m.largest}
        for i, m in layers.items()
    ]


def worst(layers: Mapping[int, Mismatch]) -> str:
    """The answer in a line."""
    if is_exact(layers):
        return f"every neuron of all {len(layers)} layers has the count of its level"
    first = next(i for i, m in layers.items() if m.wrong)
    blamed = max(layers, key=lambda i: layers[i].own_share)
    m, total = layers[blamed], sum(layer.wrong for layer in layers.values())
    share = total / sum(layer.neurons for layer in layers.values())
    return (
        f"{total:,} neurons ({share:.1%}) are off, from layer {first} on; layer {blamed} breaks most by itself "
        f"({m.own_share:.1%} of its neurons)"
    )


def mismatch_rows(layers: Mapping[int, Mismatch], unit: str) -> list[list[str]]:
    """For people: which layer breaks it, a heading first."""
    heading = ["layer", "neurons", "off", "of them its own", f"mean, {unit}", "largest"]
    cells = [
        [str(i), f"{m.neurons:,}", f"{m.share:.2%}", f"{m.own_share:.2%}", f"{m.mean:.4f}", f"{m.largest:.3g}"]
        for i, m in layers.items()
    ]
    return [heading, *cells]


def tuned_rows(before: Mapping[int, Mismatch], after: Mapping[int, Mismatch], unit: str) -> list[list[str]]:
    """Which layers fine-tuning helped, a heading first."""
    heading = ["layer", "neurons", "off, converted", "fine-tuned", f"mean off, {unit}", "fine-tuned"]
    cells = [
        [str(i), f"{a.neurons:,}", f"{a.share:.2%}", f"{b.share:.2%}", f"{a.mean:.4f}", f"{b.mean:.4f}"]
        for i, a, b in ((i, a, after[i]) for i, a in before.items())
    ]
    return [heading, *cells]


def tuned_line(before: Mapping[int, Mismatch], after: Mapping[int, Mismatch]) -> str:
    """The same in a line."""
    a, b = (overall(layers) for layers in (before, after))
    return f"fine-tuned: {a.share:.2%} of the neurons were off, {b.share:.2%} are; by {a.mean:.4f} and {b.mean:.4f}"
