"""Post-training quantisation: a float network and some images in, a QuantisedNetwork out. No labels, no training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.darknet.ops import facts
from utils.darknet.shapes import sizes
from utils.errors import InputError
from utils.quantization.activation_qparams import IMAGE_SCALE, edge_bits, image_scale, make_grids, trace_edges
from utils.quantization.equalise import equalise
from utils.quantization.executor import image_levels
from utils.quantization.histogram import collect_both
from utils.quantization.lower import QuantisedNetwork
from utils.quantization.ranges import choose_scales
from utils.quantization.refine import refine
from utils.quantization.scheme import Scheme
from utils.quantization.tables import charge_grids, tabled_layers
from utils.quantization.validate import check_supported


def calibrate(network: Network, batches: Iterable[Tensor], scheme: Scheme | None = None) -> QuantisedNetwork:
    """Choose every grid of a float network on calibration images.

    Args:
        network: float; batch norm is folded here when it is not yet, and every [se] and [transposed_convolutional] is
            written out.
        batches: images [N,C,H,W] of values n / 255, as inference will see them (not augmented); 64 are plenty.
        scheme: the choices; the default is 8-bit weights, 4-bit activations. Its ``layer_bits`` count layers as
            ``network`` does.

    Returns:
        The network without these. Its scheme's ``layer_bits`` count layers as its own spec does: what one was given is
        given to each of the sections that it became.

    Raises:
        InputError: the network has a layer without integer form, or there are no images, or images of different size
            where a global average needs to know it.
    """
    scheme = scheme or Scheme()
    folded = fold_bn(network)
    check_supported(folded.spec)
    folded, number = expand(folded)
    scheme, spec = renumber(scheme, number), folded.spec
    folded = for_image_scale(folded, scheme)
    images = list(batches)
    if not images:
        raise InputError("calibration: no images; give at least one batch of training images")
    counts = averaged_pixels(spec, images)
    edges = trace_edges(spec)
    bits = edge_bits(edges, scheme)
    values = [image_levels(x) * image_scale(scheme) for x in images]
    histograms, before = collect_both(folded, values, edges.producers, tabled_layers(spec))
    if scheme.equalise:
        folded, histograms = equalise(folded, edges, histograms, bits)
    grids = make_grids(spec, edges, choose_scales(edges, histograms, scheme), bits, even=scheme.sign_bit)
    return refine(folded, grids, images, scheme, charges=charge_grids(spec, before, scheme), counts=counts)


def renumber(scheme: Scheme, number: dict[int, int]) -> Scheme:
    """A scheme for the network that ``expand`` made; a layer that became several gives them all its bits."""
    found = []
    for i, w, a in scheme.layer_bits:
        if i not in number:
            raise InputError(f"--bits: layer {i} is not in the network, which has layers 0 to {max(number)}")
        found += [(new, w, a) for new in range(number[i - 1] + 1, number[i] + 1)]
    return replace(scheme, layer_bits=tuple(found))


def averaged_pixels(spec: s.ModelSpec, images: Sequence[Tensor]) -> dict[int, int]:
    """H * W of the map that each global average reads.

    Raises:
        InputError: the images differ in size.
    """
    pools = {i: layer.sources[0] for i, layer in enumerate(spec.layers) if isinstance(layer, s.AvgPool)}
    if not pools:
        return {}
    found = sorted({tuple(x.shape[2:]) for x in images})
    if len(found) > 1:
        (h, w), (other_h, other_w) = found[:2]
        raise InputError(
            f"calibration: images of {h}x{w} and of {other_h}x{other_w} px, but the global average of cfg line "
            f"{spec.layers[min(pools)].line} divides by one size; calibrate at the one that inference uses"
        )
    size = sizes(spec, *found[0])
    return {i: size[j][0] * size[j][1] for i, j in pools.items()}


def for_image_scale(folded: Network, scheme: Scheme) -> Network:
    """A folded network whose first weights take what the scheme's image scale is off 1/255 (powers of two only).

    Raises:
        InputError: the image reaches something else than convolutions and moves, where no weight can take it.
    """
    share = IMAGE_SCALE / image_scale(scheme)
    if share == 1:
        return folded
    edges, state, convs = trace_edges(folded.spec), dict(folded.state), folded.spec.convs
    for i, layer in enumerate(folded.spec.layers):
        if edges.group[-1] not in {edges.group.get(j) for j in layer.sources}:
            continue
        mixed = len(edges.members()[edges.group[-1]]) > 1
        if mixed or (i not in convs and facts(layer).computes):
            raise InputError(
                f"layer {i} (cfg line {layer.line}): joins the image with other layers, and 1/255 is no power of two; "
                "use google or dorefa"
            )
        if i in convs:
            key = f"layers.{i}.conv.weight"
            state[key] = (state[key].double() * share).to(state[key].dtype)
    return Network(folded.spec, state)
