"""What a constant channel looks like behind an [upsample] with zeros: the constant, and zeros between."""

from __future__ import annotations

import math

from utils.darknet import spec as s
from utils.darknet.activations import keeps_zero
from utils.darknet.shapes import channels

Pattern = tuple[int, ...]  # the upsamplings since the zeros came in; of nearest neighbours with a minus sign


def patterns(spec: s.ModelSpec) -> tuple[dict[int, Pattern], dict[int, tuple[int, ...]]]:
    """Follow constant channels through the network.

    Channels of one pattern stand in for one another, whatever their constants: carriers stay exact. Where a pattern
    would meet another one, a pool, or a kernel of its own without batch norm, no constant could stand for it.

    Returns:
        The pattern of every layer's output (-1: the image), () where a constant is one; and the barriers: layer ->
        those of its sources whose channels can only stay.
    """
    found: dict[int, Pattern] = {-1: ()}
    barriers: dict[int, tuple[int, ...]] = {}
    width = channels(spec)
    for i, layer in enumerate(spec.layers):
        given = [found[j] for j in layer.sources]
        found[i] = () if isinstance(layer, s.Kernel) else given[-1]
        stopped = tuple(j for j, pattern in zip(layer.sources, given, strict=True) if pattern)
        match layer:
            case s.Kernel():
                handed_on = 1 < layer.groups == layer.filters == width[layer.sources[0]] and not layer.bn
                uneven = isinstance(layer, s.TransposedConv) and layer.stride > 1
                stopped = layer.sources if handed_on and (given[0] or uneven) else ()
            case s.Upsample():
                spreads = layer.zeros and layer.stride > 1
                found[i] = (*given[0], layer.stride if spreads else -layer.stride) if given[0] or spreads else ()
                stopped = ()
            case s.ScaleChannels():
                stopped = stopped if given[0] or not keeps_zero(layer.activation) else ()
            case s.Shortcut() | s.Route():
                kept = not isinstance(layer, s.Shortcut) or keeps_zero(layer.activation)
                stopped = () if kept and len(set(given)) == 1 else stopped
            case s.SqueezeExcite() | s.Dropout() | s.Output():
                stopped = ()
        if stopped:
            found[i], barriers[i] = (), stopped
    return found, barriers


def share(pattern: Pattern) -> float:
    """What of a constant's map is not zero: its mean, of a constant of 1."""
    return 1 / math.prod(stride**2 for stride in pattern if stride > 0)
