"""The sample network, trained, pruned and converted: its spikes are its integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import convert_snn
import pipeline.pruning_measure
import slim_prune
import train
from models import load_model
from tests.conftest import ROOT
from tests.scenes import write_scenes
from tests.spiking.test_equality import assert_equal_everywhere
from utils.quantization.executor import IntegerExecutor
from utils.reporting.record import Record
from utils.spiking.spike_schedule import encode

HERE = ["--data", "set.data", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> tuple[Path, Record]:
    """The sample cfg after three epochs of drawn squares, a forced cut, and a conversion to 4 bits."""
    folder = tmp_path_factory.mktemp("sample")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(pipeline.pruning_measure, "SECONDS", 0.01)
        write_scenes(folder, train=16, valid=4, shape=(96, 96))
        cfg = str(ROOT / "cfg" / "yolov3-tiny-digits.cfg")
        train.run(train.parser().parse_args([*HERE, "--cfg", cfg, "-pt", "-sr", "--prune", "1", "--epochs", "3"]))
        words = ["--percent", "0.3", "--force", "--recalibrate", "1"]
        slim_prune.run(slim_prune.parser().parse_args([*HERE, *words]))
        record = convert_snn.run(convert_snn.parser().parse_args(HERE))
    return folder, record


def test_spike_counts_of_the_trained_sample_network_equal_its_integer_levels_in_every_layer(converted):
    folder, record = converted
    integer = load_model(folder / record.paths("*.snn.pt")[0], None).integer
    assert integer is not None
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    images = (images * 255).round() / 255
    assert_equal_everywhere(encode(integer), images)
    assert all(level.any() for level in IntegerExecutor(integer).trace(images).levels.values()), "a layer is silent"
