"""Quantised training from the flags: --quantized and what goes with it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models import Darknet, network_of
from pipeline.session import dataset_of
from pipeline.training.stages import wanted_bits
from utils import cli
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.data.loader import make_loader
from utils.data.manifest import Manifest
from utils.errors import InputError
from utils.quantization.bits import check_layers, read_bits_map
from utils.quantization.fake import FakeQuantised
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.prepare import prepare, resume, thawed
from utils.quantization.qat_checkpoint import observed_in, to_trained
from utils.quantization.scheme import STYLES, Scheme
from utils.reporting.files import free_path

log = logging.getLogger(__name__)

NUMBERED = {"1": "google", "2": "dorefa"}  # as the reference counts them
LR = 0.01  # a twentieth of the usual: at 0.05 four bits lost a point more, seed 0, four epochs
CALIBRATION, BATCH = 128, 16  # training images that ranges start from
BITS = 8  # of weights and activations, when the flags do not say

Model = Darknet | FakeQuantised
Loss = Callable[[Any, Any], Mapping[str, Tensor]]


def quantised_flags(flags: cli.Parser) -> None:
    """The flags of quantised training."""
    add: Any = flags.add_argument
    on = {"action": "store_true"}
    add("--quantized", type=style, default=None, help="train for integers: google (1), dorefa (2) or pow2")
    add("--FPGA", dest="fpga", **on, help="scales that are powers of two; the same as --quantized pow2")
    add("--BN_Fold", "--BN_Flod", dest="bn_fold", **on, help="quantise folded weights (pow2: always)")
    add(
        "--w-bit",
        type=int,
        default=None,
        help=f"bits of the weights, 2 to 8 or 16; outer and depthwise layers have 8 at least (default: {BITS})",
    )
    add("--a-bit", type=int, default=None, help=f"bits of the activations, 2 to 8 or 16 (default: {BITS})")
    add("--bits-map", default="", help="a file of lines 'layer w a' (# comments): layers with bits of their own")
    add("--learn-scales", **on, help="scales are learned (LSQ), instead of following the ranges")
    add("--range-scale", type=float, default=1.0, help="ranges so many times as wide: above 1 fewer, coarser levels")
    add("--no-equalise", **on, help="do not even channels out first: small ones get few levels, and spikes fewer")
    add("--acc-bits", type=int, default=None, help="accumulator width that the weights are made to fit, 12 to 32")
    add(
        "--sparsify",
        type=cli.non_negative,
        default=0.0,
        metavar="LAMBDA",
        help="push levels, which become spikes, down: adds LAMBDA times their mean share of the highest (default: 0)",
    )
    add(
        "--progressive",
        type=int,
        nargs="*",
        default=None,
        metavar="BITS",
        help="in stages of these bits (default: 8 4 3 2) down to --w-bit and --a-bit (here by default the last "
        "stage's), each from the network of the last; --epochs are shared among them",
    )


def style(text: str) -> str:
    """A style of --quantized, by name or the reference's number."""
    name = NUMBERED.get(text, text)
    if name not in STYLES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(STYLES)}, 1 or 2, got {text}")
    return name


def scheme_of(args: argparse.Namespace) -> Scheme | None:
    """The scheme that the flags ask for; None where they ask for floats.

    Raises:
        InputError: bits that do not exist, or flags of quantisation without one.
    """
    asked = "pow2" if args.fpga else args.quantized
    if not asked:
        given = {"--w-bit": "w_bit", "--a-bit": "a_bit", "--bits-map": "bits_map"}
        given |= {"--BN_Fold": "bn_fold", "--learn-scales": "learn_scales", "--progressive": "progressive"}
        given |= {"--sparsify": "sparsify", "--acc-bits": "acc_bits", "--no-equalise": "no_equalise"}
        lost = [flag for flag, name in given.items() if getattr(args, name) not in (None, False, "")]
        lost += ["--range-scale"] if args.range_scale != 1 else []
        if lost:
            raise InputError(f"{lost[0]}: only quantised training has that; add --quantized google, dorefa or pow2")
        return None
    bits = read_bits_map(args.bits_map) if args.bits_map else ()
    w_bit, a_bit = wanted_bits(args, BITS)
    return Scheme(
        style=asked,
        w_bit=w_bit,
        a_bit=a_bit,
        layer_bits=bits,
        range_scale=args.range_scale,
        equalise=not (args.sparse or args.no_equalise),  # it moves gammas, which -sr pushes: those stay as they are
        correct_bias=False,  # training does that
        acc_bits=args.acc_bits,
    )


def model_of(
    args: argparse.Namespace,
    network: Network,
    scheme: Scheme,
    manifest: Manifest,
    size: tuple[int, int],
    given: Checkpoint | None,
) -> FakeQuantised:
    """The network as it trains quantised.

    Args:
        args: the flags.
        network: where it starts, float.
        scheme: of `scheme_of`.
        manifest: whose training images it is calibrated on.
        size: (height, width) of the images, px.
        given: what ``network`` was read from; scales of the same scheme in it are gone on with.
    """
    if not args.resume:
        check_layers(scheme.layer_bits, network.spec, args.bits_map or "--bits-map")
    learn, fold = args.learn_scales, args.bn_fold or scheme.style == "pow2"
    if fold and not args.bn_fold:
        log.info("pow2: batch norm is folded (--BN_Fold), since a power of two can not take its gain")
    known = observed_in(given) if given else None
    if known and (args.resume or (known.scheme, known.fold, known.learn) == (scheme, fold, learn)):
        log.info("%s, %s: goes on with the scales of the checkpoint", scheme.style, bits_of(scheme))
        state = thawed(known.state)  # --resume puts back what was frozen
        return resume(network, state, known.scheme, counts=known.counts, fold=fold, learn=learn)
    model = prepare(network, calibration_images(args, manifest, network, size), scheme, fold=fold, learn=learn)
    log.info("%s, %s: ranges calibrated on %d training images", scheme.style, bits_of(scheme), CALIBRATION)
    return model


def lowered(
    args: argparse.Namespace, model: FakeQuantised, scheme: Scheme, manifest: Manifest, size: tuple[int, int]
) -> FakeQuantised:
    """A trained quantised network at fewer bits: the same weights, on grids that they ask for now.

    Args:
        args: the flags.
        model: as the last stage left it.
        scheme: the model's with other bits; its layers are counted as the model counts them.
        manifest: whose training images it is calibrated on.
        size: (height, width) of the images, px.
    """
    network = model.float_network()
    images = calibration_images(args, manifest, network, size)
    return prepare(network, images, scheme, fold=model.fold, learn=model.learn, trained=True)


def calibration_images(
    args: argparse.Namespace, manifest: Manifest, network: Network, size: tuple[int, int]
) -> list[Tensor]:
    """The first training images of a seeded order as inference sees them, batches [N,C,H,W] in 0..1."""
    dataset = dataset_of(args, manifest, network.spec, size, manifest.train, cache="off")
    loader = make_loader(dataset, min(BATCH, len(dataset)), workers=0, shuffle=True, seed=args.seed)
    batches: list[Tensor] = []
    for batch in loader:
        batches.append(batch.images.float() / 255)
        if len(batches) * BATCH >= CALIBRATION:
            break
    return batches


def bits_of(scheme: Scheme) -> str:
    """The bits in words."""
    own = f", {len(scheme.layer_bits)} layers with bits of their own" if scheme.layer_bits else ""
    return f"{scheme.w_bit}-bit weights, {scheme.a_bit}-bit activations{own}"


def timed(model: nn.Module, penalty: Callable[[int], None] | None, steps: int) -> Callable[[int], None] | None:
    """The penalty of each step; before it, a quantised model is told how far the run is."""
    if not isinstance(model, FakeQuantised):
        return penalty

    def each(step: int) -> None:
        model.at((step + 1) / steps)
        if penalty:
            penalty(step)

    return each


def sparing(loss: Loss, model: Model, strength: float) -> Loss:
    """The loss with ``strength`` times the mean level of the model's pass beside it, as the term "levels"."""
    if not strength:
        return loss
    assert isinstance(model, FakeQuantised)
    model.counting = True

    def both(raw: Any, batch: Any) -> Mapping[str, Tensor]:
        terms, pushed = loss(raw, batch), strength * model.mean_level()
        return {**terms, "levels": pushed, "total": terms["total"] + pushed}

    return both


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


def save_integers(
    model: Model, last: Path, names: tuple[str, ...], meta: dict[str, Any], *, again: bool = False
) -> list[Path]:
    """``last_X.int.pt`` beside ``last_X.pt`` of a quantised run: the packed integers and nothing else.

    ``again``: a file of that name is a cut run's own.
    """
    if not isinstance(model, FakeQuantised):
        return []
    path = last.with_suffix(".int.pt") if again else free_path(last.with_suffix(".int.pt"))
    made = to_checkpoint(model.executor().network, "quantised", names, {"from": str(last), **meta})
    return [save_checkpoint(path, made)]


def given_checkpoint(args: argparse.Namespace, saved: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint a run starts or goes on from, if it is one of ours."""
    if saved is None and args.weights.endswith(".pt"):
        return load_checkpoint(args.weights)
    return saved
