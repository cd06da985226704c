"""Channels, strides and sizes of every layer, from the graph alone; the validator of a ModelSpec."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from utils.darknet.op_sizes import Size
from utils.darknet.ops import facts
from utils.darknet.spec import Fitted, Layer, ModelSpec, Shortcut
from utils.darknet.walk import run
from utils.errors import InputError


def channels(spec: ModelSpec, name: str = "cfg") -> dict[int, int]:
    """Output channels per layer number (-1: the image).

    Raises:
        InputError: widths that do not fit together, or a layer that reads one not yet made; with file and line.
    """
    for i, layer in enumerate(spec.layers):
        for j in layer.sources:
            if not -1 <= j < i:
                raise InputError(f"{name} line {layer.line}: layer {i} reads layer {j}, which does not come before it")

    def step(i: int, layer: Layer, given: list[int]) -> int:
        return facts(layer).channels(layer, given, f"{name} line {layer.line}")

    return run(spec, spec.channels, step)


def first_feature(layer: Layer) -> int:
    """Which of its sources a layer has its shape from: the first, after any gate."""
    return len(layer.sources) - len(layer.features)


def uneven_sums(spec: ModelSpec) -> dict[int, tuple[Fitted | None, ...]]:
    """The shortcuts that add maps of another shape: layer -> what fits each of its sources, None where none is needed.

    A map counts as larger or smaller by its stride; a global pool's has none, and is taken as it is.
    """
    wide, steps, found = channels(spec), strides(spec), {}
    for i, layer in enumerate(spec.layers):
        if isinstance(layer, Shortcut):
            fits = tuple(_fit(j, wide[j], wide[i], steps[j], steps[i]) for j in layer.sources)
            if any(fits):
                found[i] = fits
    return found


def _fit(source: int, given: int, wide: int, step: Fraction, own: Fraction) -> Fitted | None:
    times = own / step if step and own else Fraction(1)
    if given == wide and times == 1:
        return None
    return Fitted(sources=(source,), filters=wide, stride=max(1, int(times)), spread=max(1, int(1 / times)))


def strides(spec: ModelSpec) -> dict[int, Fraction]:
    """Input px per output px, vertically, of every layer (-1: the image, 1); 0 from a global pooling on."""
    return run(spec, Fraction(1), lambda i, layer, given: facts(layer).stride(layer, given[first_feature(layer)]))


def sizes(spec: ModelSpec, height: int, width: int) -> dict[int, tuple[int, int]]:
    """Output (height, width) in px of every layer for an image of the given size.

    Raises:
        InputError: maps of different size are joined, or one cannot be parted (the image is no multiple of the stride),
            or a [segment] enlarges its map to another size than the image's.
    """

    def step(i: int, layer: Layer, given: list[Size]) -> Size:
        known = facts(layer)
        if not all(known.takes(given[0], other) for other in given[1:]):
            joined = " and ".join(f"{h}x{w}" for h, w in given)
            raise InputError(
                f"cfg line {layer.line}: layer {i} joins maps of {joined} px at an image of {height}x{width}; "
                f"{_that_fits(spec, height, width)}"
            )
        parts = known.divides(layer)
        if any(side % parts for side in given[0]):
            raise InputError(
                f"cfg line {layer.line}: [{known.section}] with stride={parts} cannot part a map of "
                f"{given[0][0]}x{given[0][1]} px; use --img-size a multiple of {granularity(spec)}"
            )
        if times := known.covers(layer):
            _check_filled(layer, times, given[0], (height, width))
        return known.size(layer, given[first_feature(layer)])

    return run(spec, (height, width), step)


def _that_fits(spec: ModelSpec, height: int, width: int) -> str:
    """What to do about maps that do not: a mean of a map, enlarged by a fixed factor, fits one size of images alone."""
    step, own = granularity(spec), (spec.height, spec.width)
    if height % step or width % step:
        return f"use --img-size a multiple of {step}"
    if (height, width) != own and any(not value for value in strides(spec).values()):
        return f"use the cfg's {own[0]}x{own[1]}, or set the stride of the [upsample] behind its [avgpool] to fit"
    return "correct the strides of what it joins"


def _check_filled(layer: Layer, times: int, given: Size, image: Size) -> None:
    made = (given[0] * times, given[1] * times)
    if made != image:
        raise InputError(
            f"cfg line {layer.line}: [{facts(layer).section}] with factor={times} gives {made[0]}x{made[1]} px of an "
            f"image of {image[0]}x{image[1]}; set factor= to the stride of the map it reads"
        )


def densities(spec: ModelSpec) -> dict[int, Fraction]:
    """Share of each layer's values (-1: the image) that are no inserted zeros: 1, but behind an [upsample] with zeros.

    What computes, or mixes neighbours, fills the zeros.
    """
    wide = channels(spec)

    def step(i: int, layer: Layer, given: list[Fraction]) -> Fraction:
        return facts(layer).density(layer, given, [wide[j] for j in layer.sources])

    return run(spec, Fraction(1), step)


def granularity(spec: ModelSpec) -> int:
    """The image's sides must be multiples of this: the largest stride of the network."""
    return max(1, *(int(value) for value in strides(spec).values()))


def image_size(given: Sequence[int] | None, spec: ModelSpec, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """(height, width) in px from ``--img-size``, or else what the network was made for.

    Raises:
        InputError: more than two numbers, or no multiple of the network's largest stride.
    """
    if given and len(given) > 2:
        raise InputError(f"--img-size: {len(given)} numbers; give one side, or height and width")
    height, width = (given[0], given[-1]) if given else default or (spec.height, spec.width)
    if facts(spec.layers[-1]).section == "softmax":
        sizes(spec, height, width)  # whole maps are averaged or connected: no cell has to lie whole in the image
        return height, width
    step = granularity(spec)
    if height % step or width % step or min(height, width) < step:
        raise InputError(f"--img-size: {height}x{width} px do not divide by {step}, the network's largest stride")
    return height, width
