"""The remedy that an error about an activation prints, typed as it stands: the network then has the form it lacked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import train
from models import load_model
from tests.quantization.random_nets import random_images
from tests.scenes import convolution, head, section, undrawn_runs, write_scenes
from utils.darknet.fold import fold_bn
from utils.errors import InputError
from utils.export.targets import check_target
from utils.quantization.calibrate import calibrate
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.rate import normalise
from utils.spiking.spike_schedule import encode

QUICK = Scheme(a_bit=4, equalise=False, correct_bias=False, ranges="minmax")
DPU = Scheme(style="pow2", a_bit=7, equalise=False, correct_bias=False, ranges="minmax")


def cfg(*activations: str) -> str:
    body = "".join(convolution(4, stride=2).replace("=relu", f"={each}") for each in activations)
    return section("net", batch=4, width=32, height=32, channels=3) + body + head()


def integers(path: str, scheme: Scheme = QUICK) -> IntegerNetwork:
    return lower(calibrate(load_model(path).network, [random_images(2, side=32)], scheme))


def as_spikes(path: str) -> None:
    encode(integers(path))


def at_rates(path: str) -> None:
    normalise(fold_bn(load_model(path).network), [random_images(2, side=32)], timesteps=4)


def on_the_dpu(path: str) -> None:
    check_target(integers(path, DPU), "vitis-dpu")


def typed(*words: str) -> None:
    train.run(train.parser().parse_args(["--data", "set.data", "--device", "cpu", "--workers", "0", *words]))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=4, valid=2, shape=(40, 40))
    return tmp_path


@pytest.mark.parametrize("use", [as_spikes, at_rates, on_the_dpu])
@pytest.mark.parametrize("activations", [("mish", "swish"), ("h_swish", "mish")], ids="-".join)
def test_what_the_error_says_is_typed_until_there_is_none(place, use: Callable[[str], None], activations):
    (place / "net.cfg").write_text(cfg(*activations))
    typed("--cfg", "net.cfg", "--epochs", "1", "--name", "0")
    before = load_model("weights/last_0.pt").network
    for n in range(len(activations)):
        with pytest.raises(InputError) as error:
            use(f"weights/last_{n}.pt")
        remedy = re.search(r"--act [\w=-]+", str(error.value))
        assert remedy, error.value
        typed("--weights", f"weights/last_{n}.pt", "--epochs", "1", "--name", str(n + 1), *remedy[0].split())
    use(f"weights/last_{len(activations)}.pt")
    after = load_model(f"weights/last_{len(activations)}.pt").network
    assert [each.activation for each in after.spec.convs.values()] == ["relu", "relu", "linear"]
    assert before.state.keys() == after.state.keys()
