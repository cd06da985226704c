"""A cfg with pools, leaky and upsampling, rewritten for spiking chips: it trains, is measured and converts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import convert_snn
import export
import test as measure
import train
from models import load_model
from tests.scenes import POOL, convolution, head, section, undrawn_runs, untimed, write_scenes
from utils.darknet import spec as s
from utils.quantization.executor import IntegerExecutor
from utils.quantization.fake import FakeQuantised
from utils.quantization.prepare import prepare
from utils.quantization.scheme import Scheme
from utils.spiking.surgery import main

LEAKY = convolution(8, stride=2).replace("activation=relu", "activation=leaky")
CFG = "".join(
    (
        section("net", batch=4, subdivisions=1, width=64, height=64, channels=3),
        LEAKY,
        POOL,
        LEAKY.replace("stride=2", "stride=1"),  # layer 2
        section("maxpool", size=2, stride=1),
        POOL,
        section("upsample", stride=2),
        section("route", layers="-1,2"),
        LEAKY.replace("stride=2", "stride=1"),
        head(),
    )
)
HERE = ["--data", "set.data", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a data set, and one epoch of the rewritten network in weights/."""
    folder = tmp_path_factory.mktemp("surgery")
    write_scenes(folder, train=6, valid=4, shape=(64, 64), cfg=CFG)
    main([str(folder / "net.cfg"), "--groups", "2"])
    words = [*HERE, "--cfg", "net-spiking.cfg", "--epochs", "1", "--name", "chip"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        undrawn_runs(patch)
        train.run(train.parser().parse_args(words))
    return folder


@pytest.fixture
def there(place, monkeypatch) -> Path:
    """In that folder, and no stop watches."""
    monkeypatch.chdir(place)
    untimed(monkeypatch)
    return place


def convert(*words: str):
    few = [] if "layerwise" in words else ["--images", "3"]  # which layerwise mode, exact on all, has no use for
    given = [*HERE, "--weights", "weights/last_chip.pt", "--calibration", "4", *few, *words]
    return convert_snn.run(convert_snn.parser().parse_args(given))


def test_the_rewritten_network_has_convolutions_and_relu_only(there):
    spec = load_model("weights/last_chip.pt").spec
    kinds = [type(layer) for layer in spec.layers if not isinstance(layer, s.Route | s.Detect)]
    assert kinds == [s.Conv, s.Conv, s.Conv, s.Conv, s.TransposedConv, s.Conv, s.Conv]
    assert {layer.activation for layer in spec.layers if isinstance(layer, s.Kernel)} == {"relu", "linear"}


def test_it_is_measured(there):
    flags = [*HERE, "--weights", "weights/last_chip.pt", "--name", "chip"]
    record = measure.run(measure.parser().parse_args(flags))
    assert 0 <= record.metrics["map50"] <= 1 and record.metrics["macs"] > 0


def test_phase_is_the_integers_and_its_file_runs(there):
    record = convert("--mode", "layerwise", "--a-bit", "3", "--name", "p")
    spiking, quantised = record.metrics["spiking"], record.metrics["quantised"]
    assert spiking["map50"] == quantised["map50"]
    loaded = load_model(there / record.paths("*.snn.pt")[0])
    x = torch.rand(2, 3, 64, 64).mul(255).round() / 255
    assert loaded.integer is not None
    for mine, theirs in zip(loaded.predictor(x), IntegerExecutor(loaded.integer)(x), strict=True):
        assert torch.equal(mine, theirs)


def test_rates_stand_for_it_too(there):
    record = convert("--mode", "rate", "--timesteps", "8", "--channel-wise", "--name", "r")
    assert record.metrics["spiking"]["exact"] is False and record.metrics["spiking"]["sops"] > 0
    assert load_model(there / record.paths("*.snn.pt")[0]).predictor(torch.rand(1, 3, 64, 64))


def test_quantised_training_in_eval_mode_is_the_integers(there):
    """`train.py --quantized` of a transposed convolution trains the convolution that it is written out as."""
    loaded, x = load_model("weights/last_chip.pt"), torch.rand(2, 3, 64, 64).mul(255).round() / 255
    assert loaded.network is not None
    model = prepare(loaded.network, [x], Scheme(w_bit=4, a_bit=4))
    assert isinstance(model, FakeQuantised)
    model.train()
    sum(out.square().mean() for out in model(x)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad if parameter.grad is not None else 0.0
    for mine, theirs in zip(model.eval()(x), IntegerExecutor(model.integer())(x), strict=True):
        assert torch.equal(mine, theirs)


def test_the_script_trains_it_quantised_and_what_it_leaves_is_exported_and_verified(there, monkeypatch):
    undrawn_runs(monkeypatch)
    words = ["--quantized", "google", "--w-bit", "4", "--a-bit", "4", "--epochs", "1", "--name", "q"]
    given = [*HERE, "--cfg", "net-spiking.cfg", "--weights", "weights/last_chip.pt", *words]
    train.run(train.parser().parse_args(given))
    flags = ["fpga", *HERE, "--weights", "weights/last_q.pt", "--golden", "1", "--name", "e"]
    record = export.run(export.parser().parse_args(flags))
    assert record.metrics["macs"] > 0
    loaded = load_model("weights/last_q.pt")
    assert loaded.integer is not None and any(
        isinstance(layer, s.Upsample) and layer.zeros for layer in loaded.integer.spec.layers
    )
