"""train.py with a teacher, from its command line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import pytest
import torch

import compress
import pipeline.train
import pipeline.training_run
import slim_prune
import train
from pipeline.pipeline import TeacherSpec
from tests.scenes import CFG, undrawn_runs, write_scenes
from utils.darknet.network import Checkpoint, load_checkpoint, save_checkpoint
from utils.distillation.strategies import USUAL
from utils.errors import InputError
from utils.reporting.record import Record, read_record
from utils.reporting.results import read_rows

WIDE = CFG.replace("filters=16", "filters=24")
HERE = ["--data", "set.data", "--device", "cpu", "--workers", "0"]


def run(*words: str) -> Record:
    return train.run(train.parser().parse_args([*HERE, *words]))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """A folder with a data set, unlabelled images and a wider, trained teacher."""
    folder = tmp_path_factory.mktemp("lesson")
    write_scenes(folder, train=8, valid=4)
    write_scenes(folder / "more", train=5, valid=1)
    (folder / "more/images/train").rename(folder / "bare")
    (folder / "wide.cfg").write_text(WIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        undraw(patch)
        run("--cfg", "wide.cfg", "--epochs", "2", "--name", "teacher")
    return folder


def undraw(patch) -> None:
    undrawn_runs(patch)


@pytest.fixture
def place(lesson, monkeypatch) -> Path:
    monkeypatch.chdir(lesson)
    undraw(monkeypatch)
    return lesson


TEACHER = ["--t_weights", "weights/last_teacher.pt", "--cfg", "net.cfg"]


def cut_run(monkeypatch, *words: str) -> None:
    """A run that ends in its third epoch's validation."""
    validate, calls = pipeline.train.validate, []

    def cut(job):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(job)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline.train, "validate", cut)
        run(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["--KDstr", "5"],
        ["--kd", "cwd+mgd", "-sr", "--s", "0.1", "--prune", "1"],
        ["--KDstr", "4+cwd", "--t_data", "bare", "--multi-scale", "--adam", "--no-ema"],
    ],
)
def test_resumed_run_ends_in_the_weights_of_the_unbroken_one(place, monkeypatch, words):
    words = ["--epochs", "4", "--val-interval", "1", *TEACHER, *words]
    name = words[-1].strip("-")
    run(*words, "--name", f"whole{name}")
    cut_run(monkeypatch, *words, "--name", f"cut{name}")
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)  # another process
    record = run("--resume", f"weights/last_cut{name}.pt")
    one, other = (load_checkpoint(f"weights/last_{kind}{name}.pt").network.state for kind in ("cut", "whole"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    rows = [read_rows(f"runs/train-{kind}{name}/results.csv") for kind in ("cut", "whole")]
    losses = [[{k: v for k, v in row.items() if k.startswith("kd_")} for row in each] for each in rows]
    assert losses[0] == losses[1] and len(losses[0]) == 4 and losses[0][0]
    assert "weights/last_teacher.pt" in {item["path"] for item in record.inputs}


def test_terms_are_told_by_name_and_sum_up(place, caplog):
    with caplog.at_level("INFO"):
        run("--epochs", "1", *TEACHER, "--KDstr", "5", "--name", "told")
    (row,) = read_rows("runs/train-told/results.csv")
    terms = {name: value for name, value in row.items() if name.startswith("kd_")}
    assert list(terms) == ["kd_box", "kd_class", "kd_object_attention"] and all(v > 0 for v in terms.values())
    parts = sum(terms.values()) + row["box"] + row["objectness"] + row["classification"]
    assert row["total"] == pytest.approx(parts, rel=1e-5)
    assert "outputs at stride 8 and 4; features before the heads at stride 8 and 4" in caplog.text
    assert "the teacher's" in caplog.text
    state = load_checkpoint("weights/last_told.pt").network.state
    assert {key.split(".")[0] for key in state} == {"layers"}


def test_weight_of_nothing_trains_as_without_a_teacher(place):
    words = ["--epochs", "2", "--cfg", "net.cfg"]
    run(*words, "--name", "alone")
    run(*words, *TEACHER[:2], "--KDstr", "5", "--kd-weight", "0", "--name", "zero")
    one, other = (load_checkpoint(f"weights/last_{name}.pt").network.state for name in ("alone", "zero"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_pruned_student_learns_from_what_it_was_pruned_from(place, caplog):
    save_checkpoint("weights/whole.pt", load_checkpoint("weights/last_teacher.pt"))
    words = [*HERE, "--weights", "weights/whole.pt", "--percent", "0.3", "--force"]
    slim_prune.run(slim_prune.parser().parse_args(words))
    with caplog.at_level("INFO"):
        record = run("--weights", "weights/slim_prune_0.3.pt", "--KDstr", "3+mgd", "--epochs", "1", "--name", "pruned")
    assert "teacher weights/whole.pt" in caplog.text and record.args["t_weights"] == "weights/whole.pt"
    assert "weights/whole.pt" in {item["path"] for item in read_record("runs/train-pruned").inputs}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--t_weights", "weights/last_teacher.pt"], "a teacher without a strategy; add --KDstr"),
        (["--t_data", "bare"], "a teacher without a strategy"),
        (["--KDstr", "3"], r"--KDstr 3: no teacher, and this network was not pruned; add --t_weights"),
        (["--KDstr", "3", "--t_weights", "none.pt"], r"--t_weights none\.pt: no such file"),
        (["--KDstr", "3", "--t_weights", "wide.cfg"], r"wide\.cfg: Darknet weights need their structure; add --t_cfg"),
        (["--KDstr", "3", *TEACHER[:2], "--t_data", "bare", "--rect"], "--t_data: its images have not the sizes"),
        (["--KDstr", "3", *TEACHER[:2], "--t_data", "nowhere"], "nowhere: no such list of images"),
        (["--KDstr", "3", "--t_weights", "weights/last.snn.pt"], "a spiking network can not teach; give the float one"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(place, words, message):
    if "weights/last.snn.pt" in words:
        save_checkpoint("weights/last.snn.pt", Checkpoint(load_checkpoint(TEACHER[1]).network, kind="spiking"))
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match=message):
        run("--cfg", "net.cfg", "--epochs", "1", *words)
    assert sorted(place.rglob("*")) == before


def test_unknown_strategy_is_a_line_of_the_parser(capsys):
    with pytest.raises(SystemExit):
        train.parser().parse_args(["--KDstr", "7"])
    assert "no strategy '7'; known are 1 soft" in capsys.readouterr().err


def test_off_is_off():
    for text in ("0", "-1"):
        assert train.parser().parse_args([f"--KDstr={text}"]).kd == text

    def lesson(*words):
        return next(
            s for s in compress.stages(compress.parser().parse_args(list(words))) if s.name == "finetuned"
        ).teacher

    assert lesson() == TeacherSpec("baseline", USUAL) and lesson("--KDstr", "none") is None
    assert lesson("--KDstr", "cwd") == TeacherSpec("baseline", "cwd")


def test_unlabelled_images_are_grey_where_the_labelled_are(place):
    words = [*HERE, *TEACHER, "--KDstr", "1", "--t_data", "bare", "--gray-scale", "--name", "grey"]
    job = pipeline.training_run.assemble(train.parser().parse_args(words))
    for loader in (job.train, job.distillation.extra):
        images = next(iter(loader)).images
        assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
        assert images.float().std() > 1


def test_unlabelled_images_stand_behind_the_labelled_and_change_every_epoch(place):
    words = [
        *HERE,
        *TEACHER,
        "--KDstr",
        "1",
        "--t_data",
        "bare",
        "--batch-size",
        "2",
        "--epochs",
        "2",
        "--name",
        "mixed",
    ]
    job = pipeline.training_run.assemble(train.parser().parse_args(words))

    def epoch(number: int):
        seen = []
        loader, loss = job.distillation.join(job.train, lambda raw, batch: seen.append(raw[0]), number, mosaic=False)
        job.train.set_epoch(number, mosaic=False)
        batches = list(loader)
        for batch in batches:
            loss([batch.images], batch)
            assert batch.labelled == 2 < len(batch.images) and (batch.targets[:, 0] < 2).all()
        assert len(batches) == len(loader) == 4 and all(len(raw) == 2 for raw in seen)
        return [batch.images[2:] for batch in batches]

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert sum(len(images) for images in first) == 7  # batches of 2, 2, 1 of five images, then the next round's
