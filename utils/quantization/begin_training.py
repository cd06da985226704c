"""Where a quantised training starts: on ranges that are calibrated, or on the scales that a checkpoint has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from torch import Tensor

from utils.darknet.network import Checkpoint, Network
from utils.quantization.bits import check_layers
from utils.quantization.fake import FakeQuantised
from utils.quantization.prepare import prepare, resume, thawed
from utils.quantization.qat_checkpoint import observed_in
from utils.quantization.scheme import Scheme

log = logging.getLogger(__name__)

Images = Callable[[Network], Iterable[Tensor]]  # batches [N,C,H,W] in 0..1 to calibrate a network on


def begin_training(
    network: Network,
    scheme: Scheme,
    images: Images,
    given: Checkpoint | None,
    *,
    fold: bool,
    learn: bool,
    bits_map: str = "",
    cut: bool = False,
) -> FakeQuantised:
    """The network as it trains quantised.

    Args:
        network: where it starts, float.
        scheme: bits and style.
        images: of the training set.
        given: what ``network`` was read from; scales of the same scheme in it are gone on with.
        fold: quantise weights with batch norm in them, as pow2 always does.
        learn: scales are parameters.
        bits_map: the file that the scheme has bits of single layers from.
        cut: a run goes on that was cut, whatever its scheme.

    Raises:
        InputError: bits for a layer that has none, or a layer without integer form.
    """
    if not cut:
        check_layers(scheme.layer_bits, network.spec, bits_map or "--bits-map")
    if scheme.style == "pow2" and not fold:
        log.info("pow2: batch norm is folded (--BN_Fold), since a power of two can not take its gain")
    fold = fold or scheme.style == "pow2"
    known = observed_in(given) if given else None
    if known and (cut or (known.scheme, known.fold, known.learn) == (scheme, fold, learn)):
        log.info("%s, %s: goes on with the scales of the checkpoint", scheme.style, scheme.bits)
        state = thawed(known.state)  # --resume puts back what was frozen
        return resume(network, state, known.scheme, counts=known.counts, fold=fold, learn=learn)
    batches = list(images(network))
    model = prepare(network, batches, scheme, fold=fold, learn=learn)
    log.info("%s, %s: ranges calibrated on %d training images", scheme.style, scheme.bits, sum(map(len, batches)))
    return model


def lowered(model: FakeQuantised, scheme: Scheme, images: Images) -> FakeQuantised:
    """A trained quantised network at fewer bits: the same weights, on grids that they ask for now.

    Args:
        model: as the last stage left it.
        scheme: the model's with other bits; its layers are counted as the model counts them.
        images: of the training set.
    """
    network = model.float_network()
    return prepare(network, images(network), scheme, fold=model.fold, learn=model.learn, trained=True)
