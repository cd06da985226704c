"""Rewrite a cfg for chips that have convolutions and positive spikes only: other layers, to be trained anew.

  python3 -m utils.spiking.surgery cfg/yolov3-tiny.cfg
  python3 -m utils.spiking.surgery cfg/yolov3-tiny.cfg --groups 16 --out cfg/mine.cfg

A max pool of stride 2 becomes a 3x3 convolution of stride 2, one of stride 1 is left out; an upsampling becomes a
transposed convolution, 3x3 where it doubles; leaky becomes relu. Our own layerwise and stream modes need none of this,
their max pools and copies of spikes are exact.

Source: the cfgs that PyTorch-Spiking-YOLOv3 (cwq159, 2020) trains.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.cli import OneLineParser
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.choices import RARE
from utils.darknet.shapes import channels
from utils.darknet.walk import rule
from utils.endings import ended, say
from utils.errors import InputError
from utils.files import write_text

RELU_FOR = ("leaky", "leaky_pow2", "mish", "swish", "h_swish", *RARE)


def operate(spec: s.ModelSpec, groups: int = 1) -> s.ModelSpec:
    """The network with the operators that every spiking chip has; references are moved along.

    Args:
        spec: any network.
        groups: of the convolutions that take the place of a max pool or an upsampling; 1 mixes all channels.

    Raises:
        InputError: channels do not divide by ``groups``, or a pool's stride is neither 1 nor 2.
    """
    wide, kept = channels(spec), {-1: -1}
    layers: list[s.Layer] = []
    for i, layer in enumerate(spec.layers):
        moved = replace(layer, sources=tuple(kept[j] for j in layer.sources))
        other = rule(OPERATIONS, layer, "operation")(moved, wide[i], groups, f"layer {i} (cfg line {layer.line})")
        if other is None:
            kept[i] = kept[layer.sources[0]]
            continue
        kept[i] = len(layers)
        layers.append(other)
    return replace(spec, layers=tuple(layers))


def _halve(layer: s.MaxPool, wide: int, groups: int, place: str) -> s.Layer | None:
    if layer.stride == 1:
        return None
    if layer.stride != 2:
        raise InputError(f"{place}: a max pool of stride {layer.stride} has no convolution in its place; use stride 2")
    _check_groups(wide, groups, place)
    return s.Conv(
        sources=layer.sources, line=layer.line, filters=wide, size=3, stride=(2, 2), pad=1, groups=groups, bn=True,
        activation="relu",
    )  # fmt: skip


def _enlarge(layer: s.Upsample, wide: int, groups: int, place: str) -> s.Layer | None:
    """Each kernel reaches just as far as its neighbours' middles, as 3x3 does where the map is doubled."""
    if layer.stride == 1:
        return None
    if layer.zeros:
        return layer
    _check_groups(wide, groups, place)
    return s.TransposedConv(
        sources=layer.sources, line=layer.line, filters=wide, size=2 * layer.stride - 1, stride=layer.stride,
        pad=layer.stride - 1, groups=groups, bn=True, activation="relu",
    )  # fmt: skip


def _rectify(layer: s.Activated, wide: int, groups: int, place: str) -> s.Layer | None:
    return replace(layer, activation="relu") if layer.activation in RELU_FOR else layer


OPERATIONS: dict[type[s.Layer], Callable[[Any, int, int, str], s.Layer | None]] = {  # None: it is left out
    s.MaxPool: _halve,
    s.Upsample: _enlarge,
    s.Kernel: _rectify,
    s.Shortcut: _rectify,
    s.Layer: lambda layer, wide, groups, place: layer,
}


def _check_groups(wide: int, groups: int, place: str) -> None:
    if wide % groups:
        raise InputError(f"{place}: --groups {groups} does not divide its {wide} channels")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = OneLineParser(
        prog="utils.spiking.surgery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = flags.add_argument
    add("cfg", help="the structure to rewrite")
    add("--groups", type=int, default=1, help="of the convolutions in place of pools and upsamplings (default: 1)")
    add("--out", default="", help="the new cfg (default: beside the old one, with -spiking in its name)")
    return flags


def main(words: list[str] | None = None) -> Path:
    """Read, rewrite, write beside it; an existing file is not touched."""
    args = parser().parse_args(words)
    source = Path(args.cfg)
    path = Path(args.out) if args.out else source.with_name(f"{source.stem}-spiking.cfg")
    if path.exists():
        raise InputError(f"{path}: is there already; give another name with --out")
    if args.groups < 1:
        raise InputError(f"--groups: {args.groups}; use 1 or more")
    return write_text(path, write_cfg(operate(read_cfg(source), args.groups)))


if __name__ == "__main__":
    sys.exit(ended(lambda: say(f"{main()}"), "utils.spiking.surgery"))
