"""A file's length is known without writing it."""

from __future__ import annotations

import pytest

from tests.quantization.random_nets import random_images, random_network
from utils.darknet.network import Checkpoint, checkpoint_bytes, save_checkpoint
from utils.quantization.calibrate import calibrate
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme


@pytest.mark.parametrize("kind", ["float", "quantised"])
def test_a_checkpoint_is_as_long_as_its_file(tmp_path, kind):
    network, names = random_network(1), ("one", "two")
    made = Checkpoint(network, names, meta={"epochs": 3})
    if kind == "quantised":
        integer = lower(calibrate(network, [random_images()], Scheme(equalise=False, refit=False)))
        made = to_checkpoint(integer, kind, names, {"epochs": 3})
    assert checkpoint_bytes(made) == save_checkpoint(tmp_path / "network.pt", made).stat().st_size
