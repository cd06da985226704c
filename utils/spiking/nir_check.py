"""What NIR has no node for, refused by name; and its package, which is no requirement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from utils.darknet import spec as s
from utils.darknet.shapes import sizes
from utils.darknet.walk import rule
from utils.errors import InputError
from utils.quantization.integer import IntegerNetwork
from utils.spiking.synops import pixel_channels

NO_PACKAGE = "nir: the package is missing; pip install -r requirements-export.txt"
MISSING: dict[type[s.Layer], Callable[[Any, bool], str]] = {  # (layer, whether pixels reach it) -> what is in the way
    s.Upsample: lambda layer, lit: f"NIR has no {_enlarging(layer)}",
    s.MaxPool: lambda layer, lit: "pools pixels, which are no spikes; put a convolution before it" if lit else "",
    s.Fitted: lambda layer, lit: "" if layer.stride == layer.spread == 1 else f"NIR has no {FITTING}",
    s.Reorg3d: lambda layer, lit: "NIR has no space to depth; use a network without [reorg3d]",
    s.Reorg: lambda layer, lit: "NIR has no reorg; use a network without passthrough",
    s.Layer: lambda layer, lit: "",
}
FITTING = "sum of maps of other sizes; use a network whose [shortcut]s add maps of one size"


def _enlarging(layer: s.Upsample) -> str:
    if layer.zeros:
        return "transposed convolution; use a network without, such as yolov2-tiny"
    return "upsampling; use a network of one scale, such as yolov2-tiny"


def check_nir(integer: IntegerNetwork, height: int, width: int) -> None:
    """Refuse by name what NIR has no node for.

    Raises:
        InputError: names the layer, its cfg line and what is in the way.
    """
    size, pixels = sizes(integer.spec, height, width), pixel_channels(integer)
    for i, layer in enumerate(integer.spec.layers):
        place = integer.place(i)
        missing = rule(MISSING, layer, "node in NIR")(layer, bool(pixels[layer.sources[0]].any()))
        if missing:
            raise InputError(f"{place}: {missing}")
        if i in integer.grids and integer.grids[i].qmin < 0:
            raise InputError(f"{place}: fires negative spikes, NIR's have no sign; {without_sign(layer)}")
        if i in integer.ops and any(
            -(-whole // -(-whole // part)) != part for whole, part in zip((height, width), size[i], strict=True)
        ):
            raise InputError(f"{place}: its map of {size[i][0]}x{size[i][1]} is no whole part of the image's")


def nir_package() -> Any:
    """The package nir, which is no requirement.

    Raises:
        InputError: it is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise InputError(NO_PACKAGE) from error
    return nir


def without_sign(layer: s.Layer) -> str:
    """What makes a layer fire no negative spikes."""
    linear = getattr(layer, "activation", "linear") == "linear"  # which --act leaves alone
    return "set activation=relu there and train anew" if linear else "train.py --act relu, then quantise"
