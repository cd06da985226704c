"""quantize.py from its command line, on drawn squares and a network of a few channels."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

import convert_snn
import export
import quantize
from models import Darknet, load_model
from pipeline.quantise import quantise, tell_loss, to_integers
from pipeline.session import Session, open_session
from tests.scenes import CFG, untimed, write_scenes
from utils.config.quantise import QuantiseConfig, scheme_of
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.counts import count
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.data.manifest import read_list
from utils.detection.evaluate import DetectionMetrics
from utils.errors import InputError
from utils.export.costs import shapes
from utils.export.engine.compiler import compile_network
from utils.export.engine.price import clocks_of_program
from utils.export.engine.target import Engine
from utils.export.targets import check_target
from utils.quantization import mixed_precision
from utils.quantization.bits import packed_bytes, read_bits_map
from utils.quantization.choices import Budget
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv
from utils.quantization.scheme import Scheme
from utils.quantization.sensitivity import DescentStep
from utils.reporting.record import Record

COMMON = ["--data", "set.data", "--weights", "net.pt", "--device", "cpu", "--workers", "0"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a data set and net.pt, a network of random weights; latencies are not timed."""
    monkeypatch.chdir(tmp_path)
    untimed(monkeypatch)
    write_scenes(tmp_path)
    save_network(CFG)
    return tmp_path


def save_network(cfg: str) -> None:
    Path("net.cfg").write_text(cfg)
    spec = read_cfg("net.cfg")
    torch.manual_seed(0)
    save_checkpoint(Path("net.pt"), Checkpoint(Network(spec, Darknet(spec).state_dict()), ("blue", "green")))


def parsed(*words: str) -> QuantiseConfig:
    return quantize.parser().parse_args([*COMMON, *words])


def run(*words: str) -> Record:
    return quantize.run(parsed(*words))


def session(*words: str) -> Session:
    return open_session(parsed(*words))


def left(record: Record) -> Path:
    return record.paths("*.int.pt")[0]


def test_the_table_tells_bytes_of_files_bit_operations_and_macs(place):
    record = run("--a-bit", "8")
    before, after = record.metrics["float"], record.metrics["quantised"]
    macs = count(read_cfg("net.cfg"), (64, 64)).macs
    assert (before["macs"], before["bops"], after["bops"]) == (macs, macs * 1024, macs * 64)
    assert after["bytes"] == left(record).stat().st_size
    sizes = [after[f"bytes_{name}"] for name in ("float", "8_bit", "4_bit", "2_bit")]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    for bits, told in (("8", sizes[1]), ("4", sizes[2]), ("2", sizes[3])):
        really = left(run("--w-bit", bits, "--name", f"w{bits}")).stat().st_size
        assert abs(really - told) < 256  # where it came from is told in the file


@pytest.fixture
def lossy(monkeypatch) -> None:
    """Integers and spikes score 0.2 a bit fewer than eight under the floats' 0.9, whatever they know."""

    def record(self):
        return recorded(self) | {"map50": self.said}

    def score(self, predictor):
        metrics, bits = measured(self, predictor), 8
        if isinstance(predictor, IntegerExecutor):
            bits = predictor.network.scheme.a_bit
        object.__setattr__(metrics, "said", 0.9 - 0.2 * (8 - bits))
        return metrics

    measured, recorded = Session.score, DetectionMetrics.record
    monkeypatch.setattr(Session, "score", score)
    monkeypatch.setattr(DetectionMetrics, "record", record)


LOSS = "mAP@.5 fell from 0.9000 to 0.5000 as integers"


def test_integers_that_lost_much_are_told_before_the_table_with_what_eight_bits_leave(place, lossy, caplog):
    caplog.set_level("INFO")
    run("--a-bit", "6")
    convert_snn.run(convert_snn.parser().parse_args([*COMMON, "--a-bit", "6"]))
    said = [record.getMessage() for record in caplog.records]
    first = [i for i, line in enumerate(said) if line == f"{LOSS}; --a-bit 8 leaves 0.9000 on the same images"]
    assert len(first) == 2 and [i + 1 for i in first] == [i for i, line in enumerate(said) if "latency" in line]


def test_a_stage_of_a_chain_tells_the_loss_and_tries_nothing(place, lossy, caplog):
    quantise(open_session(replace(parsed("--a-bit", "6"), fingerprint="a chain's")))
    assert [record.getMessage() for record in caplog.records if "fell" in record.getMessage()] == [LOSS]


def test_spikes_that_lose_what_their_integers_keep_are_told_of(place, caplog):
    rows = {"float": {"map50": 0.9}, "quantised": {"map50": 0.88}, "spiking": {"map50": 0.4}}
    tell_loss(session(), rows)
    assert caplog.messages == ["mAP@.5 fell from 0.9000 to 0.4000 as spikes"]
    tell_loss(session(), {"float": {"map50": 0.9}, "spiking": {"map50": 0.2}})  # rates, which have no integers
    assert caplog.messages[1:] == ["mAP@.5 fell from 0.9000 to 0.2000 as spikes"]


def test_wider_bits_that_are_refused_end_no_run(place, caplog, monkeypatch):
    def refuse(given):
        raise InputError("layer 3: an accumulator of 34 bits")

    monkeypatch.setattr("pipeline.quantise.to_integers", refuse)
    tell_loss(session("--a-bit", "6"), {"float": {"map50": 0.9}, "quantised": {"map50": 0.5}})
    assert caplog.messages == [f"{LOSS}; --a-bit 8 is refused: layer 3: an accumulator of 34 bits"]


def test_where_nothing_is_lost_nothing_is_said_of_it(place, lossy, caplog):
    run("--a-bit", "8")
    assert "fell" not in caplog.text


def test_what_could_not_be_scored_leaves_no_file(place, monkeypatch):
    def fail(self, predictor):
        if isinstance(predictor, IntegerExecutor):
            raise InputError("the disk is full")
        return score(self, predictor)

    score = Session.score
    monkeypatch.setattr(Session, "score", fail)
    with pytest.raises(InputError, match="disk is full"):
        run()
    assert not list(Path("weights").glob("*"))


def test_images_without_labels_give_the_network_that_the_same_images_with_labels_give(place, caplog):
    caplog.set_level("INFO")
    words = ["--weights", "net.pt", "--device", "cpu", "--workers", "0", "--calibration", "4", "--a-bit", "8"]
    for number, image in enumerate(read_list(open_session(parsed()).manifest.train)):
        Path("bare").mkdir(exist_ok=True)
        shutil.copy(image, f"bare/{number:03d}{image.suffix}")
    bare = quantize.run(quantize.parser().parse_args([*words, "--data", "bare"]))
    told = quantize.run(quantize.parser().parse_args([*words, "--data", "set.data"]))
    one, other = (load_model(left(record)).integer for record in (bare, told))
    assert one.grids == other.grids
    assert all(torch.equal(one.ops[i].weight, op.weight) for i, op in other.ops.items() if isinstance(op, IntConv))
    assert set(bare.metrics) == {"quantised"} and "map50" not in bare.metrics["quantised"]
    assert bare.metrics["quantised"]["bops"] == told.metrics["quantised"]["bops"]
    assert "images without labels: nothing was measured" in caplog.text
    words = ["c", "--weights", str(left(bare)), "--data", "bare", "--golden", "1", "--out", "out", "--device", "cpu"]
    export.run(export.parser().parse_args(words))  # and whoever has images alone can hand it on
    assert Path("out/golden/0/boxes.json").is_file()
    unsaid = open_session(parsed("--weights", str(left(bare)), "--data", "bare"), bare=True)
    with pytest.raises(InputError, match="bare: images without labels, nothing to score on"):
        unsaid.score(unsaid.loaded.predictor)


def test_a_network_that_nobody_named_the_classes_of_takes_its_names_from_the_next_data(place):
    Path("bare").mkdir()
    shutil.copy(read_list(open_session(parsed()).manifest.train)[0], "bare")
    network = load_model("net.pt").network
    save_checkpoint("net.pt", Checkpoint(network))
    words = ["--weights", "net.pt", "--device", "cpu", "--workers", "0", "--data", "bare", "--calibration", "1"]
    made = left(quantize.run(quantize.parser().parse_args(words)))
    assert load_model(made).names == ()
    assert open_session(parsed("--weights", str(made))).manifest.names == ("blue", "green")


def test_bits_are_not_chosen_on_images_without_labels_and_a_set_without_lists_stays_refused(place):
    Path("bare").mkdir()
    shutil.copy(read_list(open_session(parsed()).manifest.train)[0], "bare")
    words = ["--weights", "net.pt", "--device", "cpu", "--workers", "0", "--data", "bare"]
    with pytest.raises(InputError, match=r"--bits auto: scores networks on labels, and .*bare has images alone"):
        quantize.run(quantize.parser().parse_args([*words, "--bits", "auto"]))
    Path("bare/notes.txt").write_text("0 0.5 0.5 0.1 0.1")  # somebody says something: no bare folder any more
    with pytest.raises(InputError, match="bare"):
        quantize.run(quantize.parser().parse_args(words))
    assert not Path("weights").exists() or not list(Path("weights").glob("*"))


def test_the_target_of_a_dpu_makes_what_the_dpu_runs_and_refuses_what_calibration_cannot_mend(place):
    save_network(CFG.replace("relu", "leaky"))
    with pytest.raises(InputError, match=r"--target vitis-dpu: layer 0 \(cfg line \d+\): activation=leaky"):
        run("--target", "vitis-dpu")
    assert not Path("weights").exists() or not list(Path("weights").glob("*"))
    save_network(CFG.replace("leaky", "relu"))
    integer = load_model(left(run("--target", "vitis-dpu"))).integer
    assert integer.scheme.style == "pow2" and max(grid.qmax for i, grid in integer.grids.items() if i >= 0) == 127
    check_target(integer, "vitis-dpu", (64, 64))


def test_a_part_says_what_a_frame_takes_there(place):
    record = run("--target", "generic", "--a-bit", "8")
    network = load_model(left(record)).integer
    program = compile_network(network, shapes(network, (64, 64)), Engine())
    assert record.metrics["hardware"]["tried"][0]["clocks"] == clocks_of_program(program)


def test_packed_integers_are_not_packed_again(place):
    path = left(run())
    with pytest.raises(InputError, match=r"net.int.pt: holds packed integers already, nothing to do"):
        quantize.run(quantize.parser().parse_args([*COMMON, "--weights", str(path)]))


def test_a_network_trained_quantised_is_packed_as_it_is(place):
    given = session()
    integer = to_integers(given)
    trained = replace(given, loaded=replace(given.loaded, kind="trained", network=None, integer=integer))
    packed = load_model(left(quantise(trained).record))
    x = torch.rand(2, 3, 64, 64)
    assert packed.kind == "quantised" and packed.integer is not None
    for made, exact in zip(packed.predictor(x), IntegerExecutor(integer)(x), strict=True):
        assert torch.equal(made, exact)


def test_a_network_that_cannot_spike_quantises(place):
    save_network(CFG.replace("activation=relu", "activation=mish"))
    loaded = load_model(left(run("--a-bit", "8")))
    x = torch.rand(2, 3, 64, 64).mul(255).round().div(255)
    with torch.no_grad():
        exact = load_model("net.pt").predictor(x)
    for made, wanted in zip(loaded.predictor(x), exact, strict=True):
        assert float((made - wanted).norm() / wanted.norm()) < 0.2


def test_automatic_bits_leave_a_table_a_picture_and_a_map_that_makes_the_same_network(place):
    record = run("--bits", "auto", "--budget", "bops=0.4", "--max-drop", "0.9")
    chosen = load_model(left(record)).integer
    assert chosen is not None and chosen.scheme.layer_bits
    assert record.metrics["quantised"]["bops"] <= 0.41 * 64 * record.metrics["quantised"]["macs"]
    assert cv2.imread(str(record.folder / "bits.png")) is not None
    rows = list(csv.DictReader((record.folder / "bits.csv").open()))
    assert {row["unit"] for row in rows} == {"weights", "activations"}
    assert all(float(row["damage"]) >= 0 and int(row["cfg_line"]) > 0 for row in rows)
    written = record.folder / "bits.txt"
    assert read_bits_map(written) == chosen.scheme.layer_bits
    again = load_model(left(run("--bits-map", str(written), "--w-bit", "8", "--a-bit", "8", "--name", "again"))).integer
    assert again is not None and again.grids == chosen.grids
    for i, op in chosen.ops.items():
        assert not isinstance(op, IntConv) or torch.equal(op.weight, again.conv(i)[1].weight)


def test_bits_are_chosen_without_a_look_at_the_validation_images(place, monkeypatch):
    given = session("--bits", "auto", "--budget", "size=0.6", "--max-drop", "0.9")
    monkeypatch.setattr(type(given.valid), "__iter__", _training_only(given, type(given.valid).__iter__))
    integer = to_integers(given)
    full = Scheme(w_bit=8, a_bit=8)
    constants = sum(8 * op.weight.shape[0] for op in integer.ops.values() if isinstance(op, IntConv))
    weights = packed_bytes(integer.spec, integer.scheme) - constants
    assert weights <= 0.61 * (packed_bytes(integer.spec, full) - constants)
    assert all(a == 8 for _, _, a in integer.scheme.layer_bits)  # activations take no bytes


def _training_only(given: Session, iterate):
    def guarded(loader):
        assert loader.dataset is not given.valid.dataset, "validation images were read"
        return iterate(loader)

    return guarded


class FakeJudge:
    """Lets through what costs no more than it allows; the damage of a step stands for its drop."""

    allowed = 0.01
    heading = "mAP@.5"

    def __init__(self) -> None:
        self.trials: list[DescentStep] = []

    def accepts(self, step: DescentStep) -> bool:
        self.trials.append(step)
        return step.damage <= self.allowed

    def drop_of(self, step: DescentStep) -> float:
        return step.damage


def steps(*damages: float) -> list[DescentStep]:
    return [DescentStep({}, 1 - i / len(damages), damage) for i, damage in enumerate(damages)]


@pytest.mark.parametrize("good", range(1, 12))
def test_the_cheapest_within_the_drop_is_found_in_few_trials(good):
    judge = FakeJudge()
    path = steps(*[0.001] * good, *[0.5] * (12 - good))
    assert mixed_precision._cheapest(path, judge) is path[good - 1]
    assert len(judge.trials) <= 5


def test_bits_that_cost_too_much_are_refused_with_what_they_cost():
    with pytest.raises(InputError, match=r"--max-drop 0.01: 8 bits everywhere cost 0.2000 of mAP@.5 on training"):
        mixed_precision._cheapest(steps(0.2, 0.3, 0.4), FakeJudge())
    with pytest.raises(InputError, match=r"--budget size=0.5: costs 0.3000 of mAP@.5 .* --max-drop 0.01; raise one"):
        mixed_precision._meet(steps(0.0, 0.3), FakeJudge(), Budget("size", 0.5))
    with pytest.raises(InputError, match=r"--budget bops=0.1: at the fewest bits 0.500 of 8 bits is left"):
        mixed_precision._meet(steps(0.0, 0.0), FakeJudge(), Budget("bops", 0.1))


@pytest.mark.parametrize(
    ("words", "style"),
    [("", "google"), ("--style pow2", "pow2"), ("--quantized 1", "google"), ("--FPGA", "pow2")],
)
def test_a_style_has_its_name_and_the_older_tools_flags(words, style):
    spec = load_spec()
    assert scheme_of(parsed(*words.split()), spec).style == style


def load_spec():
    return parse_cfg(CFG, "scenes")


def test_every_choice_reaches_the_scheme_and_convert_snn_has_the_same_flags():
    words = "--w-bit 6 --a-bit 5 --ranges percentile --percentile 99 --range-scale 2 --acc-bits 20"
    words += " --no-equalise --no-bias-correction"
    wanted = Scheme(w_bit=6, a_bit=5, ranges="percentile", percentile=99, range_scale=2, acc_bits=20)
    wanted = replace(wanted, equalise=False, correct_bias=False)
    for script in (quantize, convert_snn):
        args = script.parser().parse_args([*COMMON, *words.split()])
        assert scheme_of(args, load_spec()) == wanted
    assert scheme_of(parsed("--bits", "auto"), load_spec()) == Scheme(w_bit=8, a_bit=8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max-drop 0.1", "--max-drop: says how --bits auto chooses; add --bits auto"),
        ("--budget size=0.5", "--budget: says how --bits auto chooses"),
        ("--bits auto --bits-map bits.txt", "--bits auto and --bits-map: both choose"),
        ("--bits-map bits.txt", r"bits.txt: layer 99; the network has layers 0 to 13"),
    ],
)
def test_flags_that_contradict_one_another_are_told_so(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("bits.txt").write_text("99 4 4\n")
    with pytest.raises(InputError, match=message):
        scheme_of(parsed(*words.split()), load_spec())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--quantized 2", "dorefa has to be trained: train.py --quantized dorefa"),
        ("--style lsq", "must be one of google, 1, pow2, got lsq"),
        ("--budget 0.5", "must be size=SHARE or bops=SHARE, got 0.5"),
        ("--budget bops=2", "a number from 0 up to, but not, 1, got 2"),
        ("--budget size=0", "the share must be above 0"),
        ("--bits-map none.txt", "none.txt: no such file"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_refused_in_one_line(words, message, capsys):
    with pytest.raises(SystemExit):
        parsed(*words.split())
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
