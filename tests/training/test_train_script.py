"""train.py from its command line, on eight drawn images and a network of a few channels."""

from __future__ import annotations

import argparse
import json
import random
import resource
from pathlib import Path

import numpy
import pytest
import torch

import pipeline.train
import train
from models import build
from pipeline.init_weights import tell_unused_keys
from tests.conftest import ROOT
from tests.scenes import POOL, convolution, head, section, undrawn_runs, write_scenes
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.darknet.weights import write_weights
from utils.errors import InputError
from utils.reporting.record import Record, latest_record, read_record
from utils.reporting.results import read_rows
from utils.tasks import task_of


def cfg(classes: int = 2, filters: int = 8) -> str:
    """A network of two convolutions for images of 64 x 32 px, with keys of [net] that train.py does not follow."""
    net = {"batch": 4, "subdivisions": 2, "width": 64, "height": 32, "learning_rate": 0.001, "policy": "steps"}
    body = (convolution(filters, stride=2), section("dropout", probability=0.2), convolution(filters, stride=2))
    return "".join((section("net", **net), *body, POOL, head(classes, anchors="8,8, 20,20")))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """No pictures: one test looks at them, the others save their time."""
    undrawn_runs(monkeypatch)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a data set of eight training and four validation images, two classes, and a cfg for it."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, train=8, valid=4, shape=(40, 80), cfg=cfg())
    return tmp_path


def flags(*words: str) -> argparse.Namespace:
    given = ["--data", "set.data", "--device", "cpu", "--workers", "0", *words]
    return train.parser().parse_args(given)


def run(*words: str) -> Record:
    return train.run(flags("--cfg", "net.cfg", *words))


def state(path: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).network.state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "words", [[], ["-sr", "--s", "0.1", "--multi-scale", "--s-schedule", "decay"], ["--adam", "--no-ema"]]
)
@pytest.mark.usefixtures("undrawn")
def test_resumed_run_ends_in_the_weights_of_the_unbroken_one(place, monkeypatch, words):
    words = ["--epochs", "4", "--val-interval", "1", *words]
    run(*words, "--name", "whole")
    validate, calls = pipeline.train.validate, []

    def cut(job):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(job)

    monkeypatch.setattr(pipeline.train, "validate", cut)
    with pytest.raises(KeyboardInterrupt):
        run(*words, "--name", "cut")
    assert not read_record("runs/train-cut").finished
    monkeypatch.setattr(pipeline.train, "validate", validate)
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)  # another process
    record = train.run(flags("--resume"))

    assert record.folder.name == "train-cut" and record.finished and record.args["epochs"] == 4
    assert same(state("weights/last_cut.pt"), state("weights/last_whole.pt"))
    assert same(state("weights/best_cut.pt"), state("weights/best_whole.pt"))
    clock = {"images_per_second", "wait_share", "seconds"}
    rows = [
        [{k: v for k, v in row.items() if k not in clock} for row in read_rows(f"runs/train-{name}/results.csv")]
        for name in ("cut", "whole")
    ]
    assert rows[0] == rows[1] and [row["epoch"] for row in rows[0]] == [1, 2, 3, 4]
    assert record.inputs == read_record("runs/train-whole").inputs
    with pytest.raises(InputError, match="no run in weights/ was cut"):
        train.run(flags("--resume"))
    with pytest.raises(InputError, match=r"last_cut\.pt: this run came to its end"):
        train.run(flags("--resume", "weights/last_cut.pt"))


def test_run_leaves_weights_curves_pictures_and_a_record(place):
    record = run("--epochs", "2", "-sr", "--prune", "1")
    content = json.loads((place / "runs/train/record.json").read_text())
    assert {"map50", "map", "precision", "recall", "f1", "params", "macs", "bytes", "best", "sparsity"} <= content[
        "metrics"
    ].keys()
    left = {Path(item["path"]).name for item in content["outputs"]}
    assert left == {
        "last.pt",
        "best.pt",
        "results.csv",
        "results.png",
        "gammas.csv",
        "gammas.png",
        "train_batch.jpg",
        "valid_batch.jpg",
    }
    assert {"set.data", "net.cfg", "train.txt", "valid.txt"} == {Path(item["path"]).name for item in content["inputs"]}
    checkpoint = load_checkpoint("weights/last.pt")
    assert checkpoint.names == ("blue", "green") and checkpoint.training == {}
    assert content["metrics"]["params"] == sum(p.numel() for p in build(checkpoint.network).parameters())
    assert latest_record("runs", "train*", lambda found: found.args["sparse"]) == record
    row = read_rows("runs/train/results.csv")[-1]
    assert row["near_zero"] == content["metrics"]["sparsity"]["near_zero"] and "gamma_q50" in row


@pytest.mark.usefixtures("undrawn")
def test_second_run_of_a_name_touches_nothing_of_the_first(place):
    run("--epochs", "1")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    record = run("--epochs", "1", "--seed", "1")
    assert record.folder.name == "train-2" and {p.name for p in record.paths("*.pt")} == {"last-2.pt", "best-2.pt"}
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.usefixtures("undrawn")
def test_same_seed_gives_the_same_weights_and_another_does_not(place):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        run("--epochs", "1", "--seed", seed, "--name", name)
    assert same(state("weights/last_a.pt"), state("weights/last_b.pt"))
    assert not same(state("weights/last_a.pt"), state("weights/last_c.pt"))


@pytest.mark.usefixtures("undrawn")
def test_best_is_the_last_epoch_when_that_is_the_best(place, monkeypatch):
    scores = iter([0.1, 0.4, 0.2, 0.4])
    validate = pipeline.train.validate

    def scored(job):
        metrics = validate(job)
        object.__setattr__(metrics, "map", next(scores))
        return metrics

    monkeypatch.setattr(pipeline.train, "validate", scored)
    record = run("--epochs", "4", "--val-interval", "1")
    assert record.metrics["best"]["epoch"] == 4 and load_checkpoint("weights/best.pt").meta["epoch"] == 4


def test_wrong_class_count_names_both_numbers_and_the_remedy(place):
    (place / "net.cfg").write_text(cfg(classes=80))
    with pytest.raises(InputError, match=r"net\.cfg: heads for 80 classes, set\.data has 2; add -pt"):
        run("--epochs", "1")
    assert not (place / "runs").exists() and not (place / "weights").exists()


@pytest.mark.parametrize("suffix", ["weights", "pt"])
def test_pretrained_keeps_the_backbone_and_starts_heads_at_their_priors(place, suffix, caplog):
    (place / "net.cfg").write_text(cfg(classes=80))
    (place / "many.names").write_text("\n".join(map(str, range(80))))
    from utils.darknet.cfg import read_cfg

    torch.manual_seed(5)
    task = task_of(read_cfg("net.cfg"))
    network = pipeline.init_weights.fill(read_cfg("net.cfg"), {}, task)
    network = Network(
        network.spec, {key: torch.rand_like(v) if v.is_floating_point() else v for key, v in network.state.items()}
    )
    if suffix == "pt":
        save_checkpoint("given.pt", Checkpoint(network))
    else:
        write_weights("given.weights", network)
    args = flags("--weights", f"given.{suffix}", "-pt", *(["--cfg", "net.cfg"] if suffix == "weights" else []))
    with caplog.at_level("INFO"):
        start = pipeline.init_weights.fitted(
            pipeline.init_weights.read_initial(args), args, task, task.open_data("set.data")
        )
    assert "replaced by fresh ones for 2" in caplog.text
    kept = {
        key
        for key, value in start.network.state.items()
        if key in network.state and torch.equal(value, network.state[key])
    }
    assert "layers.0.conv.weight" in kept and "layers.2.bn.running_var" in kept
    assert start.network.state["layers.4.conv.weight"].shape[0] == 14 and not start.scratch
    bias = start.network.state["layers.4.conv.bias"].view(2, 7)
    assert bias[:, 4].sigmoid().tolist() == pytest.approx([0.01, 0.01])


@pytest.mark.usefixtures("undrawn")
def test_checkpoint_brings_its_own_structure(place):
    run("--epochs", "1")
    record = train.run(flags("--weights", "weights/last.pt", "--epochs", "1", "--name", "again"))
    assert load_checkpoint("weights/last_again.pt").network.spec == load_checkpoint("weights/last.pt").network.spec
    assert "weights/last.pt" in {item["path"] for item in record.inputs}
    (place / "other.cfg").write_text(cfg(filters=4))
    with pytest.raises(InputError, match=r"carries another structure than other\.cfg; leave --cfg away"):
        train.run(flags("--weights", "weights/last.pt", "--cfg", "other.cfg"))


@pytest.mark.usefixtures("undrawn")
def test_unused_net_keys_are_told_in_one_line(place, caplog):
    with caplog.at_level("INFO"):
        run("--epochs", "1", "--notest", "--nosave")
    told = [item.message for item in caplog.records if item.message.startswith("cfg [net]")]
    assert told == ["cfg [net]: learning_rate, policy not used; train.py's own flags and defaults apply"]


@pytest.mark.parametrize("name", ["dvs-digits-lif", "nmnist-lif", "spiking/ems-resnet10"])
def test_keys_that_shape_a_spiking_network_are_not_told_as_unused(caplog, name):
    spec = read_cfg(ROOT / f"cfg/{name}.cfg")
    with caplog.at_level("INFO"):
        tell_unused_keys(spec, task_of(spec))
    shaping = {key for key, _ in spec.net} & {"readout", "timesteps", "input", "event_bins", "width"}
    (told,) = [item.message for item in caplog.records if item.message.startswith("cfg [net]")] or [""]
    assert len(shaping) >= 2 and not shaping & set(told.replace(",", " ").split())


def test_batches_and_steps_follow_the_cfg_and_the_flags(place):
    job = pipeline.training_run.assemble(flags("--cfg", "net.cfg", "--epochs", "3"))
    assert (job.train.batch_size, job.update.accumulate, job.update.schedule.steps) == (
        1,
        1,
        24,
    )  # eight images: all small
    (place / "train.txt").write_text((place / "train.txt").read_text() * 10)
    job = pipeline.training_run.assemble(flags("--cfg", "net.cfg", "--epochs", "3"))
    assert (job.train.batch_size, job.update.accumulate, job.update.schedule.steps) == (
        2,
        2,
        60,
    )  # batch=4 in two parts
    job = pipeline.training_run.assemble(
        flags("--cfg", "net.cfg", "--epochs", "3", "--batch-size", "8", "--img-size", "64", "96")
    )
    assert (job.train.batch_size, job.update.accumulate, job.size) == (8, 1, (64, 96))
    rates = {group["initial_lr"] for group in job.update.optimizer.param_groups}
    assert rates == {0.2}


def test_image_size_that_does_not_divide_is_refused(place):
    with pytest.raises(InputError, match="--img-size: 36x36 px do not divide by 8"):
        run("--img-size", "36")


@pytest.mark.usefixtures("undrawn")
def test_spiking_checkpoint_is_refused(place):
    run("--epochs", "1")
    spiking = Checkpoint(load_checkpoint("weights/last.pt").network, kind="spiking")
    save_checkpoint("x.snn.pt", spiking)
    with pytest.raises(InputError, match="a spiking checkpoint can not be trained"):
        train.run(flags("--weights", "x.snn.pt"))


@pytest.mark.usefixtures("undrawn")
def test_run_cut_behind_its_last_epoch_only_writes_what_is_missing(place, monkeypatch):
    def killed(run_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.epoch_report, "draw", killed)
        with pytest.raises(KeyboardInterrupt):
            run("--epochs", "2")
    weights = state("weights/last.pt")
    record = run("--resume")
    assert same(state("weights/last.pt"), weights) and not load_checkpoint("weights/last.pt").training
    assert record.metrics["map50"] == read_rows(record.folder / "results.csv")[-1]["map50"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("before_configs", [False, True])
def test_run_begun_before_there_was_a_flag_goes_on_without_it(place, monkeypatch, before_configs):
    def killed(run_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.epoch_report, "draw", killed)
        with pytest.raises(KeyboardInterrupt):
            run("--epochs", "2")
    cut = load_checkpoint("weights/last.pt")
    for name in ("log", "tensorboard", "progressive", "sparsify", "acc_bits", "act", "t_data"):
        del cut.training["config"][name]
    if before_configs:  # then the flags stood there as they were, and the parts of an update beside one another
        cut.training["args"] = cut.training.pop("config")
        cut.training.update(cut.training.pop("update"))
    save_checkpoint("weights/last.pt", cut)
    assert run("--resume").finished


def test_full_disk_is_told_the_last_checkpoint_survives_and_the_run_goes_on_from_it(place, undrawn, monkeypatch):
    """The disk is full from the second epoch on: no file may grow beyond 4 kB."""
    run("--epochs", "3", "--val-interval", "1", "--name", "whole")
    limits, train_epoch = resource.getrlimit(resource.RLIMIT_FSIZE), pipeline.train._learn

    def filling(job, epoch):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits[0] if epoch == 0 else 4096, limits[1]))
        return train_epoch(job, epoch)

    monkeypatch.setattr(pipeline.train, "_learn", filling)
    try:
        with pytest.raises(InputError, match=r"weights/(best|last)_cut\.pt: .*nothing there was changed, make room"):
            run("--epochs", "3", "--val-interval", "1", "--name", "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint("weights/last_cut.pt").training["progress"]["epochs"] == 1
    assert not [path for path in place.rglob("*") if ".tmp" in path.name]
    monkeypatch.setattr(pipeline.train, "_learn", train_epoch)
    run("--resume", "weights/last_cut.pt")
    assert same(state("weights/last_cut.pt"), state("weights/last_whole.pt"))
