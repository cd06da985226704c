"""What the prune scripts are told."""

from __future__ import annotations

from dataclasses import dataclass

from utils import cli
from utils.cli import flag
from utils.config.export import part
from utils.config.run import NetworkConfig
from utils.errors import InputError
from utils.export.engine.target import part_names
from utils.pruning.choices import SCORES, Beta, By
from utils.pruning.strategy import Strategy

AUTO = "auto"


def percent_or_auto(text: str) -> float | str:
    """A share with 0 <= x < 1, or the word auto."""
    return AUTO if text == AUTO else cli.fraction(text)


@dataclass(frozen=True, kw_only=True)
class PruneConfig(NetworkConfig):
    """The flags that all have."""

    weights: str = flag("", "what to prune (default: the newest train.py -sr)")
    score: str = flag("gamma", "what a channel or a block is judged by", choices=SCORES)
    recalibrate: int = flag(10, "batches of 64 training images that measure BN anew, or 0", type=cli.whole)
    force: bool = flag(False, "prune what the gammas say will not survive")
    explain: bool = flag(False, "print which channels belong together, and why some stay")
    finetune: int = flag(0, "train what is left for N epochs, at a low rate", type=cli.whole, metavar="N")
    target_cycles: float | None = flag(
        None, "prune until a frame takes so many predicted clocks of the engine (up to 1: a share)", type=cli.above_zero
    )
    target: str = flag(
        "",
        f"what the engine is on: {', '.join(part_names())}, or FILE.json (default: generic); "
        "channels are rounded to its words where they are rounded",
        type=part,
    )
    iterative: int = flag(1, "cut in K steps, each fine-tuned (--finetune)", type=cli.positive, metavar="K")


@dataclass(frozen=True, kw_only=True)
class ChannelConfig(PruneConfig):
    """The flags of the five that cut channels."""

    percent: float | str = flag(0.8, "share of the channels under the threshold, or auto", type=percent_or_auto)
    max_drop: float = flag(0.01, "of mAP@.5 on training images: what --percent auto may cost", type=cli.fraction)
    target_macs: float | None = flag(
        None, "prune until so many MACs are left (up to 1: a share)", type=cli.non_negative
    )
    target_params: float | None = flag(None, "likewise for parameters", type=cli.non_negative)
    search: int = flag(0, "EagleEye: the best of N random sets of layer rates", type=cli.whole, metavar="N")
    delta: float = flag(0.02, "how far a candidate's share of MACs may be from --target-macs", type=cli.fraction)
    scope: str = flag("all", "layers on offer: all, backbone, neck, or numbers such as 5-20,33")
    beta: str = flag("carrier", "who takes over what cut channels sent", choices=[each.value for each in Beta])
    sensitivity: bool = flag(False, "cut nothing; measure each layer alone at several percents")


@dataclass(frozen=True, kw_only=True)
class RegularConfig(ChannelConfig):
    """regular_prune.py: rounded up to a multiple."""

    multiple: int = flag(8, "channels of a layer are rounded up to it", type=cli.positive)


@dataclass(frozen=True, kw_only=True)
class SlimConfig(ChannelConfig):
    """slim_prune.py: a share of every layer stays."""

    layer_keep: float = flag(
        0.1, "smallest share of its channels a layer keeps", "--layer-keep", "--layer_keep", type=cli.fraction
    )


@dataclass(frozen=True, kw_only=True)
class BlocksConfig(PruneConfig):
    """layer_prune.py: residual blocks go."""

    shortcuts: int = flag(1, "residual blocks to take out", "--shortcuts", "--shortcut", type=cli.whole)
    by: str = flag(
        "score",
        "blocks of the lowest score, or of the smallest share in their sum",
        choices=[each.name.lower() for each in By],
    )


@dataclass(frozen=True, kw_only=True)
class LayerConfig(BlocksConfig):
    """layer_prune.py: blocks alone."""


@dataclass(frozen=True, kw_only=True)
class LayerChannelConfig(BlocksConfig, SlimConfig):
    """layer_channel_prune.py: slim, then blocks."""


@dataclass(frozen=True, kw_only=True)
class LayerChannelRegularConfig(BlocksConfig, RegularConfig):
    """layer_channel_regular_prune.py: rounded up to a multiple, then blocks."""


@dataclass(frozen=True)
class PruneFlags:
    """The flags of one of them: their config, and the default of ``--percent``, None where nothing is a share."""

    config: type[PruneConfig]
    percent: float | None

    def parser(self, doc: str | None) -> cli.Parser[PruneConfig]:
        """The command line; ``doc`` is the help's text, with real commands."""
        return cli.parser(doc or "", self.config, percent=self.percent)


FLAGS = {
    "normal": PruneFlags(ChannelConfig, 0.5),
    "regular": PruneFlags(RegularConfig, 0.5),
    "shortcut": PruneFlags(ChannelConfig, 0.6),
    "slim": PruneFlags(SlimConfig, 0.8),
    "layer": PruneFlags(LayerConfig, None),
    "layer_channel": PruneFlags(LayerChannelConfig, 0.6),
    "layer_channel_regular": PruneFlags(LayerChannelRegularConfig, 0.6),
}


def check_steps(config: PruneConfig, strategy: Strategy) -> None:
    """Refuse an ``--iterative`` that does not add up.

    Raises:
        InputError: nothing trains between the steps, the sum of the steps is not known, or there are more than blocks.
    """
    place = f"--iterative {config.iterative}"
    if config.iterative == 1:
        return
    if not config.finetune:
        raise InputError(f"{place}: each step is fine-tuned; add --finetune N for N epochs a step")
    if strategy.tie is None and strategy.blocks < config.iterative:
        raise InputError(f"{place}: {strategy.blocks} blocks are fewer than the steps; raise --shortcuts")
    if isinstance(config, ChannelConfig) and (config.search or config.percent == AUTO):
        raise InputError(f"{place}: --search and --percent auto ask for one cut; give a percent or --target-macs")
