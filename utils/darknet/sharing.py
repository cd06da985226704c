"""The key ``share_index``: convolutions with one set of tensors, each with a stride and dilation of its own.

Layers with one number in ``shared`` are a set; the first of them is the owner, whose tensors the weights file has. A
state has the tensors of all of them, alike, so that whoever computes layer by layer need not know; `tie` makes them
one where a network trains. What changes a layer for itself (a cut, folding) begins with `untied`.

Source: share_layer in Darknet's parser.c and make_convolutional_layer, which shares kernel, bias and batch norm.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from utils.darknet import spec as s
from utils.darknet.neuron_spec import NEURONS
from utils.darknet.ops import facts
from utils.darknet.sections import Section
from utils.errors import InputError

if TYPE_CHECKING:  # facts of layers need no torch, and flags are made of facts
    from utils.darknet.network import Network

log = logging.getLogger(__name__)
NOBODY = -1000000000  # Darknet's own default: the layer shares nothing
ALIKE = ("filters", "size", "groups", "bn")


def shared(section: Section, layer: Any, layers: list[s.Layer]) -> s.Layer:
    """A section's layer, in the set of the one that its ``share_index`` names, which is marked in ``layers``."""
    if section.text("share_index", str(NOBODY)) == str(NOBODY):
        return layer
    found = section.references("share_index")
    line = section.options["share_index"][0]
    j = found[0]
    if facts(layers[j]).section == "antialiasing":  # the second of a section's two layers
        j -= 1
    other: Any = layers[j]
    if len(found) != 1 or facts(other).section != "convolutional":
        raise InputError(f"{section.name} line {line}: share_index= names no [convolutional]; name one before this one")
    if other.activation in NEURONS or layer.activation in NEURONS:
        raise InputError(f"{section.name} line {line}: neurons with state can not share weights; delete share_index=")
    if not other.shared:
        other = replace(other, shared=1 + max(map(number, layers)))
        layers[j] = other
    return replace(layer, shared=other.shared)


def owners(layers: tuple[s.Layer, ...]) -> dict[int, int]:
    """Number of each convolution that takes another's tensors -> number of that one."""
    first: dict[int, int] = {}
    sets = {i: number(layer) for i, layer in enumerate(layers) if number(layer)}
    return {i: first[n] for i, n in sets.items() if first.setdefault(n, i) != i}


def number(layer: s.Layer) -> int:
    """Of the set that a layer belongs to; 0: it belongs to none."""
    return int(getattr(layer, "shared", 0))


def check_shared(spec: s.ModelSpec, width: dict[int, int], name: str) -> None:
    """Refuse a set whose kernels are not of one shape."""
    for i, j in owners(spec.layers).items():
        mine, other = spec.convs[i], spec.convs[j]
        here, there = ([width[one.sources[0]], *(int(getattr(one, key)) for key in ALIKE)] for one in (mine, other))
        for key, own, theirs in zip(("channels", *ALIKE), here, there, strict=True):
            if own != theirs:
                key = "batch_normalize" if key == "bn" else key
                raise InputError(
                    f"{name} line {mine.line}: share_index= takes the weights of line {other.line}, which has {key} "
                    f"{theirs}, this one {own}; make them alike, or delete share_index="
                )


def tied(network: Network) -> Network:
    """The network, every layer of a set with its owner's tensors."""
    state, pairs = dict(network.state), owners(network.spec.layers)
    for i, j in pairs.items():
        mine, other = f"layers.{i}.", f"layers.{j}."
        state |= {mine + key[len(other) :]: value for key, value in network.state.items() if key.startswith(other)}
    return replace(network, state=state) if pairs else network


def tie(model: Any) -> None:
    """Make the tensors of each set one, so that all of its layers train them."""
    for i, j in owners(model.spec.layers).items():
        mine, other = model.layers[str(i)], model.layers[str(j)]
        mine.conv.weight, mine.conv.bias, mine.bn = other.conv.weight, other.conv.bias, other.bn


def untied(network: Network) -> Network:
    """The same function, its sets dissolved: every convolution keeps a copy of its own."""
    return replace(network, spec=without_sets(network.spec))


def without_sets(spec: s.ModelSpec) -> s.ModelSpec:
    """The layers alone, each on its own."""
    if not owners(spec.layers):
        return spec
    alone: dict[str, Any] = {"shared": 0}
    return replace(spec, layers=tuple(replace(layer, **alone) if number(layer) else layer for layer in spec.layers))


def tell_untied(spec: s.ModelSpec, name: str) -> None:
    """Say that a network's sets are dissolved where they were."""
    count = len(owners(spec.layers))
    if count:
        log.info("%s: %d convolutions that shared weights have their own from here on (share_index=)", name, count)
