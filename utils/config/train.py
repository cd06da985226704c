"""What a training run is told."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from utils import cli
from utils.cli import flag
from utils.config.bits import A_BIT, A_HELP, W_BIT, W_HELP
from utils.config.run import CFG, RunConfig, check_rank
from utils.config.typed import activations, processes, share, strategy, style
from utils.darknet.choices import GATES, TO_HAVE
from utils.darknet.neuron_spec import NEURONS, UNROUNDED
from utils.distillation.strategies import KNOWN
from utils.errors import InputError
from utils.quantization.scheme import Scheme

FINETUNE_LR = 0.1  # after a cut: half of the usual rate; warm-up and the average of the weights are on by default
STEPS_SHOWN = 4
TRIALS = 20
TRAINERS = ("bptt", "fptt")
AUTO, PRECISIONS = "auto", ("fp32", "bf16")
SCHEDULES = ("constant", "decay")
SERVICES = ("tensorboard", "wandb", "mlflow")
FLOAT = 32  # bits of a first stage: the floats that a run starts from
# What the commands of Fast-SNN (Hu et al., TPAMI 2023) say of its CIFAR networks: APoT, clips that learn, 0.04 for each
# stage of 4, 3 and 2 bits from the one before.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "fast-snn": {"quantized": "apot", "learn_scales": True, "progressive": (32, 4, 3, 2), "lr": 0.04, "sign_bit": True}
}
OFF = {"prune": -1, "quantized": ""}  # values of flags that say the same as leaving them away


@dataclass(frozen=True, kw_only=True)
class DenseConfig(RunConfig):
    """The flags of training as such, sparse training among them."""

    cfg: str | None = flag(None, f"the network's structure (default: {CFG}, or the one in --weights X.pt)")
    weights: str = flag("", "start from these: .weights, or a .pt of ours (default: from scratch)")
    pretrained: bool = flag(
        False, "take what fits of --weights; fresh heads where the classes differ", "-pt", "--pretrained"
    )
    epochs: int = flag(30, "times each image is seen", type=cli.positive)
    lr: float | None = flag(
        None,
        "learning rate (default: 0.2, with fresh heads 0.4, --hw-friendly 0.1, quantised 0.01; --adam: 1/100)",
        type=cli.above_zero,
    )
    adam: bool = flag(False, "AdamW instead of SGD with Nesterov momentum")
    ema: bool = flag(True, "measure and save the weights' average", action=argparse.BooleanOptionalAction)
    sync_bn: bool = flag(False, "under torchrun: batch norm over the images of all processes")
    local_rank: int = flag(
        -1, "what older launchers add; torchrun says it otherwise", "--local_rank", "--local-rank", type=int
    )
    processes: str | None = flag(
        None,
        "train in so many processes of this machine, instead of threads; auto: what a second's measurement says",
        type=processes,
        metavar="auto|N",
    )
    precision: str = flag(
        AUTO,
        "of forward and backward; auto: bf16 where a second's measurement finds it faster, fp16 on older GPUs",
        choices=[AUTO, *PRECISIONS],
    )
    rank_timeout: int = flag(
        60, "under torchrun: seconds without an answer after which a process counts as hung", type=cli.positive
    )
    multi_scale: bool = flag(
        False, "another image size each batch: from 2/3 to 3/2 of the usual, or from --img-size MIN MAX [TEST]"
    )
    mosaic: float | None = flag(
        None, "share of samples made of four images (default: as --data says, or 1)", type=share
    )
    mixup: float = flag(
        0.0, "classes: mix two images, by shares of Beta(ALPHA, ALPHA)", type=cli.non_negative, metavar="ALPHA"
    )
    cutmix: float = flag(
        0.0, "classes: put a part of one image into another, by such shares", type=cli.non_negative, metavar="ALPHA"
    )
    label_smoothing: float | None = flag(
        None, "classes: share of the labels that all classes have (default: the cfg's, or 0)", type=cli.fraction
    )
    rect: bool = flag(False, "batches of images of similar aspect, without mosaic")
    loader: str = flag(
        "torch", "what makes training images: torch's workers, or NVIDIA DALI (classes)", choices=["torch", "dali"]
    )
    sparse: bool = flag(False, "push the gammas that pruning can cut towards zero", "-sr", "--sparse")
    s: float = flag(0.001, "strength of that push, an optimizer step", type=cli.non_negative)
    prune: int = flag(0, "for 0 normal/regular, 1 shortcut/slim, 2 layer; -1: no -sr", type=int, choices=[-1, 0, 1, 2])
    s_schedule: str = flag("constant", "decay: s / 100 from half way on", choices=SCHEDULES)
    val_interval: int | None = flag(None, "epochs between validations (default: by set sizes)", type=cli.positive)
    patience: int | None = flag(
        None, "end where so many epochs brought nothing better (default: all epochs)", type=cli.positive
    )
    notest: bool = flag(False, "validate after the last epoch only")
    nosave: bool = flag(False, "save after the last epoch only")
    darknet: bool = flag(False, "with every best and last also .weights and .cfg beside the .pt, as Darknet has them")
    log: tuple[str, ...] | None = flag(
        None,
        "also tell these of every epoch; each needs its package (default: none)",
        nargs="+",
        choices=SERVICES,
        metavar="|".join(SERVICES),
    )
    tensorboard: bool = flag(False, "the same as --log tensorboard")
    act: str | None = flag(
        None,
        f"put {', '.join(TO_HAVE)} in place of the hidden layers' activations, or of some: relu=mish,swish; h_swish "
        f"and {GATES} only where they are named",
        type=activations,
        metavar="TO[=FROM,...]",
    )
    resume: str | None = flag(None, "go on with a last*.pt (default: the newest cut one)", nargs="?", const="newest")

    @property
    def loggers(self) -> tuple[str, ...]:
        """The services that are told, each once."""
        return tuple(dict.fromkeys([*(self.log or ()), *(["tensorboard"] if self.tensorboard else [])]))

    @classmethod
    def from_given(cls, given: Mapping[str, Any], usual: Mapping[str, Any]) -> Self:
        """Without what says no more than leaving it away: --prune -1, --quantized -1, a launcher's --local_rank."""
        if given.get("prune") == OFF["prune"] and given.get("sparse"):
            raise InputError("-sr and --prune -1: this one is for no sparse training; leave one of them away")
        check_rank(given.get("local_rank", -1))
        off = {"local_rank", *(name for name, value in OFF.items() if given.get(name) == value)}
        return super().from_given({name: value for name, value in given.items() if name not in off}, usual)

    @property
    def sides(self) -> tuple[int, int] | None:
        """Least and largest side, px, that ``--multi-scale --img-size MIN MAX`` trains on; None: not given so."""
        said = self.img_size or ()
        return (said[0], said[1]) if self.multi_scale and len(said) > 1 else None

    @property
    def size_asked(self) -> tuple[int, ...] | None:
        """One side or (height, width), px; behind MIN and MAX the one that is measured at, or else MAX."""
        return self.img_size[-1:] if self.img_size and self.sides else self.img_size

    def check_values(self) -> None:
        """MIN and MAX in this order, and no fourth."""
        super().check_values()
        if self.sides and (len(self.img_size or ()) > 3 or self.sides[0] > self.sides[1]):
            said = " ".join(map(str, self.img_size or ()))
            raise InputError(f"--img-size {said}: with --multi-scale give MIN MAX or MIN MAX TEST, the least first")


@dataclass(frozen=True, kw_only=True)
class QuantisedConfig(DenseConfig):
    """The flags of quantised training."""

    quantized: str | None = flag(None, "train for integers: google (1), dorefa (2), pow2 or apot", type=style)
    fpga: bool = flag(False, "scales that are powers of two; the same as --quantized pow2", "--FPGA")
    bn_fold: bool = flag(False, "quantise folded weights (pow2: always)", "--BN_Fold", "--BN_Flod")
    w_bit: int | None = flag(None, f"{W_HELP} (default: {W_BIT})", type=int)
    a_bit: int | None = flag(None, f"{A_HELP} (default: {A_BIT})", type=int)
    bits_map: str = flag("", "a file of lines 'layer w a' (# comments): layers with bits of their own")
    learn_scales: bool = flag(False, "scales are learned (LSQ), instead of following the ranges")
    range_scale: float = flag(1.0, "ranges so many times as wide: above 1 fewer, coarser levels", type=float)
    no_equalise: bool = flag(False, "do not even channels out first: small ones get few levels, and spikes fewer")
    sign_bit: bool = flag(
        False,
        "levels of either sign have a bit more, for the sign: as many steps, twice as fine",
        action=argparse.BooleanOptionalAction,
    )
    acc_bits: int | None = flag(None, "accumulator width that the weights are made to fit, 12 to 32", type=int)
    sparsify: float = flag(
        0.0,
        "push levels, which become spikes, down: adds LAMBDA times their mean share of the highest (default: 0)",
        type=cli.non_negative,
        metavar="LAMBDA",
    )
    progressive: tuple[int, ...] | None = flag(
        None,
        "in stages of these bits (default: 8 4 3 2) down to --w-bit and --a-bit (here by default the last "
        "stage's), each from the network of the last; --epochs are shared among them",
        type=int,
        nargs="*",
        metavar="BITS",
    )

    recipe: str | None = flag(
        None, "fast-snn: apot with learned clips, in stages of 32 4 3 2 bits, at its rate", choices=[*RECIPES]
    )

    @classmethod
    def from_given(cls, given: Mapping[str, Any], usual: Mapping[str, Any]) -> Self:
        """As everybody's; a recipe says what nobody says otherwise."""
        return super().from_given({**RECIPES.get(str(given.get("recipe")), {}), **given}, usual)

    def check_values(self) -> None:
        """Bits and ranges that no scheme has; a file of bits and the stages say theirs later."""
        if self.progressive and self.progressive[0] == FLOAT and not self.weights and not self.resume:
            raise InputError("--progressive 32: floats come first; train them, then give them with --weights")
        super().check_values()
        bits = {name: getattr(self, name) for name in ("w_bit", "a_bit") if getattr(self, name) is not None}
        Scheme(acc_bits=self.acc_bits, range_scale=self.range_scale, **bits)

    @property
    def wanted_style(self) -> str | None:
        """The style of quantised training; None where floats are trained."""
        return "pow2" if self.fpga else self.quantized


@dataclass(frozen=True, kw_only=True)
class SpikingConfig(QuantisedConfig):
    """The flags of networks that are trained as spikes."""

    spiking: str | None = flag(None, "put this neuron in place of hidden activations", choices=NEURONS)
    timesteps: int | None = flag(
        None, f"steps an image is shown with --spiking (default: {STEPS_SHOWN}, of ilif 1)", type=cli.positive
    )
    levels: int | None = flag(None, "most spikes of an ilif in a step of training (default: 4)", type=cli.positive)
    round_from: float | None = flag(
        None,
        "share of the epochs before an ilif rounds, or a lif fires "
        f"(default: {UNROUNDED['ilif']} and {UNROUNDED['lif']}, with --weights 0)",
        type=cli.fraction,
    )
    signed: bool = flag(False, "neurons of lif and plif send -1, too, below their threshold's negative")
    at_rest: bool = flag(False, "membranes of lif start at 0, as NIR and integers need it, not at half a threshold")
    hw_friendly: bool = flag(
        False, "for integers and shifts alone: 8-bit weights; decays and thresholds must be such (1/4, 7/8; 0.5)"
    )
    trainer: str = flag(
        "bptt", "through all steps at once, or forward in time, a step of the optimizer a segment", choices=TRAINERS
    )
    fptt_k: int | None = flag(None, "segments of a batch (default: one a step in time)", type=cli.positive)
    fptt_alpha: float = flag(0.1, "pull of the weights towards their average", type=cli.above_zero)
    fptt_beta: float = flag(0.5, "share of the new weights in that average", type=cli.share_above_zero)

    @property
    def steps(self) -> int:
        """Steps in time of ``spiking``, T."""
        return self.timesteps or (1 if self.spiking == "ilif" else STEPS_SHOWN)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(SpikingConfig):
    """All flags of train.py; those of a teacher last."""

    t_weights: str = flag(
        "",
        "a teacher: a .pt of ours, or .weights (default: what --weights was pruned from)",
        "--t_weights",
        "--t-weights",
    )
    t_cfg: str | None = flag(None, "the teacher's structure, where --t_weights does not carry it", "--t_cfg", "--t-cfg")
    kd: str = flag("", f"what it teaches: {KNOWN}; 3+cwd: both", "--KDstr", "--kd", type=strategy)
    kd_weight: float = flag(1.0, "of all that the teacher says, beside the labels", type=cli.non_negative)
    evolve: int | None = flag(
        None,
        f"search over the settings that are not said, in so many trainings (default of N: {TRIALS}); needs Optuna",
        nargs="?",
        const=TRIALS,
        type=cli.positive,
        metavar="N",
    )
    t_data: str = flag(
        "", "more images without labels, a list or a folder, for the teacher alone", "--t_data", "--t-data"
    )


def training_scheme(config: TrainConfig) -> Scheme | None:
    """The scheme that the config asks for; None where it asks for floats.

    Raises:
        InputError: bits that do not exist.
    """
    from utils.quantization.bits import read_bits_map  # here, since --help needs no torch
    from utils.quantization.stages import wanted_bits

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
        sign_bit=config.sign_bit,
        acc_bits=config.acc_bits,
    )
