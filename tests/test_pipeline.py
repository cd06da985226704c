"""The scripts one after the other, from their command lines, on a few drawn images."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import compress
import convert_snn
import detect
import quantize
import slim_prune
import test
import train
from models import Darknet, build, load_model, network_of
from pipeline import chain_start, pipeline, summary
from pipeline.chain_start import budget_of
from pipeline.session import open_session
from pipeline.summary import Left
from tests.conftest import ROOT
from tests.scenes import write_scenes
from utils.chain.tries import StageView
from utils.darknet.cfg import read_cfg
from utils.darknet.heads import head_convolutions
from utils.darknet.weights import write_weights
from utils.detection.open_data import read_manifest
from utils.detection.show import boxes_to_show
from utils.detection.task import DetectionTask
from utils.distillation.strategies import USUAL, terms_of
from utils.errors import InputError
from utils.export.engine.price import clocks_of_spec
from utils.export.engine.target import Engine
from utils.quantization.executor import IntegerExecutor
from utils.reporting.record import read_record
from utils.reporting.results import read_rows
from utils.reporting.runs import output_of
from utils.reporting.tables import energy
from utils.spiking.spike_schedule import encode
from utils.spiking.stepwise import StepwiseExecutor

STAGES = ["baseline", "sparse", "pruned", "finetuned", "quantised", "spiking"]
NUMBERS = ["map50", "map", "params", "macs", "bytes", "latency_ms", "energy_pj"]
QUICK = ["--cfg", "net.cfg", "--data", "set.data", "--epochs", "2", "--sparse-epochs", "2", "--finetune-epochs", "2"]
QUICK += [
    "--percent",
    "0.5",
    "--workers",
    "0",
    "--device",
    "cpu",
    "--s",
    "0.01",
    "--max-drop",
    "0.99",
]  # any score will do


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which compress.py has run once."""
    folder = tmp_path_factory.mktemp("chain")
    write_scenes(folder)
    before = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    compress.run(compress.parser().parse_args([*QUICK, "--target", "generic"]))
    yield folder
    os.chdir(before)


def run(script, *words):
    workers = [] if script is detect else ["--workers", "0"]  # it reads one picture after the other
    return script.run(script.parser().parse_args(["--data", "set.data", *workers, "--device", "cpu", *words]))


def test_a_part_has_a_row_of_clocks_a_stage_and_a_roofline_on_the_page(place):
    folder = place / "runs" / "compress"
    found = read_record(folder).metrics["hardware"]
    assert list(found["stages"]) == ["baseline", "sparse", "pruned", "finetuned", "quantised"]
    assert found["stages"]["pruned"] == found["stages"]["finetuned"] == found["stages"]["quantised"]
    full = clocks_of_spec(read_cfg(place / "net.cfg"), (64, 64), Engine())
    assert found["stages"]["baseline"] == found["stages"]["sparse"] == full != found["stages"]["pruned"]
    rows = read_rows(folder / "hardware.csv")
    assert sum(row["clocks"] for row in rows) == pytest.approx(found["stages"]["quantised"], abs=50)  # and END's
    page = (folder / "report.html").read_text()
    assert "On hardware" in page and f"{found['stages']['baseline']:,}" in page and "MACs a byte moved" in page
    assert (folder / "roofline.png").stat().st_size > 5000


def network_of_stage(folder, stage):
    record = read_record(folder / "runs" / "compress")
    return folder / record.outputs[STAGES.index(stage)]["path"]


def test_every_stage_has_its_numbers_and_its_checkpoint(place):
    record = read_record(place / "runs" / "compress")
    assert list(record.metrics["stages"]) == STAGES and record.finished
    for stage in STAGES:
        row = record.metrics["stages"][stage]
        assert all(isinstance(row[name], int | float) for name in NUMBERS), stage
        assert network_of_stage(place, stage).is_file()
    assert record.metrics["stages"]["pruned"]["params"] < record.metrics["stages"]["sparse"]["params"]
    for picture in ("detections.jpg", "curves.png", "gammas.png", "channels.png"):
        assert cv2.imread(str(record.folder / picture)) is not None


def test_a_network_has_one_energy_and_one_latency_wherever_it_is_shown(place):
    chain = read_record(place / "runs" / "compress")
    stages = {name: row["energy_pj"] for name, row in chain.metrics["stages"].items()}
    made = {name: read_record(next(place.glob(f"runs/{name}*"))).metrics for name in ("quantize", "convert_snn")}
    quantised, converted = made["quantize"], made["convert_snn"]
    assert quantised["quantised"]["energy_pj"] == converted["quantised"]["energy_pj"] == stages["quantised"]
    assert quantised["float"]["energy_pj"] == stages["finetuned"] == stages["pruned"] < stages["baseline"]
    spiking = converted["spiking"]
    assert (spiking["energy_ann_fp32_pj"], spiking["energy_ann_int8_pj"]) == (stages["finetuned"], stages["quantised"])
    assert spiking["energy_pj"] == stages["spiking"]
    page = (chain.folder / "report.html").read_text()
    assert all(energy(value).replace("u", "µ") in page for value in stages.values())
    timed = [path.parent.name for path in place.glob("runs/*/record.json") if '"latency_ms"' in path.read_text()]
    assert timed == ["compress"], "in turns, at the end"


def test_integers_that_were_trained_have_the_bytes_of_their_own_file_and_not_of_the_floats(place):
    float_file = str(network_of_stage(place, "finetuned"))
    words = ["--weights", float_file, "--quantized", "google", "--epochs", "1", "--name", "file"]
    trained = next(path for path in run(train, *words).paths("last*.pt") if not path.name.endswith(".int.pt"))
    config = compress.parser().parse_args([*QUICK[2:], "--weights", str(trained)])
    row = summary._measure(open_session(config), trained).row
    packed = Path("weights/last_file.int.pt").stat().st_size  # which says, too, of which file it was made
    assert row["bytes"] == pytest.approx(packed, abs=128) and packed < trained.stat().st_size / 3
    assert row["energy_pj"] == read_record(place / "runs/compress").metrics["stages"]["quantised"]["energy_pj"]


def test_spiking_and_quantised_are_equal_to_the_last_digit(place):
    stages = read_record(place / "runs" / "compress").metrics["stages"]
    for name in ("map50", "map", "precision", "recall", "f1"):
        assert stages["spiking"][name] == stages["quantised"][name]


def test_spike_counts_equal_integer_levels_in_every_layer_after_reloading(place):
    integers = load_model(network_of_stage(place, "quantised")).integer
    spikes = load_model(network_of_stage(place, "spiking")).integer
    x = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float() / 255
    counts = StepwiseExecutor(encode(spikes)).simulate(x).counts()
    levels = IntegerExecutor(integers).levels(x)
    assert counts.keys() == levels.keys()
    for i in counts:
        assert torch.equal(counts[i].long(), levels[i].long()), f"layer {i}"


def test_the_network_before_the_cut_teaches_the_one_after_it(place, caplog):
    tuned = read_record(place / "runs" / "train-compress-finetuned")
    assert tuned.args["t_weights"] == "weights/last_compress-baseline.pt" and tuned.args["kd"] == USUAL
    taught = {f"kd_{name}" for name in terms_of(USUAL)}
    assert taught <= read_rows(tuned.folder / "results.csv")[-1].keys()
    record = read_record(place / "runs" / "compress")
    run = record.metrics["runs"]["finetuned"]
    assert (
        run["teacher"] == {"stage": "baseline", "strategy": USUAL} and "teacher" not in record.metrics["runs"]["sparse"]
    )
    assert "--t_weights weights/last_compress-baseline.pt" in run["command"] and f"--KDstr {USUAL}" in run["command"]
    page = (record.folder / "report.html").read_text()
    assert f"trained again after the cut, taught by the baseline network, strategy {USUAL}" in page
    with caplog.at_level("INFO"):
        compress.run(compress.parser().parse_args(QUICK))
    assert "| finetuned (taught) " in caplog.text
    assert f"taught: the baseline network taught the finetuned one, --KDstr {USUAL}" in caplog.text


def test_without_a_teacher_a_stage_is_known_as_it_was_before_there_were_any(place):
    config = compress.parser().parse_args([*QUICK, "--KDstr", "none"])
    tuned = compress.stages(config)[3]
    asked = tuned.decision.next(StageView(budget_of(config), 0.05), [])
    assert tuned.teacher is None and compress.stages(compress.parser().parse_args(QUICK))[3].teacher is not None
    network = network_of_stage(place, "pruned")
    given = {"baseline": network.with_name("x.pt"), "pruned": network}
    left = {name: Left(path, record=None, score=None, print_="", command="") for name, path in given.items()}
    mark, flags = pipeline._Attempts(config, tuned, left, "before", budget_of(config), None)._flags(asked)
    message = ["before", "finetuned", "--epochs", "2", "--data", "set.data", "--device", "cpu", "--cache", "auto"]
    message = [*message, "--seed", "0", hashlib.sha256(network.read_bytes()).hexdigest()]
    assert mark == hashlib.sha256(json.dumps(message).encode()).hexdigest()
    assert not {"--KDstr", "--t_weights"} & set(flags)


def test_running_again_redoes_nothing(place):
    before = {path: path.stat().st_mtime_ns for path in (place / "weights").iterdir()}
    record = compress.run(compress.parser().parse_args(QUICK))
    assert {path: path.stat().st_mtime_ns for path in (place / "weights").iterdir()} == before
    assert record.folder.name == "compress"


def test_another_input_makes_only_the_stages_that_depend_on_it_anew(place):
    before = set((place / "weights").iterdir())
    record = compress.run(compress.parser().parse_args([*QUICK, "--a-bit", "5"]))
    new = {path.name for path in set((place / "weights").iterdir()) - before}
    assert len(new) == 2 and all(name.endswith((".int.pt", ".snn.pt")) for name in new)
    assert record.folder.name == "compress-2"


def test_pruned_cfg_and_weights_give_what_the_checkpoint_gives_and_opencv_agrees(place):
    path = network_of_stage(place, "pruned")
    weights = path.with_suffix(".weights")
    cfg = place / "cfg" / "pruned" / f"{path.stem}.cfg"
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    oracle = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    oracle.setInput(x.numpy())
    names = [f"conv_{j}" for j in head_convolutions(read_cfg(cfg)).values()]
    with torch.no_grad():
        ours, reread = load_model(path).predictor(x), load_model(weights, cfg).predictor(x)
    for a, b, c in zip(ours, reread, oracle.forward(names), strict=True):
        assert torch.equal(a, b)
        assert np.abs(c - a.numpy()).max() <= 1e-4 * np.abs(c).max()


@pytest.mark.parametrize("stage", STAGES)
def test_test_and_detect_take_every_kind_of_checkpoint(place, stage):
    weights = str(network_of_stage(place, stage))
    record = run(test, "--weights", weights, "--save-json", "--name", stage)
    row = read_record(place / "runs" / "compress").metrics["stages"][stage]
    assert [record.metrics[name] for name in ("map50", "energy_pj")] == [row["map50"], row["energy_pj"]]
    assert {"pr_curves.png", "confusion.png", "detections.jpg", "detections.json"} <= {p.name for p in record.paths()}
    found = run(detect, "--weights", weights, "--source", "images/valid", "--save-txt", "--save-json", "--name", stage)
    assert found.metrics["images"] == 4
    assert len(list(found.folder.glob("*.jpg"))) == len(list(found.folder.glob("*.txt"))) == 4


def test_detect_never_deletes_and_repeats_itself(place):
    words = ["--weights", str(network_of_stage(place, "spiking")), "--source", "images/valid", "--save-json"]
    one, two = run(detect, *words, "--conf-thres", "0.0001"), run(detect, *words, "--conf-thres", "0.0001")
    assert one.folder != two.folder
    assert (one.folder / "detections.json").read_bytes() == (two.folder / "detections.json").read_bytes()
    assert one.metrics["boxes"] > 0


def test_quantised_and_spiking_detections_are_the_same_boxes(place):
    found = [
        run(detect, "--weights", str(network_of_stage(place, stage)), "--source", "images/valid", "--save-json",
            "--conf-thres", "0.0001").folder / "detections.json"
        for stage in ("quantised", "spiking")
    ]  # fmt: skip
    assert found[0].read_bytes() == found[1].read_bytes()


def test_a_percent_that_does_not_survive_is_refused_before_anything_is_written(place):
    before = {p: p.stat().st_mtime_ns for kind in ("weights", "cfg", "runs") for p in (place / kind).rglob("*")}
    with pytest.raises(InputError, match=r"percent 0\.95.* use --percent 0\.\d\d at most"):
        run(slim_prune, "--weights", str(network_of_stage(place, "baseline")), "--percent", "0.95", "--layer-keep", "0")
    assert before == {p: p.stat().st_mtime_ns for kind in ("weights", "cfg", "runs") for p in (place / kind).rglob("*")}


def test_what_cannot_spike_names_layer_line_and_remedy(place):
    (place / "swish.cfg").write_text((place / "net.cfg").read_text().replace("activation=relu", "activation=swish", 1))
    spec = read_cfg(place / "swish.cfg")
    write_weights(place / "swish.weights", network_of(Darknet(spec)))
    with pytest.raises(InputError, match=r"layer 0 \(cfg line 7\).*swish.*relu"):
        run(convert_snn, "--cfg", "swish.cfg", "--weights", "swish.weights")


def test_a_spiking_network_cannot_be_pruned(place):
    with pytest.raises(InputError, match="a spiking network; prune the float one"):
        run(slim_prune, "--weights", str(network_of_stage(place, "spiking")), "--percent", "0.1")


def test_four_bit_weights_make_a_smaller_file(place):
    float_path = network_of_stage(place, "finetuned")
    small = output_of(run(quantize, "--weights", str(float_path), "--w-bit", "4", "--name", "four"))
    eight = network_of_stage(place, "quantised")
    assert small is not None and small.stat().st_size < eight.stat().st_size


# What SIGKILL cuts: a file, the time it is being written, and whether it still gets its name.
CUTS = [
    ("weights/last_compress-baseline.pt", 1, True),  # in training, after the first epoch of two
    ("weights/last_compress-sparse.pt", 2, False),  # in the middle of writing the second epoch's checkpoint
    ("weights/slim_prune_0.5_compress-pruned.pt", 1, True),  # the network is there, its cfg and its record are not
    ("runs/train-compress-finetuned/record.json", 2, False),  # everything is there but the end of the record
    ("weights/last_compress-finetuned*.snn.pt", 1, True),  # converted, not proved yet
    ("runs/compress/record.json", 1, True),  # all stages done, nothing compared
]
KILLER = """
import fnmatch, os, pathlib, signal, sys
pattern, count, named = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
rename, seen = pathlib.Path.replace, []

def replace(path, target):
    if fnmatch.fnmatch(str(target), pattern):
        seen.append(target)
        if len(seen) == count:
            if named:
                rename(path, target)
            os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)

pathlib.Path.replace = replace
sys.argv = ["compress.py", *sys.argv[4:]]
import compress
from utils import cli
cli.main(compress.run, compress.parser())
"""


def finished(folder):
    """The files of every finished stage, and when they were written."""
    records = [read_record(path) for path in folder.glob("runs/*/record.json")]
    paths = [path for each in records if each.finished for path in (each.folder / "record.json", *each.paths())]
    return {str(path): (folder / path).stat().st_mtime_ns for path in paths}


def test_killed_at_any_moment_it_goes_on_where_it_was_cut(tmp_path, monkeypatch, caplog):
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    message, stages, before = [], [], {}
    for cut in CUTS:
        command = [sys.executable, "-c", KILLER, *map(str, cut), *QUICK]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, (cut, done.stdout, done.stderr)
        after = finished(tmp_path)
        assert {path: after.get(path) for path in before} == before, cut
        before = after
        message.append(done.stdout)
        stages.append(done.stdout.count("done before"))
    assert stages == [0, 0, 1, 2, 3, 5]
    assert ["resume: weights/last_compress-baseline.pt, after epoch 1" in each for each in message[:3]] == [0, 1, 0]
    assert "resume: weights/last_compress-sparse.pt, after epoch 1" in message[2]
    with caplog.at_level("INFO"):
        record = compress.run(compress.parser().parse_args(QUICK))
    assert caplog.text.count("done before") == 6
    after = finished(tmp_path)
    assert {path: after[path] for path in before} == before
    assert record.finished and list(record.metrics["stages"]) == STAGES and record.folder.name == "compress"
    for stage in ("baseline", "sparse"):
        assert [row["epoch"] for row in read_rows(f"runs/train-compress-{stage}/results.csv")] == [1, 2]
    assert not [path for path in (tmp_path / "runs").rglob(".*") if path.name.endswith(".png")]


def test_a_stage_is_known_by_a_plain_name_that_does_not_grow(place):
    paths = [network_of_stage(place, stage).name for stage in STAGES]
    trained = ["last_compress-baseline.pt", "last_compress-sparse.pt"]
    after = ["last_compress-finetuned.pt", "last_compress-finetuned.int.pt", "last_compress-finetuned.snn.pt"]
    assert paths == [*trained, "slim_prune_0.5_compress-pruned.pt", *after]


def test_a_corrected_label_is_another_input(tmp_path):
    task, data = DetectionTask(), read_manifest(write_scenes(tmp_path / "one"))
    before = chain_start._data_fingerprint(task, data)
    assert chain_start._data_fingerprint(task, read_manifest(write_scenes(tmp_path / "two"))) == before
    (tmp_path / "one/labels/train/3.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    changed = chain_start._data_fingerprint(task, data)
    (tmp_path / "one/train.txt").write_text("images/train/0.png\n")
    assert len({before, changed, chain_start._data_fingerprint(task, data)}) == 3


def test_a_folder_of_images_is_a_data_set_too(place):
    for kind in ("images", "labels"):
        shutil.copytree(place / kind / "train", place / "folder" / kind / "train")
        shutil.copytree(place / kind / "valid", place / "folder" / kind / "val")
    (place / "folder/set.names").write_text("blue\ngreen\n")
    weights = str(network_of_stage(place, "finetuned"))
    record = run(test, "--weights", weights, "--data", "folder", "--name", "folder")
    assert record.metrics["map50"] == read_record(place / "runs" / "compress").metrics["stages"]["finetuned"]["map50"]
    assert chain_start._data_fingerprint(DetectionTask(), read_manifest("folder"))


def test_benchmark_measures_whole_steps_of_the_network(place):
    record = run(test, "--weights", str(network_of_stage(place, "finetuned")), "--task", "benchmark")
    assert list(record.metrics) == [f"{n}x{n} iou {iou}" for n in (48, 64, 80) for iou in (0.5, 0.7)]


def test_pictures_show_one_box_a_place():
    rows = [[10, 10, 30, 30, 0.9, 0], [11, 10, 31, 30, 0.8, 1], [10, 12, 30, 32, 0.5, 0]]  # one thing, three times
    rows += [[40, 40, 60, 60, 0.6, 1], [5, 40, 20, 60, 0.2, 1]]
    shown = boxes_to_show(torch.tensor(rows), 2)
    torch.testing.assert_close(shown, torch.tensor(rows)[[0, 3]])
    assert boxes_to_show(torch.zeros(0, 6), 2).shape == (0, 6)


def test_a_reloaded_network_is_the_network(place):
    loaded = load_model(network_of_stage(place, "finetuned"))
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a, b in zip(loaded.predictor(x), build(loaded.network)(x), strict=True):
            torch.testing.assert_close(a, b)
