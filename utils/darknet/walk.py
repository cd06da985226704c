"""The one walk over a network's layers, each getting what its sources gave; the one look-up of a rule by its kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from utils.darknet.spec import Layer, ModelSpec
from utils.errors import InputError

T = TypeVar("T")
Rule = TypeVar("Rule")
Step = Callable[[int, Layer, list[T]], T]


def walk(spec: ModelSpec, image: T, step: Step[T], *, keep: Collection[int] | None = ()) -> Iterator[tuple[int, T]]:
    """Layer by layer: (number, what it gives), the image as -1 first.

    Args:
        spec: the layers.
        image: what the image is to its readers: a tensor, a width, a spike train.
        step: number, layer, what its sources gave -> what it gives.
        keep: edges that are held to the end, None: all of them. Any other goes after its last reader.
    """
    last, out = spec.last_readers, {-1: image}
    yield -1, image
    for i, layer in enumerate(spec.layers):
        out[i] = step(i, layer, [out[j] for j in layer.sources])
        yield i, out[i]
        for j in () if keep is None else set(layer.sources).difference(keep):
            if last[j] == i:
                del out[j]


def run(spec: ModelSpec, image: T, step: Step[T], *, keep: Collection[int] | None = None) -> dict[int, T]:
    """What every layer gives, or those in ``keep``, by number; the image is -1. See `walk`."""
    return {i: value for i, value in walk(spec, image, step, keep=keep) if keep is None or i in keep}


def rule(rules: Mapping[type[Layer], Rule], layer: Layer, what: str) -> Rule:
    """What ``rules`` has for a layer's kind, else for the nearest kind that it is one of.

    Raises:
        InputError: there is nothing; names the cfg line, the kind and ``what`` it lacks.
    """
    for kind in type(layer).__mro__:
        if kind in rules:
            return rules[kind]
    raise InputError(f"cfg line {layer.line}: {type(layer).__name__} has no {what}; use a cfg without it")
