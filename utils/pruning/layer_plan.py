"""Which residual blocks go: the n of lowest score. Nothing is cut here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from utils.darknet import spec as s
from utils.darknet.counts import count, parameters
from utils.darknet.network import Network
from utils.darknet.shapes import channels
from utils.darknet.walk import rule, run
from utils.errors import InputError
from utils.pruning.blocks import Block, shorten, some_blocks
from utils.pruning.choices import By
from utils.pruning.scores import Score, Scores, gammas


@dataclass(frozen=True)
class LayerRow:
    """One block and what taking it out alone would save.

    ``score`` is the mean over the channels of its voice, nan where it has none; ``relative`` is that by the mean of
    the blocks that stay (None: none stays). ``energy`` is the share of the branch in its sum, 0..1, if the branches
    were independent: a channel of a batch norm brings gamma². ``params`` are trained numbers, ``macs`` is the share of
    the network's multiply-accumulates, 0..1, at any image size.
    """

    block: Block
    score: float
    relative: float | None
    energy: float
    params: int
    macs: float
    goes: bool


@dataclass(frozen=True)
class LayerPlan:
    """What layer pruning decided: ``n`` blocks were asked for, ``rows`` are all blocks of the network.

    ``layers``, ``params`` and ``macs`` are (before, after); MACs are those of an image of [net]'s size.
    """

    n: int
    rows: tuple[LayerRow, ...]
    layers: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]

    @property
    def gone(self) -> tuple[Block, ...]:
        """The blocks that go."""
        return tuple(row.block for row in self.rows if row.goes)

    def __str__(self) -> str:
        before, after = self.params
        macs = self.macs[1] / self.macs[0]
        head = (
            f"{len(self.gone)} of {len(self.rows)} residual blocks go: {self.layers[0]} -> {self.layers[1]} layers, "
            f"parameters {before:,} -> {after:,} ({after / before - 1:+.1%}), MACs {macs - 1:+.1%}"
        )
        return "\n".join([head, *map(_line, self.rows)])


def plan_layers(net: Network, *, n: int, score: Score = gammas, by: By = By.SCORE) -> LayerPlan:
    """Choose ``n`` residual blocks, and with them the blocks that lie inside their branches.

    A block's score is the mean of the raw scores of its voice: of |gamma| of the last batch norm before the add. That
    says nothing of how loud the trunk is that it is added to; its ``energy`` does. Of equal ones the earlier go first.

    Args:
        net: the network to judge; it is not changed.
        n: how many blocks go, 0 or more.
        score: judge of the channels; |gamma| by default.
        by: which blocks go first.

    Raises:
        InputError: the network has no residual block, or fewer than ``n`` that can be judged.

    Source: the score is that of the layer pruning in tanluren/yolov3-channel-and-layer-pruning.
    """
    found, raw = some_blocks(net.spec), score(net)
    scores = [float(torch.cat([raw[i] for i in b.voice]).mean()) if b.voice else float("nan") for b in found]
    judged = [k for k, block in enumerate(found) if block.voice]
    _validate(n, len(found), len(judged))
    if by is By.SCORE:
        chosen = set(sorted(judged, key=lambda k: scores[k])[:n])
    else:
        chosen = _quietest(net.spec, raw, {k: found[k] for k in judged}, n)
    inside = {i for k in chosen for i in found[k].layers}
    goes = [k in chosen or block.shortcut in inside for k, block in enumerate(found)]

    kept = [scores[k] for k in judged if not goes[k]]
    mean = sum(kept) / len(kept) if kept else 0.0
    energy = _energies(net.spec, raw)
    params, macs = parameters(net.spec), count(net.spec).macs
    rows = []
    for block, value, out in zip(found, scores, goes, strict=True):
        shorter = shorten(net.spec, [block]).spec
        rows.append(
            LayerRow(
                block=block,
                score=value,
                relative=value / mean if mean else None,
                energy=_share(energy, block, net.spec),
                params=params - parameters(shorter),
                macs=1 - count(shorter).macs / macs,
                goes=out,
            )
        )
    after = shorten(net.spec, [row.block for row in rows if row.goes]).spec
    return LayerPlan(
        n=n,
        rows=tuple(rows),
        layers=(len(net.spec.layers), len(after.layers)),
        params=(params, parameters(after)),
        macs=(macs, count(after).macs),
    )


def _validate(n: int, found: int, judged: int) -> None:
    if n < 0:
        raise InputError(f"the number of blocks to take out must not be negative, got {n}")
    if n > judged:
        some = f", and only {judged} of them have batch norm to be judged by" if judged < found else ""
        remedy = f"ask for {judged} at most" if judged else "prune it before batch norm is folded"
        raise InputError(f"cannot take {n} residual blocks out: the network has {found}{some}; {remedy}")


def _quietest(spec: s.ModelSpec, raw: Scores, found: dict[int, Block], n: int) -> set[int]:
    """One after the other, the block with the smallest share of its sum: a trunk that lost blocks is less loud."""
    chosen: set[int] = set()
    for _ in range(n):
        energy = _energies(spec, raw, {(found[k].shortcut, found[k].source) for k in chosen})
        chosen.add(min(found.keys() - chosen, key=lambda k: (_share(energy, found[k], spec), k)))
    return chosen


def _energies(spec: s.ModelSpec, raw: Scores, cut: Collection[tuple[int, int]] = ()) -> dict[int, float]:
    """Mean score² of a channel of every layer, as if everything that is added were independent; the image has 1.

    ``cut`` are edges (sum, source) that no longer bring anything.
    """
    width, normed = channels(spec), spec.normed

    def step(i: int, layer: s.Layer, given: list[float]) -> float:
        if i in normed:
            return float(raw[i].double().square().mean())
        parts = [width[j] for j in layer.sources]
        live = [e for j, e in zip(layer.sources, given, strict=True) if (i, j) not in cut]
        return rule(ENERGIES, layer, "rule for its energy")(given, live, parts)

    return run(spec, 1.0, step)


def _mean_energy(given: list[float], live: list[float], parts: list[int]) -> float:
    return sum(e * n for e, n in zip(given, parts, strict=True)) / sum(parts)


ENERGIES: dict[type[s.Layer], Callable[[list[float], list[float], list[int]], float]] = {
    s.Shortcut: lambda given, live, parts: sum(live),
    s.Route: _mean_energy,
    s.Layer: lambda given, live, parts: given[-1],
}


def _share(energy: dict[int, float], block: Block, spec: s.ModelSpec) -> float:
    others = sum(energy[j] for j in spec.layers[block.shortcut].sources if j != block.source)
    total = others + energy[block.source]
    return energy[block.source] / total if total else 0.0


def _line(row: LayerRow) -> str:
    block = row.block
    relative = "" if row.relative is None else f" ({row.relative:.2f} of the mean that stays)"
    return (
        f"{'goes ' if row.goes else 'stays'} shortcut {block.shortcut} (cfg line {block.line}), "
        f"layers {' '.join(map(str, block.layers))}: score {row.score:.4g}{relative}, "
        f"{row.energy:.1%} of its sum, {row.params:,} parameters, {row.macs:.1%} of the MACs"
    )
