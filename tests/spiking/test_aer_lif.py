"""Events of networks trained as spikes: every spike is one, and they add up to the heads; export.py, step by step."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import export
from models import Darknet, network_of
from pipeline.export import check_whole_numbers
from tests.scenes import undrawn_runs, write_scenes
from tests.temporal.nets import HIDDEN, PLAIN, images, small, spiking, warmed
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.errors import InputError
from utils.spiking.aer_lif import write_spike_events


@pytest.mark.parametrize(
    "text",
    [
        HIDDEN.format("lif"),
        HIDDEN.format("lif\nsigned=1"),
        HIDDEN.format("lif").replace("[net]", "[net]\nreadout=last"),
    ],
    ids=["mean", "signed", "last"],
)
def test_every_spike_is_an_event_at_its_step(tmp_path, text):
    model = warmed(parse_cfg(text))
    x = images(model.spec, 2)
    names, total = write_spike_events(tmp_path, model, x)
    assert sorted(names) == sorted(
        [f"{k}_layer_{i}.{form}" for k in (0, 1) for i in (0, 2) for form in ("npy", "csv")] + ["README.md"]
    )
    counted = 0
    for k in (0, 1):
        out = model.activations(x[k : k + 1])
        for i in (0, 2):
            events = np.load(tmp_path / f"{k}_layer_{i}.npy")
            train = np.zeros(out[i].shape, np.float32)
            train[events["t"], events["c"], events["y"], events["x"]] = events["sign"]
            assert np.array_equal(train, out[i].detach().numpy())
            counted += len(events)
    assert counted == total > 0
    assert "which the export checked" in (tmp_path / "README.md").read_text()


def test_events_that_do_not_add_up_are_never_written_off(tmp_path, monkeypatch):
    model = warmed(small())
    wrong = model.activations

    def silent(x):
        out = wrong(x)
        out[2] = torch.zeros_like(out[2])
        return out

    monkeypatch.setattr(model, "activations", silent)
    with pytest.raises(InputError, match="image 0, layer 3: events do not add up to the head"):
        write_spike_events(tmp_path, model, images(model.spec, 1))


def test_several_spikes_a_step_are_refused(tmp_path):
    model = warmed(spiking("plain", "ilif", 1))
    with pytest.raises(InputError, match=r"layer 0 .*activation=ilif sends several spikes a step"):
        write_spike_events(tmp_path, model, images(model.spec))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A trained-as-spikes network and images for it."""
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=2, valid=3, shape=(64, 64))
    spec = parse_cfg(
        HIDDEN.format("lif").replace("classes=3", "classes=2").replace("filters=8\nsize=1", "filters=7\nsize=1")
    )
    save_checkpoint("spikes.pt", Checkpoint(network_of(warmed(spec))))
    return tmp_path


def run(*words):
    more = ["--weights", "spikes.pt", "--data", "set.data", "--device", "cpu", "--workers", "0"]
    return export.run(export.parser().parse_args([*words, *more]))


def test_the_script_writes_both_forms_and_says_how_importers_run_the_file(place):
    pytest.importorskip("nir")
    run("nir", "--golden", "3")
    report = json.loads((place / "export/spikes/report.json").read_text())["dialects"]
    assert report["to zero (NIR's text, norse, snnTorch)"]["differing"] == 0
    assert report["subtraction"]["differing"] > 0
    assert "sinabs" in (place / "export/spikes/README.md").read_text()
    assert run("aer", "--name", "events").metrics["events"] > 0


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["fpga"],
            r"spikes\.pt: layer 0 \(cfg line 6\): was trained as spikes in floats, and fpga takes whole numbers",
        ),
        (["c"], "was trained as spikes in floats, and c takes whole numbers; train with --hw-friendly"),
        (["onnx"], r"spikes\.pt: was trained as spikes, which only nir, aer, fpga and c hold; use export\.py nir"),
        (["onnx", "--float"], r"layer 0 .*activation=lif has no float ONNX form"),
        (["nir", "--dialect", "exact"], r"--dialect: spikes\.pt was trained as spikes"),
        (["nir", "--steps", "9"], r"--steps: spikes\.pt was trained as spikes"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_other_forms_are_refused_by_name(words, message):
    with pytest.raises(InputError, match=message):
        run(*words)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("lif", "train with --hw-friendly, or use export.py nir"),
        ("lif\nmembrane_start=0.5", "train with --hw-friendly, or use export.py aer"),
        ("plif", "train with --spiking lif --hw-friendly, or use export.py aer"),
        ("ltc", "train with --spiking lif --hw-friendly, or use export.py aer"),
        ("ilif", "train with --spiking lif --hw-friendly"),
    ],
)
def test_who_has_no_whole_numbers_is_sent_only_where_its_neurons_are_taken(kind, remedy):
    with pytest.raises(InputError, match=f"{remedy}$"):
        check_whole_numbers(Darknet(spiking(PLAIN, kind)), "w.pt", "c")
