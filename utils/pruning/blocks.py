"""Residual blocks: which branches a network can do without, and its structure once they are gone.

A block is found on the graph, whatever is inside it: a [shortcut] adds a branch to the trunk that the branch starts
from, and nobody else reads the branch. Without it the sum is the trunk itself, so every shape stays. Nothing here
looks at a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.ops import activation_of, facts
from utils.darknet.shapes import channels, uneven_sums
from utils.errors import InputError

# activation -> those whose values it leaves as they are
NEVER_NEGATIVE = {"relu", "relu6", "logistic"}
WITHIN = {"leaky": NEVER_NEGATIVE, "relu": NEVER_NEGATIVE, "relu6": {"relu6", "logistic"}}


@dataclass(frozen=True)
class Block:
    """One branch of one shortcut: ``shortcut`` adds layer ``source``, where the branch ends, to layer ``trunk``.

    ``layers`` are those that nobody needs without the branch, ascending; the shortcut is not among them, since it may
    have other branches. ``voice`` are the convolutions with batch norm whose gammas say how loud the branch is: the
    last one before the add, or all whose output reaches the add where the branch ends in a route, a pool, an inner sum
    or a convolution without batch norm. It is empty where the branch has no batch norm at all.
    ``line`` is the shortcut's cfg line.
    """

    shortcut: int
    source: int
    trunk: int
    layers: tuple[int, ...]
    voice: tuple[int, ...]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Shortened:
    """A structure without some blocks. ``number`` maps the layers that stay to their new numbers.

    ``carriers`` are new layer numbers of 1x1 depthwise convolutions that stand for a shortcut's activation.
    """

    spec: s.ModelSpec
    number: dict[int, int]
    carriers: tuple[int, ...]


def blocks(spec: s.ModelSpec) -> tuple[Block, ...]:
    """Every residual block, in order of their shortcuts.

    A shortcut of several branches gives a block a branch: each may go while the others stay. Of a chain
    x + f(x) + g(f(x)) only g is a block, until it is gone. A block may lie inside another one's branch.

    No blocks are: a sum without an identity (the branch must read nothing but what it is added to), a branch without
    convolution, a weighted sum (without the branch it would be w·trunk), the image as a trunk (a cfg cannot name it),
    a sum of maps of other shapes (without the branch it would be another map), and a shortcut that nobody reads (its
    sum is an output).
    """
    read = {j for layer in spec.layers for j in layer.sources} - uneven_sums(spec).keys()
    found = (
        _block(spec, i, j)
        for i, layer in enumerate(spec.layers)
        if _plain_sum(layer) and i in read
        for j in dict.fromkeys(layer.sources)
    )
    return tuple(block for block in found if block)


def some_blocks(spec: s.ModelSpec) -> tuple[Block, ...]:
    """`blocks` of a network that must have some.

    Raises:
        InputError: it has none.
    """
    found = blocks(spec)
    if not found:
        raise InputError(
            "this network has no residual block to take out: no [shortcut] adds a branch to what the branch reads, of "
            "one shape; prune its channels instead: normal_prune.py, regular_prune.py, shortcut_prune.py, slim_prune.py"
        )
    return found


def layer_gammas(spec: s.ModelSpec) -> dict[int, Tensor]:
    """The gammas that layer pruning looks at, bool [C] by layer: what sparse training for it has to press on.

    Raises:
        InputError: the network has no residual block.
    """
    loud = {i for block in some_blocks(spec) for i in block.voice}
    width = channels(spec)
    return {i: torch.ones(width[i], dtype=torch.bool) for i in sorted(loud)}


def shorten(spec: s.ModelSpec, gone: Iterable[Block]) -> Shortened:
    """The structure without these blocks, every reference renumbered.

    What read the sum reads the trunk, or the sum of what is left of it. An activation behind the sum stays: where it
    would change the trunk, a 1x1 depthwise convolution of weight 1 and bias 0 carries it. A [route] is put where a
    layer would have to read something else than its predecessor, which a cfg can only say that way.
    """
    cut = {(block.shortcut, block.source) for block in gone}
    needed, width, uneven = _needed(spec, cut), channels(spec), uneven_sums(spec)
    layers: list[s.Layer] = []
    carriers: list[int] = []
    number, stands_for = {}, {-1: -1}  # a shortcut that went is read as its trunk
    for i in sorted(needed):
        layer = spec.layers[i]
        rest = tuple(j for j in layer.sources if (i, j) not in cut)
        lonely = len(rest) == 1 < len(layer.sources)
        if lonely and _changes_nothing(spec, layer, rest[0]):
            stands_for[i] = stands_for[rest[0]]
            continue
        if lonely:
            layer = _carrier(layer, width[i])
        sources = _after_predecessor(layers, layer, tuple(stands_for[j] for j in rest), ordered=i in uneven)
        number[i] = stands_for[i] = len(layers)
        if lonely:
            carriers.append(number[i])
        layers.append(replace(layer, sources=sources))
    return Shortened(replace(spec, layers=tuple(layers)), number, tuple(carriers))


def _block(spec: s.ModelSpec, i: int, j: int) -> Block | None:
    gone = set(range(len(spec.layers))) - _needed(spec, {(i, j)})
    if not gone & spec.kernels.keys():
        return None
    entries = {_origin(spec, k) for g in gone for k in spec.layers[g].sources if k not in gone}
    rest = [t for t in spec.layers[i].sources if t != j]
    trunk = next((t for t in rest if entries == {_origin(spec, t)} != {-1}), None)
    if trunk is None:
        return None
    voice = tuple(sorted(_voice(spec, j, gone)))
    return Block(i, j, trunk, tuple(sorted(gone)), voice, spec.layers[i].line)


def _needed(spec: s.ModelSpec, cut: Collection[tuple[int, int]]) -> set[int]:
    """Layers that an output still needs when the edges (reader, source) of ``cut`` are gone.

    Outputs are the layers that nobody reads in ``spec``, heads or not.
    """
    needed = set(range(len(spec.layers))) - {j for layer in spec.layers for j in layer.sources}
    for i in reversed(range(len(spec.layers))):
        if i in needed:
            needed.update(j for j in spec.layers[i].sources if (i, j) not in cut)
    return needed - {-1}


def _origin(spec: s.ModelSpec, j: int) -> int:
    """The layer whose output this is, through routes that only repeat it."""
    while j >= 0:
        layer = spec.layers[j]
        if not (isinstance(layer, s.Route) and layer.repeats):
            break
        j = layer.sources[0]
    return j


def _voice(spec: s.ModelSpec, j: int, inside: Collection[int]) -> set[int]:
    if j not in inside:
        return set()
    if j in spec.normed:
        return {j}
    # a gate says where the features are loud, not how loud they are
    return {k for source in spec.layers[j].features for k in _voice(spec, source, inside)}


def _plain_sum(layer: s.Layer) -> bool:
    return isinstance(layer, s.Shortcut) and not layer.weighted


def _changes_nothing(spec: s.ModelSpec, shortcut: s.Layer, trunk: int) -> bool:
    activation = activation_of(shortcut)
    return activation == "linear" or _within(spec, trunk, activation)


def _within(spec: s.ModelSpec, j: int, activation: str) -> bool:
    """Whether ``activation`` leaves all values of layer ``j`` as they are."""
    if j < 0:
        return False
    if j in spec.activated:
        return spec.activated[j].activation in WITHIN.get(activation, ())
    layer = spec.layers[j]
    return facts(layer).within and all(_within(spec, k, activation) for k in layer.sources)


def _carrier(shortcut: s.Layer, width: int) -> s.Conv:
    return s.Conv(
        sources=shortcut.sources, line=shortcut.line, filters=width, groups=width, activation=activation_of(shortcut)
    )


def _after_predecessor(
    layers: list[s.Layer], layer: s.Layer, sources: tuple[int, ...], *, ordered: bool
) -> tuple[int, ...]:
    """The sources in an order that a cfg can say; appends a route to ``layers`` where there is none."""
    last = len(layers) - 1
    if facts(layer).lists_sources or sources[0] == last:
        return sources
    if _plain_sum(layer) and last in sources and not ordered:
        at = sources.index(last)
        return (last, *sources[:at], *sources[at + 1 :])
    layers.append(s.Route(sources=sources[:1], line=layer.line))
    return (last + 1, *sources[1:])
