"""Rewrite a cfg for chips that have neither max pools nor negative spikes: other layers, to be trained anew.

  python3 -m utils.spiking.surgery cfg/yolov3-tiny.cfg
  python3 -m utils.spiking.surgery cfg/yolov3-tiny.cfg --groups 16 --out cfg/mine.cfg

A max pool of stride 2 becomes a 3x3 convolution of stride 2, one of stride 1 is left out, leaky becomes relu. Our own
phase and stream modes need none of this: their max pools are exact. Upsampling stays as it is, copies of spikes.

Source: the cfgs that PyTorch-Spiking-YOLOv3 (cwq159, 2020) trains; there upsampling is a transposed convolution too.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.shapes import channels
from utils.errors import InputError
from utils.files import write_text

RELU_FOR = ("leaky", "leaky_pow2", "mish", "swish", "h_swish")


def operate(spec: s.ModelSpec, groups: int = 1) -> s.ModelSpec:
    """The network with the operators that every spiking chip has; references are moved along.

    Args:
        spec: any network.
        groups: of the convolutions that take a max pool's place; 1 mixes all channels.

    Raises:
        InputError: a pool's channels do not divide by ``groups``, or its stride is neither 1 nor 2.
    """
    wide, kept = channels(spec), {-1: -1}
    layers: list[s.Layer] = []
    for i, layer in enumerate(spec.layers):
        place = f"layer {i} (cfg line {layer.line})"
        if isinstance(layer, s.MaxPool) and layer.stride == 1:
            kept[i] = kept[layer.sources[0]]
            continue
        sources = tuple(kept[j] for j in layer.sources)
        kept[i] = len(layers)
        if isinstance(layer, s.MaxPool):
            layers.append(_halve(layer, sources, wide[i], groups, place))
        elif isinstance(layer, s.Conv | s.Shortcut) and layer.activation in RELU_FOR:
            layers.append(replace(layer, sources=sources, activation="relu"))
        else:
            layers.append(replace(layer, sources=sources))
    return replace(spec, layers=tuple(layers))


def _halve(layer: s.MaxPool, sources: tuple[int, ...], wide: int, groups: int, place: str) -> s.Conv:
    if layer.stride != 2:
        raise InputError(f"{place}: a max pool of stride {layer.stride} has no convolution in its place; use stride 2")
    if wide % groups:
        raise InputError(f"{place}: --groups {groups} does not divide its {wide} channels")
    return s.Conv(
        sources=sources, line=layer.line, filters=wide, size=3, stride=(2, 2), pad=1, groups=groups, bn=True,
        activation="relu",
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="utils.spiking.surgery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = flags.add_argument
    add("cfg", help="the structure to rewrite")
    add("--groups", type=int, default=1, help="of the convolutions in place of max pools (default: 1)")
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
    try:
        sys.stdout.write(f"{main()}\n")
    except InputError as error:
        sys.stderr.write(f"utils.spiking.surgery: {error}\n")
        sys.exit(2)
