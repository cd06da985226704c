"""Which channels are the same channel.

Every output channel of a convolution is a *wire*. A shortcut ties the wires it adds, a route lists wires side by side,
pooling and upsampling hand them on, a depthwise convolution keeps them. A pruning decision is one bool per wire.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.patterns import patterns
from utils.darknet.shapes import channels


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


@dataclass(frozen=True)
class ChannelGroup:
    """Wires with the same story: the layers they run through as outputs of voters, and why they stay or are tied."""

    layers: tuple[int, ...]
    wires: int
    locked: bool
    tied: bool
    reasons: tuple[str, ...]


def trace(spec: s.ModelSpec) -> ChannelGroups:
    """Follow every channel from the image to the heads.

    Raises:
        InputError: the network's widths do not fit together (the cfg line is named).
    """
    channels(spec)  # the validator: below, equal widths are taken for granted
    links = _Links()
    out = {-1: links.fresh(spec.channels)}
    links.note("the image", out[-1], locks=True)
    for i, layer in enumerate(spec.layers):
        out[i] = _through(i, layer, [out[j] for j in layer.sources], links)
    for i, sources in patterns(spec)[1].items():
        members = torch.cat([out[j] for j in sources])
        links.note(f"cfg line {spec.layers[i].line}: zeros between values meet what fills them", members, locks=True)
    readers = _readers(spec)
    for i, layer in enumerate(spec.layers):
        if isinstance(layer, s.Output) or not readers[i]:
            name = "detection head" if isinstance(layer, s.Output) else "output of the network"
            links.note(f"cfg line {layer.line}: {name}", out[i], locks=True)
        elif i not in links.depthwise and _unjudged(i, layer, readers[i]):
            links.note(f"cfg line {layer.line}: no batch norm to judge it by", out[i], locks=True)
    return links.wires(spec, out)


def groups(wires: ChannelGroups) -> list[ChannelGroup]:
    """The wires as few lines: all that share their layers and reasons are one group, in order of first layer."""
    stories: list[list[tuple[int, int]]] = [[] for _ in range(wires.count)]  # of each wire: (0, layer) or (1, reason)
    for i in wires.voters:
        for w in set(wires.outputs[i].tolist()):
            stories[w].append((0, i))
    for k, reason in enumerate(wires.reasons):
        for w in reason.wires.tolist():
            stories[w].append((1, k))
    counts = Counter((tuple(story), bool(wires.locked[w]), bool(wires.tied[w])) for w, story in enumerate(stories))
    found = [
        ChannelGroup(
            layers=tuple(i for kind, i in story if kind == 0),
            wires=n,
            locked=locked,
            tied=tied,
            reasons=tuple(wires.reasons[k].text for kind, k in story if kind == 1),
        )
        for (story, locked, tied), n in counts.items()
    ]
    return sorted(found, key=lambda g: (g.layers or (-1,), g.reasons))


class _Links:
    """Union-find over channels while a network is being followed."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.notes: list[tuple[str, Tensor, bool]] = []
        self.depthwise: set[int] = set()

    def fresh(self, n: int) -> Tensor:
        start = len(self.parent)
        self.parent.extend(range(start, start + n))
        return torch.arange(start, start + n)

    def root(self, channel: int) -> int:
        while self.parent[channel] != channel:
            self.parent[channel] = channel = self.parent[self.parent[channel]]
        return channel

    def tie(self, text: str, rows: Tensor) -> None:
        """Make each column of ``rows`` [k, n] one wire."""
        for first, *others in rows.T.tolist():
            for other in others:
                self.parent[self.root(other)] = self.root(first)
        self.note(text, rows.flatten(), locks=False)

    def note(self, text: str, members: Tensor, *, locks: bool) -> None:
        self.notes.append((text, members, locks))

    def wires(self, spec: s.ModelSpec, out: dict[int, Tensor]) -> ChannelGroups:
        roots = torch.tensor([self.root(c) for c in range(len(self.parent))], dtype=torch.long)
        kinds, number = torch.unique(roots, return_inverse=True)
        outputs = {i: number[c] for i, c in out.items()}
        reasons = tuple(Reason(text, locks, number[c].unique()) for text, c, locks in self.notes)
        count = len(kinds)
        locked, votes = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.long)
        for reason in reasons:
            if reason.locks:
                locked[reason.wires] = True
        voters = tuple(
            i
            for i, layer in enumerate(spec.layers)
            if isinstance(layer, s.Kernel) and layer.bn and i not in self.depthwise
        )
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


def _through(i: int, layer: s.Layer, given: list[Tensor], links: _Links) -> Tensor:
    """Channels that leave a layer, of the channels that enter it."""
    match layer:
        case s.Kernel():
            return _convolution(i, layer, given[0], links)
        case s.Shortcut():
            links.tie(f"cfg line {layer.line}: tied by a shortcut", torch.stack(given))
        case s.ScaleChannels():
            links.tie(f"cfg line {layer.line}: tied to the gate that scales it", torch.stack(given))
        case s.Route():
            return _route(layer, given, links)
        case s.Reorg():
            # Darknet takes each stride^2 channels for one image, so rows of neighbours mix: they go together, whole.
            blocks = given[0].view(-1, layer.stride**2).T
            links.tie(f"cfg line {layer.line}: a block of channels that [reorg] mixes", blocks)
            return given[0].repeat(layer.stride**2)
        case s.MaxPool() | s.AvgPool() | s.Upsample() | s.Dropout() | s.SqueezeExcite() | s.Output():
            pass
        case _:
            raise TypeError(f"cfg line {layer.line}: {type(layer).__name__} has no rule for its wires")
    return given[0]


def _convolution(i: int, layer: s.Kernel, given: Tensor, links: _Links) -> Tensor:
    if layer.groups > 1 and layer.groups == layer.filters == len(given):
        links.depthwise.add(i)
        return given
    out = links.fresh(layer.filters)
    if layer.groups > 1:
        # What enters and what leaves one group is one wire: groups go whole. That is exact whatever is cut, because the
        # groups that stay are untouched. (Tying position p of all groups instead would be exact too, but one wire would
        # then run through every group, and with many small groups, the usual case, hardly any wire could ever go.)
        sides = (given.view(layer.groups, -1), out.view(layer.groups, -1))
        links.tie(f"cfg line {layer.line}: a group of a grouped convolution", torch.cat(sides, 1).T)
    return out


def _route(layer: s.Route, given: list[Tensor], links: _Links) -> Tensor:
    if layer.groups == 1:
        return torch.cat(given)
    parts = [channels_.view(layer.groups, -1) for channels_ in given]
    for part in parts:
        # A cfg can only say "slice k of n equal ones", so position p of all slices stays or goes together.
        links.tie(f"cfg line {layer.line}: tied to the other slices of a route", part)
    return torch.cat([part[layer.group_id] for part in parts])


def _readers(spec: s.ModelSpec) -> list[list[s.Layer]]:
    found: list[list[s.Layer]] = [[] for _ in spec.layers]
    for layer in spec.layers:
        for j in set(layer.sources) - {-1}:
            found[j].append(layer)
    return found


def _unjudged(i: int, layer: s.Layer, readers: list[s.Layer]) -> bool:
    """Whether a layer makes wires that no gamma speaks for.

    A gate without batch norm follows the features that it scales, and a head is locked by its [yolo] already.
    """
    if not isinstance(layer, s.Kernel) or layer.bn:
        return False
    gates = (isinstance(reader, s.ScaleChannels) and reader.sources[0] == i for reader in readers)
    heads = (isinstance(reader, s.Output) for reader in readers)
    return not (all(gates) or all(heads))
