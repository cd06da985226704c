"""Integer networks to export, and folders of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from torch import Tensor

from tests.conftest import ROOT
from tests.quantization.random_nets import random_images, random_network, rich_cfg
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.shapes import channels, granularity
from utils.export.package import HandOffOptions, export_network
from utils.quantization.calibrate import calibrate
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.quantization.validate import readouts

QUICK = Scheme(a_bit=8, equalise=False, correct_bias=False, ranges="minmax")
LOW = Scheme(w_bit=3, a_bit=4, outer_bit=5, equalise=False, correct_bias=False, ranges="minmax")


def narrow(spec: s.ModelSpec, by: int, least: int = 4) -> s.ModelSpec:
    """A network of the same shape with a ``by``-th of the channels, in multiples of ``least``; heads stay as they are."""
    kept, layers = set(readouts(spec)), []
    wide = channels(spec)
    for i, layer in enumerate(spec.layers):
        if isinstance(layer, s.Conv) and i not in kept:
            filters = max(least, layer.filters // by // least * least)
            depthwise = layer.groups > 1 and layer.groups == wide[layer.sources[0]]
            layer = replace(layer, filters=filters, groups=filters if depthwise else layer.groups)
        if isinstance(layer, s.SqueezeExcite):
            layer = replace(layer, squeeze=max(2, layer.squeeze // by))
        layers.append(layer)
    return replace(spec, layers=tuple(layers))


def lowered(cfg: str, images: Tensor, scheme: Scheme = QUICK) -> IntegerNetwork:
    """Random weights for a cfg, calibrated on the images."""
    return lower(calibrate(random_network(cfg), [images], scheme))


@cache
def small(path: str, scheme: Scheme = QUICK) -> tuple[IntegerNetwork, Tensor]:
    """A network of tests/cfgs, and images for it."""
    spec = read_cfg(ROOT / path)
    images = random_images(2, side=64, image_channels=spec.channels)
    return lowered(write_cfg(spec), images, scheme), images


@cache
def shipped(name: str) -> tuple[IntegerNetwork, Tensor]:
    """A cfg that we ship, in narrow, and one image of the smallest size it takes."""
    spec = read_cfg(ROOT / f"cfg/{name}.cfg")
    # a ghost's two halves must remain as wide as the whole
    spec = narrow(spec, by=4, least=1) if "ghost" in name else narrow(spec, by=16)
    images = random_images(1, side=max(32, granularity(spec)), image_channels=spec.channels)
    return lowered(write_cfg(spec), images), images


@cache
def chance(seed: int, scheme: Scheme = QUICK) -> tuple[IntegerNetwork, Tensor]:
    """A random network, and images for it."""
    images = random_images(2, seed=seed)
    return lower(calibrate(random_network(seed), [images], scheme)), images


@cache
def rich(seed: int, scheme: Scheme = QUICK, *, spikes: bool = False) -> tuple[IntegerNetwork, Tensor]:
    """A random network of everything that a cfg may have, or that spikes; and images for it."""
    images = random_images(2, seed=seed)
    return lowered(rich_cfg(seed, spikes=spikes), images, scheme), images


def export(out: Path, network: IntegerNetwork, images: Tensor, **options: object) -> dict:
    """A folder with everything in it."""
    return export_network(out, network, images, HandOffOptions(name="test", **options))  # type: ignore[arg-type]
