"""Post-training quantisation: a float network and some images in, a QuantisedNetwork out. No labels, no training."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.errors import InputError
from utils.quantization.edges import IMAGE_SCALE, edge_bits, image_scale, make_grids, trace_edges
from utils.quantization.equalise import equalise
from utils.quantization.executor import image_levels
from utils.quantization.histogram import collect
from utils.quantization.lower import QuantisedNetwork
from utils.quantization.ranges import choose_scales
from utils.quantization.refine import refine
from utils.quantization.scheme import Scheme
from utils.quantization.support import check_supported


def calibrate(network: Network, batches: Iterable[Tensor], scheme: Scheme | None = None) -> QuantisedNetwork:
    """Choose every grid of a float network on calibration images.

    Args:
        network: float; batch norm is folded here when it is not yet.
        batches: images [N,C,H,W] of values n / 255, as inference will see them (not augmented); 64 are plenty.
        scheme: the choices; the default is 8-bit weights, 4-bit activations.

    Raises:
        InputError: the network has a layer without integer form, or there are no images.
    """
    scheme = scheme or Scheme()
    folded = fold_bn(network)
    spec = folded.spec
    check_supported(spec)
    folded = for_image_scale(folded, scheme)
    images = list(batches)
    if not images:
        raise InputError("calibration: no images; give at least one batch of training images")
    edges = trace_edges(spec)
    bits = edge_bits(edges, scheme)
    values = [image_levels(x) * image_scale(scheme) for x in images]
    histograms = collect(folded, values, edges.producers)
    if scheme.equalise:
        folded, histograms = equalise(folded, edges, histograms, bits)
    grids = make_grids(spec, edges, choose_scales(edges, histograms, scheme), bits)
    return refine(folded, grids, images, scheme)


def for_image_scale(folded: Network, scheme: Scheme) -> Network:
    """A folded network whose first weights take what the scheme's image scale is off 1/255 (powers of two only).

    Raises:
        InputError: the image reaches something else than convolutions and moves, where no weight can take it.
    """
    share = IMAGE_SCALE / image_scale(scheme)
    if share == 1:
        return folded
    edges, state = trace_edges(folded.spec), dict(folded.state)
    for i, layer in enumerate(folded.spec.layers):
        if edges.group[-1] not in {edges.group.get(j) for j in layer.sources}:
            continue
        if isinstance(layer, s.Shortcut) or len(edges.members()[edges.group[-1]]) > 1:
            raise InputError(
                f"layer {i} (cfg line {layer.line}): joins the image with other layers, and 1/255 is no power of two; "
                "use google or dorefa"
            )
        if isinstance(layer, s.Conv):
            key = f"layers.{i}.conv.weight"
            state[key] = (state[key].double() * share).to(state[key].dtype)
    return Network(folded.spec, state)
