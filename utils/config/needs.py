"""Which flag acts only beside another, and which two do not go together: one table, asked where a config is told.

A flag that cannot act is refused, with the flag that it needs; nobody has to find out from a result that it did
nothing. Words are as they are typed: ``--percent auto`` is a flag with its value, ``fpga`` what stands in a position,
``torchrun`` how the process was started; ``|`` separates alternatives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass
from typing import Any

from utils.cli import flag_fields, option_names
from utils.errors import InputError


@dataclass(frozen=True)
class Rule:
    """Flags that need one of some others, or are against each of them; why, in words that may name the config's fields.

    Where nothing else is said, the line tells what to add or to leave away. ``idle``: it does nothing here.
    """

    flags: str
    needs: str = ""
    against: str = ""
    why: str = ""
    idle: bool = False  # whatever stands beside it


_STREAM = "is for --mode stream, this is {mode}; leave it away"
_RATE = "is for --mode rate, this is {mode}; leave it away"
_BOTH = "is for --mode stream or rate, this is {mode}; leave it away"
_LIMITED = "each says how much is cut; give one of them"
_UNCUT = "--sensitivity cuts nothing; leave one of them away"

RULES: Mapping[str, tuple[Rule, ...]] = {
    "DenseConfig": (
        Rule("--sync-bn --rank-timeout", needs="torchrun"),
        Rule("--processes", against="--evolve", why="a search is many trainings; leave one of them away"),
        Rule("--s --prune --s-schedule", needs="-sr"),
        Rule("--rect", against="--mosaic", why="batches of --rect are of whole images; leave one of them away"),
        Rule("--rect", against="--multi-scale", why="both choose the size of a batch; leave one of them away"),
        Rule("--mixup --cutmix", against="--loader dali", why="it makes an image of one; leave one of them away"),
        Rule("--rect", against="--loader dali", why="its batches are of one shape; leave one of them away"),
        Rule("--val-interval", against="--notest", why="only the last epoch is validated; leave one of them away"),
        Rule(
            "--patience", against="--notest", why="nothing is validated that could get better; leave one of them away"
        ),
        Rule("--patience", against="-sr", why="a network that is made sparse gets worse first; leave one of them away"),
    ),
    "QuantisedConfig": (
        Rule(
            "--w-bit --a-bit --bits-map --BN_Fold --learn-scales --progressive --sparsify --acc-bits --no-equalise "
            "--range-scale --sign-bit",
            needs="--quantized | --FPGA",
            why="only quantised training has that; add --quantized google, dorefa, pow2 or apot",
        ),
        Rule(
            "--darknet",
            against="--quantized | --FPGA",
            why="its files have no integers; leave one of them away, export.py hands integers on",
        ),
        Rule("--progressive", against="--patience", why="stages share the epochs; leave one of them away"),
        Rule(
            "--FPGA",
            against="--quantized google | --quantized dorefa",
            why="it is the same as --quantized pow2; leave one of them away",
        ),
    ),
    "SpikingConfig": (
        Rule("--timesteps", needs="--spiking", why="a cfg says its own; add --spiking lif, or set timesteps= in [net]"),
        Rule("--levels", needs="--spiking ilif"),
        Rule("--signed", needs="--spiking lif | --spiking plif"),
        Rule("--at-rest", needs="--spiking lif"),
        Rule(
            "--hw-friendly",
            against="--quantized | --FPGA | --act",
            why="its integers are those of spikes; leave one of them away",
        ),
        Rule("--fptt-k --fptt-alpha --fptt-beta", needs="--trainer fptt"),
        Rule(
            "--spiking",
            against="--act | --quantized | --FPGA",
            why="both replace the activations; leave one of them away",
        ),
    ),
    "TrainConfig": (
        Rule(
            "--t_weights --t_data --t_cfg --kd-weight",
            needs="--KDstr",
            why="a teacher without a strategy; add --KDstr 1 to 5, or cwd, mgd, ...",
        ),
        Rule("--t_cfg", needs="--t_weights"),
        Rule("--evolve", against="--resume", why="a search that was cut goes on by the same line; leave --resume away"),
        Rule("--evolve", against="--notest", why="what is not validated cannot be compared; leave one of them away"),
        Rule("--progressive", against="--evolve", why="stages are not comparable; leave one of them away"),
        Rule(
            "--t_data",
            against="--rect",
            why="its images have not the sizes of --rect's batches; leave one of them away",
        ),
    ),
    "TestConfig": (
        Rule("--seed", idle=True, why="nothing is random in a measurement"),
        Rule(
            "--rect --save-json --iou-thres",
            against="--task benchmark",
            why="its table is over sizes and overlaps of its own; leave one of them away",
        ),
        Rule(
            "--early-exit",
            against="--task benchmark | --save-json",
            why="its table is over margins, and has no answers of one of them; leave one of them away",
        ),
        Rule(
            "--binary-steps",
            against="--task benchmark | --save-json | --early-exit",
            why="its table is of two ways to run the network once; leave one of them away",
        ),
    ),
    "PipelineConfig": (
        Rule("--jobs --engine", needs="--sweep"),
        Rule("--layer-keep", needs="--strategy slim | --strategy layer_channel"),
        Rule(
            "--shortcuts",
            needs="--strategy layer | --strategy layer_channel | --strategy layer_channel_regular",
        ),
        Rule("--percent", against="--strategy layer", why="that one takes --shortcuts out; leave one of them away"),
        Rule("--until", against="--sweep", why="a point is a whole chain; leave one of them away"),
        Rule("--target", against="--sweep | --until", why="it is said of a whole chain; leave one of them away"),
    ),
    "PruneConfig": (
        Rule(
            "--target",
            needs="--target-cycles | --multiple",
            why="says what clocks are predicted for; add --target-cycles",
        ),
    ),
    "LayerConfig": (
        Rule("--shortcuts", against="--target-cycles", why=_LIMITED),
        Rule("--iterative", against="--target-cycles", why="the blocks are found for one cut; leave one of them away"),
    ),
    "ChannelConfig": (
        Rule("--max-drop", needs="--percent auto"),
        Rule("--delta", needs="--search"),
        Rule("--percent", against="--target-macs | --target-params | --target-cycles | --search", why=_LIMITED),
        Rule(
            "--target-params --target-cycles",
            against="--search",
            why="a search keeps to --target-macs; give that alone",
        ),
        Rule("--percent --target-macs --target-params --target-cycles --search", against="--sensitivity", why=_UNCUT),
        Rule("--recalibrate --finetune --iterative", against="--sensitivity", why=_UNCUT),
    ),
    "BlocksConfig": (Rule("--by", needs="--shortcuts"),),
    "QuantiseConfig": (
        Rule("--max-drop --budget", needs="--bits auto", why="says how --bits auto chooses; add --bits auto"),
        Rule("--bits-map", against="--bits auto", why="both choose bits by layer; give one of them"),
        Rule("--w-bit --a-bit", against="--bits auto", why="the bits are chosen by layer; leave one of them away"),
        Rule("--percentile", needs="--ranges percentile | --mode rate"),
        Rule("--FPGA", against="--style google", why="it is the same as --style pow2; leave one of them away"),
    ),
    "PtqConfig": (
        Rule(
            "--w-bit --a-bit --bits --bits-map --style --FPGA",
            against="--target vitis-dpu",
            why="the DPU takes powers of two, 8-bit weights and 7 unsigned bits; leave one of them away",
        ),
    ),
    "ConvertConfig": (
        Rule("--early-exit --neuron --schedule", needs="--mode stream", why=_STREAM),
        Rule("--timesteps --curve --images", needs="--mode stream | --mode rate", why=_BOTH),
        Rule("--channel-wise --reset", needs="--mode rate", why=_RATE),
        Rule("--stepwise", needs="--mode layerwise", why="is for --mode layerwise, this is {mode}; leave it away"),
        Rule("--finetune-images --finetune-iterations", needs="--finetune"),
        Rule(
            "--w-bit --a-bit --style --FPGA --ranges --range-scale --no-equalise --no-bias-correction --acc-bits "
            "--bits-map --bits --max-drop --budget",
            needs="--mode layerwise | --mode stream | --finetune",  # that one's table has a row of integers
            why="is for integers, which --mode {mode} has not; leave one of them away",
        ),
    ),
    "DetectConfig": (
        Rule("--reset", needs="--carry"),
        Rule("--early-exit", against="--carry", why="a frame of a film is one step; leave one of them away"),
        Rule("--seed", idle=True, why="nothing is random in detection"),
        Rule("--batch-size --workers --cache", idle=True, why="detect.py reads one picture after the other"),
    ),
    "FilesConfig": (
        Rule("--seed --batch-size --device --workers --cache --name", idle=True, why="files are read and written"),
    ),
    "ExportConfig": (
        Rule("--seed", idle=True, why="nothing is random in a hand-off"),
        Rule("--batch-size", idle=True, why="golden images are run one by one"),
        Rule("--tile --engine", needs="fpga"),
        Rule("--target-fps", needs="--engine integer"),
        Rule("--target-fps", needs="--target"),
        Rule("--golden", against="--dialect exact | darknet", why="a graph without images; leave it away"),
        Rule("--dialect --steps", needs="nir"),
        Rule("--for", needs="qonnx"),
        Rule("--layers", needs="--for"),
        Rule("--target", against="--for", why="both are for a client of their own; leave one of them away"),
        Rule("--steps", against="--dialect exact", why="its steps are its timetable's; leave one of them away"),
        Rule("--float", needs="onnx"),
        Rule("--dynamic --decode", needs="--float"),
        Rule("--cfg", needs="--float | darknet", why="integers and spikes carry their structure; leave it away"),
        Rule("--target", against="--float | darknet", why="its limits are of integers; leave one of them away"),
    ),
}
FACTS: Mapping[str, Callable[[], bool]] = {"torchrun": lambda: "WORLD_SIZE" in os.environ}


def check(config: Any, given: Collection[str]) -> None:
    """Refuse flags that cannot act.

    Args:
        config: with the values of all fields.
        given: names of the fields that somebody said.

    Raises:
        InputError: a flag lacks the one that it needs, or stands beside one that leaves it nothing to do.
    """
    known = {name: field for field in flag_fields(type(config)) for name in option_names(field)}
    for rule in (rule for kind in type(config).__mro__ for rule in RULES.get(kind.__name__, ())):
        for flag in rule.flags.split():
            if flag in known and known[flag].name in given:
                _judge(rule, flag, config, given, known)


def _judge(rule: Rule, flag: str, config: Any, given: Collection[str], known: Mapping[str, Field[Any]]) -> None:
    if rule.idle:
        raise InputError(f"{flag}: {rule.why}; leave it away")
    wanted = [words for words in _alternatives(rule.needs) if words in FACTS or _field(words, known) is not None]
    if wanted and not any(_holds(words, config, known) for words in wanted):
        plain = f"acts only with {' or '.join(wanted)}; add that, or leave {flag} away"
        raise InputError(f"{flag}: {rule.why.format(**vars(config)) or plain}")
    for words in _alternatives(rule.against):
        field = _field(words, known)
        if field is not None and field.name in given and _holds(words, config, known):
            raise InputError(f"{words} and {flag}: {rule.why.format(**vars(config))}")


def _alternatives(words: str) -> list[str]:
    return [each.strip() for each in words.split("|") if each.strip()]


def _field(words: str, known: Mapping[str, Field[Any]]) -> Field[Any] | None:
    """The field that ``--flag``, ``--flag value`` or a word in a position is about."""
    if words.startswith("-"):
        return known.get(words.partition(" ")[0])
    chosen = (field for field in known.values() if words in (field.metadata["flag"]["options"].get("choices") or ()))
    return next(chosen, None)


def _holds(words: str, config: Any, known: Mapping[str, Field[Any]]) -> bool:
    if words in FACTS:
        return FACTS[words]()
    field, value = _field(words, known), words.partition(" ")[2] if words.startswith("-") else words
    said = getattr(config, field.name) if field else None
    return str(said) == value if value else bool(said) and said != "none"
