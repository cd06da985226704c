"""Post-training quantisation: a float network and some images in, a QuantisedNetwork out. No labels, no training."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.errors import InputError
from utils.quantization.edges import make_grids, trace_edges
from utils.quantization.equalise import equalise
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
    images = list(batches)
    if not images:
        raise InputError("calibration: no images; give at least one batch of training images")
    edges = trace_edges(spec)
    histograms = collect(folded, images, edges.producers)
    if scheme.equalise:
        folded, histograms = equalise(folded, edges, histograms, scheme.a_bit)
    grids = make_grids(spec, edges, choose_scales(edges, histograms, scheme), scheme.a_bit)
    return refine(folded, grids, images, scheme)
