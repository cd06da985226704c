"""Which layers are offered to pruning: ``--scope all``, ``backbone``, ``neck``, ``5-20,33``, or several of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from utils.darknet.channel_groups import trace
from utils.darknet.spec import ModelSpec
from utils.errors import InputError

REMEDY = "use --scope all, backbone, neck, or layer numbers such as 5-20,33"


def parse_scope(text: str, spec: ModelSpec) -> frozenset[int]:
    """The layers that a scope names, those that pruning can judge: convolutions with batch norm.

    ``backbone`` is what every head depends on, ``neck`` the rest (`backbone` says more). A range may run over any
    layers, a number alone must be a convolution with batch norm. A depthwise convolution has no wires of its own and
    follows the convolution before it, whose number is meant.

    Raises:
        InputError: a word or number that the network does not have, or nothing in the scope can be judged.
    """
    voters = set(trace(spec).voters)
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        found |= _part(part, spec, voters)
    if not found:
        raise InputError(f"scope {text}: no convolution with batch norm is in it; {REMEDY}")
    return frozenset(found)


def backbone(spec: ModelSpec) -> frozenset[int]:
    """The layers that every head depends on: all before the network first branches towards single heads.

    Found from the graph, not from names: of yolov3 it is Darknet-53 and the five convolutions up to the first head's
    branch; of a network whose neck goes up and down again before its first head (yolov4) the upward part is among them;
    with one head it is everything before it. Networks without a head end where no layer reads on.
    """
    read = {j for layer in spec.layers for j in layer.sources}
    ends = spec.heads or tuple(i for i in range(len(spec.layers)) if i not in read)
    return frozenset.intersection(*(_ancestors(spec, end) for end in ends)) - set(ends)


def _part(part: str, spec: ModelSpec, voters: set[int]) -> set[int]:
    match part:
        case "all":
            return voters
        case "backbone":
            return voters & backbone(spec)
        case "neck":
            return voters - backbone(spec)
    numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
    if numbers is None:
        raise InputError(f"scope: {part!r} is no part of a network; {REMEDY}")
    first, last = int(numbers[1]), int(numbers[2] or numbers[1])
    if first > last or last >= len(spec.layers):
        raise InputError(f"scope: {part} are no layers of this network, it has 0-{len(spec.layers) - 1}")
    if numbers[2] is None and first not in voters:
        layer = spec.layers[first]
        raise InputError(
            f"scope: layer {first} (cfg line {layer.line}) is a {type(layer).__name__} that pruning cannot judge; name "
            f"the convolution with batch norm before it{_nearest(first, voters)}"
        )
    return voters & set(range(first, last + 1))


def _nearest(layer: int, voters: Iterable[int]) -> str:
    before = [i for i in voters if i < layer]
    return f", layer {max(before)}" if before else ""


def _ancestors(spec: ModelSpec, end: int) -> frozenset[int]:
    """All layers that ``end`` is computed from."""
    found, open_ = set(), [end]
    while open_:
        for j in spec.layers[open_.pop()].sources:
            if j >= 0 and j not in found:
                found.add(j)
                open_.append(j)
    return frozenset(found)
