"""Every flag that cannot act beside the others is refused in one line, with the flag that it needs; and acts with it."""

from __future__ import annotations

import dataclasses
import importlib

import pytest

import compress
import darkspike as ds
from utils.cli import flag_fields, option_names
from utils.config import convert, export, files, measure, pipeline, prune, quantise, train
from utils.config.export import FORMS
from utils.config.needs import FACTS, RULES
from utils.errors import InputError

CONFIGS = {
    name: kind
    for module in (convert, export, files, measure, pipeline, prune, quantise, train)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}

LACKING = [  # script, the flags, and what the line says
    ("train", "--s 0.01", r"^--s: acts only with -sr; add that, or leave --s away$"),
    ("train", "--s 0.001", "^--s: acts only with -sr"),  # typed, though it is the default
    ("train", "--prune 1", "^--prune: acts only with -sr"),
    ("train", "--s-schedule decay", "^--s-schedule: acts only with -sr"),
    ("train", "--rect --mosaic 0.5", r"^--mosaic and --rect: batches of --rect are of whole images"),
    (
        "train",
        "--cutmix 1 --loader dali",
        "^--loader dali and --cutmix: it makes an image of one",
    ),
    ("train", "--rect --loader dali", "^--loader dali and --rect: its batches are of one shape"),
    ("train", "--rect --multi-scale", r"^--multi-scale and --rect: both choose the size of a batch"),
    ("train", "--notest --val-interval 2", "^--notest and --val-interval: only the last epoch is validated"),
    ("train", "--notest --patience 2", "^--notest and --patience: nothing is validated that could get better"),
    ("train", "-sr --patience 2", "^-sr and --patience: a network that is made sparse gets worse first"),
    ("train", "--quantized 1 --progressive --patience 2", "^--patience and --progressive: stages share the epochs"),
    ("train", "--sync-bn", "^--sync-bn: acts only with torchrun"),
    ("train", "--processes 2 --evolve 3", "^--evolve and --processes: a search is many trainings"),
    ("train", "--darknet --quantized 1", "^--quantized and --darknet: its files have no integers"),
    ("train", "--w-bit 0", "^--w-bit: only quantised training has that; add --quantized"),
    ("train", "--range-scale 1", "^--range-scale: only quantised training"),
    ("train", "--sparsify 0", "^--sparsify: only quantised training"),
    ("train", "--progressive", "^--progressive: only quantised training"),
    ("train", "--FPGA --quantized dorefa", "^--quantized dorefa and --FPGA: it is the same as --quantized pow2"),
    ("train", "--quantized 1 --FPGA", "^--quantized google and --FPGA: it is the same as --quantized pow2"),
    ("train", "--timesteps 4", "^--timesteps: a cfg says its own; add --spiking lif"),
    ("train", "--spiking lif --levels 4", "^--levels: acts only with --spiking ilif"),
    ("train", "--spiking ilif --signed", "^--signed: acts only with --spiking lif"),
    ("train", "--spiking plif --at-rest", "^--at-rest: acts only with --spiking lif"),
    ("train", "--spiking lif --hw-friendly --act relu", "^--act and --hw-friendly: its integers are those of spikes"),
    ("train", "--fptt-k 2", "^--fptt-k: acts only with --trainer fptt"),
    ("train", "--trainer bptt --fptt-alpha 0.5", "^--fptt-alpha: acts only with --trainer fptt"),
    ("train", "--spiking lif --act relu", "^--act and --spiking: both replace the activations"),
    ("train", "--spiking lif --quantized pow2", "^--quantized and --spiking: both replace the activations"),
    ("train", "--kd-weight 0.5", "^--kd-weight: a teacher without a strategy; add --KDstr"),
    ("train", "--KDstr none --t_weights t.pt", "^--t_weights: a teacher without a strategy"),
    ("train", "--t_data more", "^--t_data: a teacher without a strategy"),
    ("train", "--evolve --resume", "^--resume and --evolve: a search that was cut goes on by the same line"),
    ("train", "--evolve 3 --notest", "^--notest and --evolve: what is not validated cannot be compared"),
    ("train", "--quantized 1 --evolve 3 --progressive", "^--evolve and --progressive: stages are not comparable"),
    ("train", "--KDstr 3 --t_cfg t.cfg", "^--t_cfg: acts only with --t_weights"),
    ("train", "--KDstr 3 --t_data more --rect", "^--rect and --t_data: its images have not the sizes"),
    ("test", "--task benchmark --rect", "^--task benchmark and --rect: its table is over sizes"),
    ("test", "--task benchmark --save-json", "^--task benchmark and --save-json: "),
    ("test", "--task benchmark --iou-thres 0.5", "^--task benchmark and --iou-thres: "),
    ("test", "--early-exit 0.5 --save-json", "^--save-json and --early-exit: its table is over margins"),
    ("test", "--early-exit 0.5 --task benchmark", "^--task benchmark and --early-exit: its table is over margins"),
    ("test", "--binary-steps --early-exit 0.5", "^--early-exit and --binary-steps: its table is of two ways"),
    ("detect", "--early-exit 0.5 --carry", "^--carry and --early-exit: a frame of a film is one step"),
    ("detect", "--reset 5", "^--reset: acts only with --carry"),
    ("compress", "--strategy regular --layer-keep 0.2", "^--layer-keep: acts only with --strategy slim or"),
    ("compress", "--shortcuts 2", "^--shortcuts: acts only with --strategy layer or --strategy layer_channel or"),
    ("compress", "--strategy layer --percent 0.5", r"^--strategy layer and --percent: that one takes --shortcuts out"),
    ("compress", "--style dorefa", r"^--style dorefa: has to be trained; add --qat$"),
    ("compress", "--style -1", r"^--style -1: a chain ends in integers"),
    ("compress", "--jobs 2", "^--jobs: acts only with --sweep; add that, or leave --jobs away"),
    ("compress", "--engine ray", "^--engine: acts only with --sweep"),
    ("compress", "--sweep a-bit=2,4 --until pruned", "^--sweep and --until: a point is a whole chain"),
    ("slim_prune", "--percent 0.5 --target-cycles 0.5", "^--target-cycles and --percent: each says how much is cut"),
    ("slim_prune", "--search 4 --target-macs 0.5 --target-cycles 0.5", "^--search and --target-cycles: a search keeps"),
    ("slim_prune", "--target zynq7020", "^--target: says what clocks are predicted for; add --target-cycles"),
    ("layer_prune", "--shortcuts 2 --target-cycles 0.5", "^--target-cycles and --shortcuts: each says how much"),
    (
        "layer_prune",
        "--iterative 2 --finetune 1 --target-cycles 0.5",
        "^--target-cycles and --iterative: the blocks are",
    ),
    ("export", "fpga --target-fps 5", "^--target-fps: acts only with --engine"),
    ("export", "fpga --engine integer --target-fps 5", "^--target-fps: acts only with --target"),
    ("compress", "--target ecp5-85 --until pruned", "^--until and --target: it is said of a whole chain"),
    ("slim_prune", "--max-drop 0.02", "^--max-drop: acts only with --percent auto"),
    ("slim_prune", "--delta 0.1", "^--delta: acts only with --search"),
    ("regular_prune", "--percent 0.5 --target-macs 0.5", "^--target-macs and --percent: each says how much is cut"),
    ("normal_prune", "--percent auto --target-params 0.5", "^--target-params and --percent: each says how much"),
    ("slim_prune", "--percent 0.5 --search 4 --target-macs 0.5", "^--target-macs and --percent: each says how much"),
    ("slim_prune", "--search 4 --target-macs 0.5 --target-params 0.5", "^--search and --target-params: a search keeps"),
    ("shortcut_prune", "--sensitivity --percent 0.5", "^--sensitivity and --percent: --sensitivity cuts nothing"),
    ("slim_prune", "--sensitivity --finetune 3", "^--sensitivity and --finetune: "),
    ("layer_channel_prune", "--shortcuts 0 --by energy", "^--by: acts only with --shortcuts"),
    ("quantize", "--target vitis-dpu --a-bit 4", "^--target vitis-dpu and --a-bit: the DPU takes powers of two"),
    ("quantize", "--max-drop 0.1", "^--max-drop: says how --bits auto chooses; add --bits auto"),
    ("quantize", "--budget size=0.5", "^--budget: says how --bits auto chooses"),
    (
        "quantize",
        "--bits auto --bits-map tests/test_flags.py",
        "^--bits auto and --bits-map: both choose bits by layer",
    ),
    ("quantize", "--bits auto --a-bit 4", "^--bits auto and --a-bit: the bits are chosen by layer"),
    ("quantize", "--percentile 99.9", "^--percentile: acts only with --ranges percentile; add that"),
    ("quantize", "--FPGA --style google", "^--style google and --FPGA: it is the same as --style pow2"),
    ("convert_snn", "--percentile 99.9", "^--percentile: acts only with --ranges percentile or --mode rate; add that"),
    ("convert_snn", "--timesteps 8", "^--timesteps: is for --mode stream or rate, this is layerwise; leave it away"),
    ("convert_snn", "--images 8", "^--images: is for --mode stream or rate, this is layerwise"),
    ("convert_snn", "--mode stream --stepwise 1", "^--stepwise: is for --mode layerwise, this is stream"),
    ("convert_snn", "--mode rate --early-exit 3", "^--early-exit: is for --mode stream, this is rate"),
    ("convert_snn", "--mode stream --reset zero", "^--reset: is for --mode rate, this is stream"),
    ("convert_snn", "--finetune-images 4", "^--finetune-images: acts only with --finetune"),
    ("convert_snn", "--mode rate --a-bit 4", "^--a-bit: is for integers, which --mode rate has not"),
    ("convert_snn", "--mode rate --FPGA", "^--FPGA: is for integers, which --mode rate has not"),
    ("convert_snn", "--mode rate --ranges mse", "^--ranges: is for integers"),
    ("convert", "--seed 1", "^--seed: files are read and written; leave it away"),
    ("convert", "--weights x.weights --output y.weights", r"^--output y\.weights: must end in \.pt"),
    ("convert", "--weights x.pt --data set.data", "^--data: a .pt carries its own"),
    ("export", "c --tile 64x8", "^--tile: acts only with fpga; add that, or leave --tile away"),
    ("export", "--float", "^--float: acts only with onnx; add that, or leave --float away"),
    ("export", "onnx --decode", "^--decode: acts only with --float"),
    ("export", "onnx --dynamic", "^--dynamic: acts only with --float"),
    ("export", "fpga --cfg net.cfg", "^--cfg: integers and spikes carry their structure; leave it away"),
    ("export", "onnx --float --target vitis-dpu", "^--float and --target: its limits are of integers"),
    (
        "export",
        "nir --dialect exact --golden 4",
        "^--dialect exact and --golden: a graph without images; leave it away",
    ),
    ("export", "darknet --golden 4", "^darknet and --golden: a graph without images"),
    ("export", "onnx --for finn", "^--for: acts only with qonnx"),
    ("export", "qonnx --layers 3", "^--layers: acts only with --for"),
    ("export", "qonnx --for finn --target vitis-dpu", "^--for and --target: both are for a client"),
    ("export", "fpga --dialect exact", "^--dialect: acts only with nir; add that"),
    ("export", "nir --dialect exact --steps 4", "^--dialect exact and --steps: its steps are its timetable's"),
    ("export", "c --engine integer", "^--engine: acts only with fpga; add that, or leave --engine away"),
    ("test", "--seed 3", "^--seed: nothing is random in a measurement; leave it away"),
    ("detect", "--source a.jpg --reset 2", "^--reset: acts only with --carry"),
    ("detect", "--seed 3", "^--seed: nothing is random in detection; leave it away"),
    ("detect", "--workers 0", "^--workers: detect.py reads one picture after the other; leave it away"),
    ("detect", "--cache ram", "^--cache: detect.py reads one picture after the other; leave it away"),
    ("export", "--seed 3", "^--seed: nothing is random in a hand-off; leave it away"),
    ("export", "--batch-size 3", "^--batch-size: golden images are run one by one; leave it away"),
    ("quantize", "--a-bit 99", "^--a-bit: 99 bits; use 2 to 8, or 16$"),  # before anything is opened
    ("convert_snn", "--acc-bits 5", "^--acc-bits: 5 bits; use 12 to 32$"),
    ("train", "--quantized google --range-scale 9", "^--range-scale: 9.0 is not in 0.25..4"),
    ("compress", "--w-bit 1", "^--w-bit: 1 bits; use 2 to 8, or 16$"),
]
TOGETHER = [
    ("train", "-sr --s 0.01 --prune 1 --s-schedule decay"),
    ("train", "--rect --mosaic 0"),
    (
        "train",
        "--spiking ilif --timesteps 2 --levels 8 --round-from 0.3 --trainer fptt --fptt-k 2 --fptt-alpha 0.5 --fptt-beta 0.5",
    ),
    ("train", "--spiking plif --signed --timesteps 2"),
    ("train", "--spiking lif --at-rest"),
    ("train", "--FPGA --quantized pow2 --w-bit 4 --range-scale 2"),
    ("train", "--KDstr 3 --t_weights t.weights --t_cfg t.cfg --kd-weight 0.5 --t_data more"),
    ("compress", "--sweep a-bit=2,4 --jobs 2 --engine processes"),
    ("compress", "--sweep strategy=slim,regular --style dorefa --qat --act relu=mish --lr 0.1 --s-schedule constant"),
    ("compress", "--precision fp32 --until sparse"),
    ("train", "--spiking lif --trainer fptt --fptt-beta 1"),
    ("compress", "--strategy layer_channel --shortcuts 2 --layer-keep 0.2 --percent 0.5"),
    ("slim_prune", "--percent auto --max-drop 0.02"),
    ("regular_prune", "--percent 0.5 --target zynq7020"),
    ("layer_channel_prune", "--shortcuts 1 --target-cycles 0.5 --target ecp5-85"),
    *((f"{name}_prune", "--target-cycles 0.5 --target zynq7020") for name in compress.SCRIPTS),
    ("export", "fpga --engine integer --target zynq7020 --target-fps 5"),
    ("slim_prune", "--search 4 --delta 0.1 --target-macs 0.5"),
    ("quantize", "--bits auto --budget size=0.5 --max-drop 0.1"),
    ("quantize", "--target vitis-dpu --ranges minmax"),
    ("quantize", "--target zynq7020 --w-bit 4"),
    ("quantize", "--ranges percentile --percentile 99.9"),
    ("convert_snn", "--mode rate --percentile 99.9 --timesteps 8 --images 4 --curve 4 8"),
    ("convert_snn", "--mode rate --finetune --finetune-images 4 --a-bit 4"),
    ("export", "--tile 64x8 --golden 4"),
    ("export", "fpga --tile 64x8"),
    ("export", "onnx --float --decode --dynamic --cfg net.cfg --golden 4"),
    ("export", "darknet --cfg net.cfg"),
    ("export", "nir --golden 4 --steps 30"),
    ("export", "qonnx --for hls4ml --layers 3"),
    ("export", "fpga --engine integer --target engine.json"),
]


def parsed(script: str, words: str):
    return importlib.import_module(script).parser().parse_args(words.split())


@pytest.mark.parametrize(("script", "words", "message"), LACKING, ids=lambda value: str(value)[:60])
def test_a_flag_that_cannot_act_is_refused_with_the_one_it_needs(monkeypatch, script, words, message):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match=message) as caught:
        parsed(script, words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("script", "words"), TOGETHER)
def test_flags_that_act_together_are_taken(script, words):
    parsed(script, words)


@pytest.mark.parametrize("kind", RULES)
def test_the_table_speaks_of_flags_that_there_are_and_one_rule_at_least_is_tried_for_each(kind):
    own = {name for field in flag_fields(CONFIGS[kind]) for name in option_names(field)}
    every = {name for each in CONFIGS.values() for field in flag_fields(each) for name in option_names(field)}
    tried = " ".join(words for _, words, _ in LACKING)
    for rule in RULES[kind]:
        assert set(rule.flags.split()) <= own, rule
        assert any(flag in tried.split() for flag in rule.flags.split()), rule
        for words in f"{rule.needs}|{rule.against}".split("|"):
            flag = words.strip().partition(" ")[0]
            assert not flag.startswith("-") or flag in every, rule
            assert flag.startswith("-") or flag in ("", *FORMS, *FACTS), rule


def test_under_torchrun_its_flags_act(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parsed("train", "--sync-bn").sync_bn


def test_what_was_said_is_known_whatever_its_value():
    config = parsed("train", "--epochs 30 --seed 0 --no-ema")
    assert config.given == ("ema", "epochs", "seed") and "given" not in config.values
    assert parsed("export", "").given == () and parsed("export", "c").given == ("form",)


def test_a_rate_of_zero_does_not_become_the_default(capsys):
    for rate in ("0", "-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            parsed("train", f"--lr={rate}")
        assert f"argument --lr: must be a number above 0, got {rate}" in capsys.readouterr().err


def test_the_library_refuses_what_the_scripts_refuse():
    with pytest.raises(InputError, match="--s: acts only with -sr"):
        ds.train(s=0.01)
    with pytest.raises(InputError, match="lr: must be a number above 0, got 0"):
        ds.train(lr=0)
    with pytest.raises(InputError, match="--max-drop: acts only with --percent auto"):
        ds.prune("x.pt", max_drop=0.1)
    with pytest.raises(InputError, match="--a-bit: is for integers"):
        ds.convert("x.pt", mode="rate", a_bit=4)
