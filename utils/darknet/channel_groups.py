"""Which channels are the same channel.

Every output channel of a convolution is a *wire*. A shortcut ties the wires it adds, a route lists wires side by side,
pooling and upsampling hand them on, a depthwise convolution keeps them. A pruning decision is one bool per wire.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.ops import facts
from utils.darknet.patterns import patterns
from utils.darknet.shapes import channels, uneven_sums
from utils.darknet.walk import rule, run
from utils.errors import InputError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Reason:
    """Why some wires stay (``locks``) or go together: one sentence, and the wires it speaks of, long [n] sorted."""

    text: str
    locks: bool
    wires: Tensor


@dataclass(frozen=True)
class ChannelGroups:
    """The wires of one network.

    ``outputs`` gives each layer's wires, long [C] (-1 is the image); a wire may be listed twice in one layer.
    ``locked`` and ``tied`` are bool [count]: wires that must stay, and wires that several voters share in parallel.
    ``voters`` are the layers whose gammas judge wires: convolutions with batch norm that are not depthwise.
    ``depthwise`` are the layers that only hand wires on, in series with the voter before them.
    """

    outputs: dict[int, Tensor]
    count: int
    locked: Tensor
    tied: Tensor
    voters: tuple[int, ...]
    depthwise: frozenset[int]
    reasons: tuple[Reason, ...]

    def inputs(self, layer: s.Layer) -> Tensor:
        """Wires that a layer with one source reads, long [C_in]."""
        return self.outputs[layer.sources[0]]


def trace(spec: s.ModelSpec) -> ChannelGroups:
    """Follow every channel from the image to the heads.

    Raises:
        InputError: the network's widths do not fit together, or a layer has no rule; the cfg line is named.
    """
    channels(spec)  # the validator: below, equal widths are taken for granted
    links = _Links()
    image = links.fresh(spec.channels)
    links.note("the image", image, locks=True)
    out = run(spec, image, lambda i, layer, given: rule(WIRES, layer, "rule for its wires")(i, layer, given, links))
    for i, sources in patterns(spec)[1].items():
        members = torch.cat([out[j] for j in sources])
        links.note(f"cfg line {spec.layers[i].line}: zeros between values meet what fills them", members, locks=True)
    for i, fits in uneven_sums(spec).items():
        for j, fit in zip(spec.layers[i].sources, fits, strict=True):
            if fit and fit.spread > 1:
                note = f"cfg line {spec.layers[i].line}: zeros between values meet what fills them"
                links.note(note, out[j][: fit.filters], locks=True)
    readers, kernels, heads = _readers(spec), spec.kernels, set(spec.heads)
    for i, layer in enumerate(spec.layers):
        if i in heads or not readers[i]:
            name = "detection head" if i in heads else "output of the network"
            links.note(f"cfg line {layer.line}: {name}", out[i], locks=True)
        elif i in kernels.keys() - links.depthwise and not kernels[i].bn and _unjudged(spec, i, readers[i]):
            links.note(f"cfg line {layer.line}: no batch norm to judge it by", out[i], locks=True)
    return links.wires(spec, out)


class UnionFind(Generic[K]):
    """Which of some names stand for one and the same; every name is alone until it is tied to another.

    The only one there is: channels that are pruned together, channels that are scaled together and edges that share a
    scale are found with it.
    """

    def __init__(self) -> None:
        self.parent: dict[K, K] = {}

    def add(self, names: Iterable[K]) -> None:
        """Take names in that are not known yet."""
        self.parent.update((name, name) for name in names)

    def root(self, name: K) -> K:
        """The one name that stands for all that this one is tied to."""
        parent = self.parent
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    def tie(self, first: K, other: K) -> None:
        """Make two names one; what stands for ``first`` stands for both."""
        self.parent[self.root(other)] = self.root(first)

    def sets(self) -> dict[K, list[K]]:
        """Root -> all names it stands for, in the order they were added."""
        found: dict[K, list[K]] = {}
        for name in self.parent:
            found.setdefault(self.root(name), []).append(name)
        return found


class ChannelSets(UnionFind[int]):
    """Channels 0, 1, 2, ... of a network that is being followed."""

    def fresh(self, n: int) -> Tensor:
        """Numbers for ``n`` channels more, long [n]."""
        start = len(self.parent)
        self.add(range(start, start + n))
        return torch.arange(start, start + n)

    def tie_columns(self, rows: Tensor) -> None:
        """Make each column of ``rows`` [k, n] one."""
        for first, *others in rows.T.tolist():
            for other in others:
                self.tie(first, other)

    def roots(self) -> Tensor:
        """The channel that stands for each channel, long [count]."""
        return torch.tensor([self.root(channel) for channel in self.parent], dtype=torch.long)


class _Links(ChannelSets):
    """Channels with the reasons why they are tied or locked."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[str, Tensor, bool]] = []
        self.depthwise: set[int] = set()

    def join(self, text: str, rows: Tensor) -> None:
        """Make each column of ``rows`` [k, n] one wire."""
        self.tie_columns(rows)
        self.note(text, rows.flatten(), locks=False)

    def note(self, text: str, members: Tensor, *, locks: bool) -> None:
        self.notes.append((text, members, locks))

    def wires(self, spec: s.ModelSpec, out: dict[int, Tensor]) -> ChannelGroups:
        kinds, number = torch.unique(self.roots(), return_inverse=True)
        outputs = {i: number[c] for i, c in out.items()}
        reasons = tuple(Reason(text, locks, number[c].unique()) for text, c, locks in self.notes)
        count = len(kinds)
        locked, votes = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.long)
        for reason in reasons:
            if reason.locks:
                locked[reason.wires] = True
        voters = tuple(i for i in spec.normed if i not in self.depthwise)
        for i in voters:
            votes += torch.bincount(outputs[i], minlength=count)
        return ChannelGroups(
            outputs=outputs,
            count=count,
            locked=locked | (votes == 0),
            tied=votes > 1,
            voters=voters,
            depthwise=frozenset(self.depthwise),
            reasons=reasons,
        )


def _kernel(i: int, layer: s.Kernel, given: list[Tensor], links: _Links) -> Tensor:
    if layer.depthwise(len(given[0])):
        links.depthwise.add(i)
        return given[0]
    out = links.fresh(layer.filters)
    if layer.groups > 1:
        # What enters and what leaves one group is one wire: groups go whole. That is exact whatever is cut, because the
        # groups that stay are untouched. (Tying position p of all groups instead would be exact too, but one wire would
        # then run through every group, and with many small groups, the usual case, hardly any wire could ever go.)
        sides = (given[0].view(layer.groups, -1), out.view(layer.groups, -1))
        links.join(f"cfg line {layer.line}: a group of a grouped convolution", torch.cat(sides, 1).T)
    return out


def _sum(i: int, layer: s.Shortcut, given: list[Tensor], links: _Links) -> Tensor:
    text = f"cfg line {layer.line}: tied by a shortcut"
    if len({len(part) for part in given}) == 1:
        links.join(text, torch.stack(given))
        return given[0]
    for part in given[1:]:  # what both have goes together, so it is what both have afterwards
        shared = min(len(part), len(given[0]))
        links.join(text, torch.stack([given[0][:shared], part[:shared]]))
    return given[0]


def _fitted(i: int, layer: s.Fitted, given: list[Tensor], links: _Links) -> Tensor:
    more = links.fresh(max(0, layer.filters - len(given[0])))
    out = torch.cat([given[0][: layer.filters], more])
    links.note(f"cfg line {layer.line}: made to fit a sum", out, locks=True)
    return out


def _multiplied(i: int, layer: s.Product, given: list[Tensor], links: _Links) -> Tensor:
    links.join(f"cfg line {layer.line}: tied to what multiplies it", torch.stack(given))
    return given[0]


def _gated(i: int, layer: s.ScaleChannels, given: list[Tensor], links: _Links) -> Tensor:
    links.join(f"cfg line {layer.line}: tied to the gate that scales it", torch.stack(given))
    return given[0]


def _informed(i: int, layer: s.Informed, given: list[Tensor], links: _Links) -> Tensor:
    links.join(f"cfg line {layer.line}: tied to its implicit values", torch.stack(given))
    return given[0]


def _reorg(i: int, layer: s.Reorg, given: list[Tensor], links: _Links) -> Tensor:
    # Darknet takes each stride^2 channels for one image, so rows of neighbours mix: they go together, whole.
    blocks = given[0].view(-1, layer.stride**2).T
    links.join(f"cfg line {layer.line}: a block of channels that [reorg] mixes", blocks)
    return given[0].repeat(layer.stride**2)


def _route(i: int, layer: s.Route, given: list[Tensor], links: _Links) -> Tensor:
    for channels_ in given if layer.groups > 1 else ():
        # A cfg can only say "slice k of n equal ones", so position p of all slices stays or goes together.
        links.join(f"cfg line {layer.line}: tied to the other slices of a route", channels_.view(layer.groups, -1))
    return sliced(layer, given)


WIRES: dict[type[s.Layer], Callable[[int, Any, list[Tensor], _Links], Tensor]] = {  # channels that leave a layer
    s.Kernel: _kernel,
    s.Shortcut: _sum,
    s.Fitted: _fitted,
    s.ScaleChannels: _gated,
    s.Product: _multiplied,
    s.Implicit: lambda i, layer, given, links: links.fresh(layer.filters),
    s.Informed: _informed,
    s.Reorg: _reorg,
    s.Reorg3d: lambda i, layer, given, links: given[0].repeat(layer.stride**2),
    s.Route: _route,
    s.Layer: lambda i, layer, given, links: handed_on(layer, given),
}


def handed_on(layer: s.Layer, given: Sequence[V]) -> V:
    """What a kind of layer without a rule of its own makes of channels: it hands them on.

    Raises:
        InputError: it is not known to do so; names the cfg line and the kind.
    """
    if not facts(layer).hands_on:
        raise InputError(f"cfg line {layer.line}: {type(layer).__name__} has no rule for its channels")
    return given[0]


def sliced(layer: s.Route, given: Sequence[Tensor]) -> Tensor:
    """Channels [C] of each source as a route puts them side by side."""
    return torch.cat([part.view(layer.groups, -1)[layer.group_id] for part in given])


def _readers(spec: s.ModelSpec) -> list[list[s.Layer]]:
    found: list[list[s.Layer]] = [[] for _ in spec.layers]
    for layer in spec.layers:
        for j in set(layer.sources) - {-1}:
            found[j].append(layer)
    return found


def _unjudged(spec: s.ModelSpec, i: int, readers: list[s.Layer]) -> bool:
    """Whether a layer without batch norm makes wires that no gamma speaks for.

    A gate follows the features that it scales, and a head is locked by its [yolo] already.
    """
    gates = (reader.sources[0] == i and reader.features != reader.sources for reader in readers)
    heads = (isinstance(reader, s.Output) for reader in readers)
    return not (all(gates) or all(heads))
