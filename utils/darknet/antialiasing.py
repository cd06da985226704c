"""The key ``antialiasing``: a section as a layer of stride 1 and, behind its activation, a `Blur` with the stride."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from utils.darknet import spec as s
from utils.darknet.cfg_moves import extra_values, times_read
from utils.darknet.ops import facts
from utils.darknet.sections import Section
from utils.errors import InputError

if TYPE_CHECKING:  # facts of layers need no torch, and flags are made of facts
    from torch import Tensor


@dataclass(frozen=True)
class _Spared:
    """A layer of stride 1, and the stride that it had."""

    layer: s.Layer
    stride: tuple[int, int]


SPARED: dict[str, Callable[[Any], _Spared]] = {  # the sections that have the key
    "convolutional": lambda layer: _Spared(replace(layer, stride=(1, 1)), layer.stride),
    "maxpool": lambda layer: _Spared(replace(layer, stride=1), (layer.stride, layer.stride)),
}
HALVES = 2  # antialiasing=2: windows of 2x2; any other number but 0 is 3x3


def blur_kernel(layer: s.Blur | s.LocalAvgPool) -> Tensor:
    """Its weights [k, k], float32, as whole numbers: to be divided by their sum."""
    import torch

    row = torch.tensor(layer.row, dtype=torch.float32)
    return row[:, None] * row


def parted(section: Section, layer: s.Layer, number: int) -> tuple[s.Layer, ...]:
    """A section's layer, or the two of one with ``antialiasing``; the first of them is layer ``number``."""
    kind = section.integer("antialiasing", 0) if section.kind in SPARED else 0
    if not kind:
        return (layer,)
    spared = SPARED[section.kind](layer)
    return spared.layer, s.Blur(
        sources=(number,), line=layer.line, size=2 if kind == HALVES else 3, stride=spared.stride
    )


def check_readers(section: Section, layer: s.Layer, before: Sequence[s.Layer]) -> None:
    """Refuse a section that names one whose blur makes its map smaller.

    Darknet hands the blurred map to the next section alone. Who names the section is told the size from before the blur
    and reads the blurred values with what is left of the others behind them.
    """
    for j in layer.sources if facts(layer).lists_sources else layer.sources[1:]:
        blur = before[j] if j >= 0 else layer  # an [implicit_add] names nothing, and reads nothing of the image
        if type(blur) is s.Blur and blur.resizes:
            raise InputError(
                f"{section.place}: [{section.kind}] names the section of line {blur.line}, whose antialiasing makes "
                "its map smaller; Darknet reads a map there that is partly overwritten, so put a [maxpool] with size=1 "
                "and stride=1 behind that section and name this one"
            )


def in_sections(spec: s.ModelSpec) -> list[tuple[s.Layer, int]]:
    """The layers as sections say them, numbered as these are, each with its ``antialiasing``; blurs are in the others.

    So are the two layers of a ``[reorg]`` with ``extra``, which Darknet reads as no other section.

    Raises:
        ValueError: a blur that no section can have: behind another kind, or one that others read too.
    """
    found: list[tuple[s.Layer, int]] = []
    number = {-1: -1}
    for i, layer in enumerate(spec.layers):
        if type(layer) is s.Blur:
            before = found.pop() if found else (layer, 1)
            found.append((_strided(spec, i, layer, *before), HALVES if layer.size == HALVES else 1))
        elif type(layer) is s.Fitted and (extra := extra_values(spec, i, layer)):
            parts = found.pop()[0]
            said = (("extra", str(extra)), *parts.options)
            found.append((s.Reorg(sources=parts.sources, line=parts.line, options=said, stride=1), 0))
        else:
            found.append((replace(layer, sources=tuple(number[j] for j in layer.sources)), 0))
        number[i] = len(found) - 1
    return found


def _strided(spec: s.ModelSpec, i: int, blur: s.Blur, before: s.Layer, blurred: int) -> s.Layer:
    """The section before blur ``i``, not yet ``blurred``, with its stride."""
    alone = blur.sources == (i - 1,) and times_read(spec, i - 1) == 1 and not blurred
    if alone and type(before) is s.Conv and before.stride == (1, 1):
        return replace(before, stride=blur.stride)
    if alone and type(before) is s.MaxPool and before.stride == 1 and len(set(blur.stride)) == 1:
        return replace(before, stride=blur.stride[0])
    raise ValueError(f"layer {i} blurs layer {blur.sources[0]}: a cfg can only say that by antialiasing=")
