"""Quantised training: --quantized and what goes with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import Darknet, network_of
from pipeline.session import dataset_of
from utils.config.bits import A_BIT, W_BIT
from utils.config.train import TrainConfig
from utils.darknet.network import Checkpoint, Network, load_checkpoint
from utils.data.loader import make_loader
from utils.data.manifest import Manifest
from utils.quantization.bits import check_layers, read_bits_map
from utils.quantization.fake import FakeQuantised
from utils.quantization.prepare import prepare, resume, thawed
from utils.quantization.qat_checkpoint import observed_in, to_trained
from utils.quantization.scheme import Scheme
from utils.quantization.stages import wanted_bits
from utils.task import Task

log = logging.getLogger(__name__)

LR = 0.01  # a twentieth of the usual: at 0.05 four bits lost a point more, seed 0, four epochs
CALIBRATION, BATCH = 128, 16  # training images that ranges start from

Model = Darknet | FakeQuantised


def scheme_of(config: TrainConfig) -> Scheme | None:
    """The scheme that the config asks for; None where it asks for floats.

    Raises:
        InputError: bits that do not exist.
    """
    style = config.wanted_style
    if not style:
        return None
    w_bit, a_bit = wanted_bits(config.w_bit, config.a_bit, config.progressive, usual=(W_BIT, A_BIT))
    return Scheme(
        style=style,
        w_bit=w_bit,
        a_bit=a_bit,
        layer_bits=read_bits_map(config.bits_map) if config.bits_map else (),
        range_scale=config.range_scale,
        equalise=not (config.sparse or config.no_equalise),  # it moves gammas, which -sr pushes: those stay
        correct_bias=False,  # training does that
        acc_bits=config.acc_bits,
    )


def model_of(
    config: TrainConfig,
    task: Task,
    network: Network,
    scheme: Scheme,
    manifest: Manifest,
    size: tuple[int, int],
    given: Checkpoint | None,
) -> FakeQuantised:
    """The network as it trains quantised.

    Args:
        config: of the run.
        task: of the network.
        network: where it starts, float.
        scheme: of `scheme_of`.
        manifest: whose training images it is calibrated on.
        size: (height, width) of the images, px.
        given: what ``network`` was read from; scales of the same scheme in it are gone on with.
    """
    if not config.resume:
        check_layers(scheme.layer_bits, network.spec, config.bits_map or "--bits-map")
    learn, fold = config.learn_scales, config.bn_fold or scheme.style == "pow2"
    if fold and not config.bn_fold:
        log.info("pow2: batch norm is folded (--BN_Fold), since a power of two can not take its gain")
    known = observed_in(given) if given else None
    if known and (config.resume or (known.scheme, known.fold, known.learn) == (scheme, fold, learn)):
        log.info("%s, %s: goes on with the scales of the checkpoint", scheme.style, bits_of(scheme))
        state = thawed(known.state)  # --resume puts back what was frozen
        return resume(network, state, known.scheme, counts=known.counts, fold=fold, learn=learn)
    images = calibration_images(config, task, manifest, network, size)
    model = prepare(network, images, scheme, fold=fold, learn=learn)
    log.info("%s, %s: ranges calibrated on %d training images", scheme.style, bits_of(scheme), CALIBRATION)
    return model


def lowered(
    config: TrainConfig,
    task: Task,
    model: FakeQuantised,
    scheme: Scheme,
    manifest: Manifest,
    size: tuple[int, int],
) -> FakeQuantised:
    """A trained quantised network at fewer bits: the same weights, on grids that they ask for now.

    Args:
        config: of the run.
        task: of the network.
        model: as the last stage left it.
        scheme: the model's with other bits; its layers are counted as the model counts them.
        manifest: whose training images it is calibrated on.
        size: (height, width) of the images, px.
    """
    network = model.float_network()
    images = calibration_images(config, task, manifest, network, size)
    return prepare(network, images, scheme, fold=model.fold, learn=model.learn, trained=True)


def calibration_images(
    config: TrainConfig, task: Task, manifest: Manifest, network: Network, size: tuple[int, int]
) -> list[Tensor]:
    """The first training images of a seeded order as inference sees them, batches [N,C,H,W] in 0..1."""
    dataset = dataset_of(config, task, manifest, network.spec, size, cache="off")
    loader = make_loader(dataset, min(BATCH, len(dataset)), workers=0, shuffle=True, seed=config.seed)
    batches: list[Tensor] = []
    for batch in loader:
        batches.append(task.inputs(batch, torch.device("cpu")))
        if len(batches) * BATCH >= CALIBRATION:
            break
    return batches


def bits_of(scheme: Scheme) -> str:
    """The bits in words."""
    own = f", {len(scheme.layer_bits)} layers with bits of their own" if scheme.layer_bits else ""
    return f"{scheme.w_bit}-bit weights, {scheme.a_bit}-bit activations{own}"


def float_network(model: Model) -> Network:
    """The float tensors of a model of either kind."""
    return model.float_network() if isinstance(model, FakeQuantised) else network_of(model)


def checkpoint_of(
    model: Model, names: tuple[str, ...], *, training: dict[str, Any], meta: dict[str, Any]
) -> Checkpoint:
    """What a run saves: a float network, or a quantised one with its integers."""
    if isinstance(model, FakeQuantised):
        return to_trained(model, names, training=training, meta=meta)
    return Checkpoint(network_of(model), names, training=training, meta=meta)


def start_checkpoint(config: TrainConfig, saved: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint a run starts or goes on from, if it is one of ours."""
    if saved is None and config.weights.endswith(".pt"):
        return load_checkpoint(Path(config.weights))
    return saved
