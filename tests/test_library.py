"""import darkspike: the functions do what the scripts do, to the bit; the command and the installed package are found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import convert_snn
import darkspike as ds
import export
import quantize
import slim_prune
import train
from darkspike.__main__ import SCRIPTS
from models import load_model
from tests.conftest import ROOT
from tests.scenes import undrawn_runs, write_scenes
from utils.config.fields import configured
from utils.config.prune import SlimConfig
from utils.config.quantise import QuantiseConfig
from utils.config.train import TrainConfig
from utils.data.images import read_image
from utils.quantization.choices import Budget
from utils.reporting.record import read_record

HERE = {"data": "set.data", "device": "cpu", "workers": 0}
WORDS = ["--data", "set.data", "--device", "cpu", "--workers", "0"]


def tensors(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor and number of a checkpoint, and where it stands."""
    if isinstance(value, dict):
        for key in value:
            yield from tensors(value[key], f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for i, each in enumerate(value):
            yield from tensors(each, f"{place}.{i}")
    else:
        yield place, value


def same(one: Path, two: Path) -> bool:
    """Whether two checkpoints hold the same, to the bit."""
    first, second = (dict(tensors(torch.load(path, weights_only=True))) for path in (one, two))
    assert first.keys() == second.keys() and any(isinstance(each, torch.Tensor) for each in first.values())
    return all(torch.equal(a, second[k]) if isinstance(a, torch.Tensor) else a == second[k] for k, a in first.items())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The library's results in a folder, and the records of the scripts with the same flags in another one."""
    with pytest.MonkeyPatch.context() as patch:
        undrawn_runs(patch)
        folders = [tmp_path_factory.mktemp(name) for name in ("library", "scripts")]
        for folder in folders:
            write_scenes(folder)
        patch.chdir(folders[1])

        def run(script: Any, *words: str) -> Path:
            record = script.run(script.parser().parse_args([*WORDS, *words]))
            return folders[1] / (record.paths("*.pt") or record.paths("manifest.json"))[0]

        scripts = [run(train, "--cfg", "net.cfg", "--epochs", "2", "-sr", "--prune", "1", "--s", "0.01")]
        scripts += [run(slim_prune, "--weights", "weights/last.pt", "--percent", "0.3", "--force")]
        small = "weights/slim_prune_0.3.pt"
        scripts += [run(quantize, "--weights", small, "--w-bit", "4"), run(convert_snn, "--weights", small)]
        scripts += [run(export, "c", "--weights", "weights/slim_prune_0.3.int.pt", "--golden", "1")]
        patch.chdir(folders[0])
        trained = ds.train(cfg="net.cfg", epochs=2, sparse=True, prune=1, s=0.01, **HERE)
        pruned = ds.prune(trained.network, "slim", percent=0.3, force=True, **HERE)
        quantised, converted = ds.quantize(pruned.network, w_bit=4, **HERE), ds.convert(pruned.path, **HERE)
        exported = ds.export(quantised.network, "c", golden=1, **HERE)
        library = {"train": trained, "prune": pruned, "quantize": quantised, "convert": converted, "export": exported}
        yield SimpleNamespace(folder=folders[0], scripts=dict(zip(library, scripts, strict=True)), library=library)


@pytest.mark.parametrize("name", ["train", "prune", "quantize", "convert"])
def test_a_function_leaves_what_its_script_leaves(made, name):
    result, script = made.library[name], made.scripts[name]
    assert result.path == script.relative_to(script.parent.parent)
    assert same(made.folder / result.path, script)
    theirs = read_record(script.parent.parent / result.record.folder)
    ours = {key: value for key, value in result.metrics.items() if isinstance(value, int | float)}
    clocks = ("seconds", "_ms", "images_per_second", "peak", "wait")
    for key in (key for key in ours if not any(word in key for word in clocks)):
        assert ours[key] == theirs.metrics[key], key
    assert result.record.args == theirs.args


def test_a_hand_off_has_the_files_of_the_scripts(made):
    ours, theirs = made.folder / made.library["export"].folder, made.scripts["export"].parent
    assert made.library["export"].record.script == "export"
    files = {path.relative_to(ours) for path in ours.rglob("*") if path.is_file()}
    assert files == {path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file()}
    for path in (each for each in files if each.suffix in (".npy", ".bin", ".h", ".c")):
        assert (ours / path).read_bytes() == (theirs / path).read_bytes(), path


def test_results_are_networks_to_go_on_with(made):
    trained, quantised, converted = (made.library[name] for name in ("train", "quantize", "convert"))
    assert trained.network.kind == "float" and [row["epoch"] for row in trained.epochs] == [1, 2]
    assert trained.best == Path("weights/best.pt") and trained.metrics["best"]["epoch"] in (1, 2)
    assert quantised.network.kind == "quantised" and converted.network.kind == "spiking"
    assert quantised.integer.scheme == quantised.network.integer.scheme
    assert {"before", "after"} <= made.library["prune"].metrics.keys()


def test_a_picture_is_looked_at_as_detect_py_does(made, monkeypatch):
    monkeypatch.chdir(made.folder)
    network = made.library["train"].network
    found = ds.detect(network, "images/valid/1.png", conf_thres=0.0001)
    assert len(found) == len(found.boxes) == len(found.rows()) > 0 and found.boxes.shape[1] == 6
    words = ["detect", "--weights", "weights/last.pt", "--source", "images/valid/1.png", "--save-json"]
    command = [sys.executable, "-m", "darkspike", *words, "--conf-thres", "0.0001", "--device", "cpu"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = (Path("runs/detect/detections.json")).read_text()
    assert all(f'"score": {row["score"]}' in rows for row in found.rows())
    assert cv2.imread(str(found.save("drawn.jpg"))) is not None


def test_a_picture_may_be_an_array_or_grey(made, monkeypatch):
    monkeypatch.chdir(made.folder)
    network, picture = made.library["quantize"].network, read_image(Path("images/valid/1.png"))
    expected = ds.detect(network, "images/valid/1.png", conf_thres=0.0001).boxes
    assert torch.equal(ds.detect(network, picture, conf_thres=0.0001).boxes, expected)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    shades = [grey, grey[..., None], np.repeat(grey[..., None], 3, 2)]
    one, *others = [ds.detect(network, each, conf_thres=0.0001).boxes for each in shades]
    assert all(torch.equal(one, other) for other in others)
    with pytest.raises(TypeError, match=r"image: float32 \[64, 64, 3\]; must be uint8"):
        ds.detect(network, picture.astype(np.float32))


def test_darknet_weights_keep_the_cfg_they_were_opened_with(made, monkeypatch):
    monkeypatch.chdir(made.folder)
    opened = ds.load("weights/slim_prune_0.3.weights", "cfg/pruned/slim_prune_0.3.cfg")
    again = ds.quantize(opened, w_bit=4, name="darknet", **HERE)
    x = torch.rand(1, 3, 64, 64)
    ours, theirs = again.network.predictor(x), made.library["quantize"].network.predictor(x)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ds.prune("x.pt", percnt=0.5), TypeError, "percnt: SlimConfig has no such field; did you mean percent"),
        (lambda: ds.prune("x.pt", "layer", percent=0.5), TypeError, "percent: LayerConfig has no such field"),
        (lambda: ds.prune("x.pt", "thin"), ValueError, "thin: no such strategy; one of normal, regular"),
        (lambda: ds.train(weights="x.pt"), TypeError, "weights: the network is the first argument"),
        (lambda: ds.train(fingerprint="x"), TypeError, "fingerprint: TrainConfig has no such field"),
        (lambda: ds.detect("x.pt", "y.png", save_txt=True), TypeError, r"save_txt: one picture is .*; detect\.py does"),
        (lambda: ds.detect("x.pt", "y.png"), ds.InputError, r"x\.pt: no such"),
        (lambda: ds.prune("x.pt", percent=1.5), ds.InputError, "percent: must be a number from 0 up to, but not, 1"),
        (lambda: ds.train(epochs=0), ds.InputError, "epochs: must be a whole number from 1 up, got 0"),
        (lambda: ds.train(cache="tape"), ds.InputError, "cache: must be one of auto, ram, disk, off, got 'tape'"),
        (lambda: ds.train(sparse=1), ds.InputError, "sparse: must be True or False, got 1"),
        (lambda: ds.quantize("x.pt"), ds.InputError, r"x\.pt: no such"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, monkeypatch, call, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call()
    assert not [*tmp_path.iterdir()]


def test_fields_become_what_the_flags_make_of_their_text():
    config = configured(TrainConfig, {"img_size": 64, "progressive": [8, 4], "quantized": 1, "data": Path("a.data")})
    assert config == TrainConfig(img_size=(64,), progressive=(8, 4), quantized="google", data="a.data")
    assert configured(SlimConfig, {"percent": "auto", "cfg": None}).percent == "auto"
    assert configured(QuantiseConfig, {"bits": "auto", "budget": "size=0.25"}).budget == Budget("size", 0.25)
    assert configured(QuantiseConfig, {"bits": "auto", "budget": Budget("bops", 0.5)}).budget == Budget("bops", 0.5)


def test_the_command_knows_every_script():
    assert sorted(SCRIPTS) == sorted({path.stem for path in ROOT.glob("*.py")} - {"models"})
    done = subprocess.run([sys.executable, "-m", "darkspike", "--help"], cwd=ROOT, capture_output=True, text=True)
    for script in SCRIPTS:
        first = (ROOT / f"{script}.py").read_text().removeprefix('"""').partition("\n")[0]
        assert f"  {script} " in done.stdout and first in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "darkspike", "paint"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "invalid choice: 'paint'" in wrong.stderr


def test_installed_editable_it_is_found_from_any_folder(tmp_path):
    """In an environment of its own, which takes all but the package from this one."""
    tree, place = tmp_path / "tree", tmp_path / "elsewhere"
    place.mkdir()
    for name in ("darkspike", "pipeline", "utils", "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*.toml"), *ROOT.glob("requirements*.txt"), ROOT / "README.md"):
        shutil.copy(path, tree)
    python, env = tmp_path / "env/bin/python", {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    site = tmp_path / f"env/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (site / "base.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--editable", tree], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = "import darkspike, models, pipeline, utils; print(darkspike.__file__); import tests"
    done = subprocess.run([python, "-c", asked], cwd=place, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(tree / "darkspike/__init__.py")
    assert "No module named 'tests'" in done.stderr, "no more names are taken than needed"
    done = subprocess.run(
        [tmp_path / "env/bin/darkspike", "test", "--help"], cwd=place, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and "python3 test.py" in done.stdout and "--conf-thres" in done.stdout
    assert (tree / "darkspike/py.typed").is_file()


def test_a_loaded_network_says_which_files_it_is_of(made, monkeypatch):
    monkeypatch.chdir(made.folder)
    opened = load_model("weights/slim_prune_0.3.weights", "cfg/pruned/slim_prune_0.3.cfg")
    assert (opened.path, opened.cfg) == (
        Path("weights/slim_prune_0.3.weights"),
        Path("cfg/pruned/slim_prune_0.3.cfg"),
    )
    assert load_model("weights/slim_prune_0.3.pt").cfg is None
