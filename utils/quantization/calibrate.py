"""Post-training quantisation: a float network and some images in, a QuantisedNetwork out. No labels, no training."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.errors import InputError
from utils.quantization.edges import make_grids, trace_edges
from utils.quantization.histogram import collect
from utils.quantization.lower import QuantisedNetwork, weight_bits
from utils.quantization.ranges import choose_scales
from utils.quantization.scheme import Scheme
from utils.quantization.support import check_supported
from utils.quantization.weights import weight_scales


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
    images = list(batches)
    if not images:
        raise InputError("calibration: no images; give at least one batch of training images")
    edges = trace_edges(spec)
    histograms = collect(folded, images, edges.producers)
    grids = make_grids(spec, edges, choose_scales(edges, histograms, scheme), scheme.a_bit)
    scales = {}
    for i, layer in enumerate(spec.layers):
        if isinstance(layer, s.Conv):
            weight, bias = folded.state[f"layers.{i}.conv.weight"], folded.state[f"layers.{i}.conv.bias"]
            source = grids[layer.sources[0]].scale
            scales[i] = weight_scales(weight, bias, source, weight_bits(spec, i, scheme))
    return QuantisedNetwork(folded, scheme, grids, scales)
