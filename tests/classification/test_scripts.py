"""The chain from the command line, on a few images of three classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models import load_model
from tests.classification.test_data import write_set
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.network import load_checkpoint
from utils.distillation.soft import SoftDistiller
from utils.errors import InputError
from utils.reporting.record import read_record
from utils.tasks import check_idle, task_of

CFG = """# three classes
[net]
width=32
height=32
batch=4
label_smooth_eps=0.1
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=relu
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=relu
[avgpool]
[convolutional]
filters=3
size=1
activation=linear
[softmax]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    write_set(folder / "set", size=32)
    (folder / "net.cfg").write_text(CFG)
    return folder


def run(script: str, *flags: object):
    module = __import__(script)
    config = module.parser().parse_args([*map(str, flags)])
    return module.run(config)


def test_the_chain_of_scripts_runs_on_classes(place, monkeypatch):
    monkeypatch.chdir(place)
    data = ("--data", "set", "--workers", 0)
    trained = run("train", "--cfg", "net.cfg", *data, "--epochs", 3, "--name", "a", "--jpeg", "reduced")
    assert {"top1", "top5", "balanced"} <= set(trained.metrics)
    assert (trained.folder / "train_batch.jpg").is_file() or any(trained.folder.glob("*.jpg"))
    last = trained.paths("last*.pt")[0]
    again = run("train", "--weights", last, *data, "--epochs", 1, "--KDstr", "soft", "--t_weights", last, "--name", "b")
    assert again.metrics["top1"] >= 0
    tested = run("test", "--weights", last, *data, "--save-json")
    assert (tested.folder / "confusion.png").is_file() and (tested.folder / "confusion.csv").is_file()
    rows = json.loads((tested.folder / "classes.json").read_text())
    assert len(rows) == 12 and rows[0]["image"].startswith("cat/")
    found = run("detect", "--weights", last, "--source", "set/val/dog", "--conf-thres", 0.01, "--save-json")
    assert len(json.loads((found.folder / "classes.json").read_text())) == 4 * 3
    few = run("detect", "--weights", last, "--conf-thres", 0, "--save-json")
    shown = {Path(row["image_id"]).parent.name for row in json.loads((few.folder / "classes.json").read_text())}
    assert few.metrics["images"] == 10 and len(shown) == 3, "of all classes, which a folder lists one by one"
    pruned = run("slim_prune", "--weights", last, *data, "--percent", 0.2, "--force")
    assert pruned.metrics["silenced"]["top1"] == pruned.metrics["after"]["top1"]
    quantised = run("quantize", "--weights", last, *data)
    (integers,) = quantised.paths("*.int.pt")
    assert load_checkpoint(integers).kind == "quantised"
    converted = run("convert_snn", "--weights", integers, *data)
    assert converted.metrics["spiking"]["top1"] == converted.metrics["quantised"]["top1"]
    run("export", "c", "--weights", integers, "--data", "set", "--golden", 2)
    manifest = json.loads(next(place.glob("export/*/manifest.json")).read_text())
    head = manifest["layers"][-1]
    assert (head["kind"], head["head"], head["averages"]) == ("head", "softmax", True)
    made = (last, *pruned.paths("*.pt"), integers, *converted.paths("*.pt"))
    assert len(made) > 3 and {load_model(path).jpeg for path in made} == {"reduced"}
    run("export", "qonnx", "--weights", integers, "--data", "set", "--out", "other")
    assert read_record(converted.folder).task.headline == "top1"


def test_a_flag_that_cannot_act_on_classes_is_refused():
    task = task_of(parse_cfg(CFG))
    with pytest.raises(InputError, match="--iou-thres: cannot act in classification: classes do not overlap; leave it"):
        check_idle(task, ("data", "iou_thres"))
    with pytest.raises(InputError, match="--mosaic: cannot act"):
        check_idle(task, ("mosaic",))
    check_idle(task, ("data", "epochs"))


def test_other_classes_than_the_datas_are_refused_and_pt_gives_new_ones(place):
    task, spec = task_of(parse_cfg(CFG)), parse_cfg(CFG.replace("filters=3\nsize=1", "filters=7\nsize=1"))
    manifest = task.open_data(place / "set")
    with pytest.raises(InputError, match="an output for 7 classes, set has 3; add -pt"):
        task.adapt(spec, manifest, "net.cfg", fresh=False)
    assert task.classes(task.adapt(spec, manifest, "net.cfg", fresh=True)) == 3
    with pytest.raises(InputError, match="tells 7 classes apart"):
        task.check_classes(spec, manifest, "w.pt")


def test_the_loss_is_torchs_cross_entropy_with_the_smoothing_of_net(place):
    spec = parse_cfg(CFG)
    raw, labels = torch.randn(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    batch = type("B", (), {"labels": labels})()
    expected = torch.nn.functional.cross_entropy(raw.mean((2, 3)), labels, label_smoothing=0.1)
    assert torch.equal(task_of(spec).loss(spec)([raw], batch)["total"], expected)
    with pytest.raises(InputError, match="label_smooth_eps=2 must be from 0"):
        wrong = parse_cfg(CFG.replace("eps=0.1", "eps=2"))
        task_of(wrong).loss(wrong)
    with pytest.raises(InputError, match="groups=3 cannot be trained"):
        parted = parse_cfg(CFG + "groups=3\n")
        task_of(parted).loss(parted)


def test_what_no_loss_is_for_is_refused_before_there_is_a_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("parted.cfg").write_text(CFG + "groups=3\n")
    with pytest.raises(InputError, match="groups=3 cannot be trained"):
        run("train", "--cfg", "parted.cfg", "--data", place / "set", "--device", "cpu", "--workers", 0)
    assert not Path("runs").exists()


def test_the_distance_of_a_network_from_itself_is_0_and_grows():
    spec = parse_cfg(CFG)
    base = torch.randn(6, 3, 1, 1)
    far = task_of(spec).distance(spec, (32, 32), [base])
    assert far([base]) == pytest.approx(0, abs=1e-7)
    assert 0 < far([base + 0.1 * torch.ones(1, 3, 1, 1) * torch.tensor([1, 0, 0]).view(1, 3, 1, 1)]) < far([-base])


def test_a_teacher_of_classes_teaches_softened_scores_and_nothing_of_boxes():
    spec = parse_cfg(CFG)
    scores = torch.randn(2, 3, 1, 1)
    teacher = torch.nn.Module()
    teacher.forward = lambda x: [scores]
    distiller = SoftDistiller(spec, teacher, spec, "soft")
    assert float(distiller(torch.zeros(2, 3, 32, 32), [scores])["kd_soft"]) == pytest.approx(0, abs=1e-6)
    student = torch.randn(2, 3, 4, 4)
    p, q = (torch.softmax(x / 3, 1) for x in (scores.flatten(1), student.mean((2, 3))))
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    assert float(distiller(torch.zeros(2, 3, 32, 32), [student])["kd_soft"]) == pytest.approx(float(expected), rel=1e-5)
    for strategy in ("attention", "objectness"):
        with pytest.raises(InputError, match=f"--KDstr {strategy}: is for networks that find boxes"):
            SoftDistiller(spec, teacher, spec, strategy)
    with pytest.raises(InputError, match="tells 10 classes apart, the student 3"):
        SoftDistiller(spec, teacher, read_cfg("cfg/cifar-resnet20.cfg"), "soft")
