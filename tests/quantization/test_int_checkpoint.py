"""Files of the format before this one still load, to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.quantization.random_nets import cfg_text, random_images, random_network
from utils.darknet.network import Checkpoint
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int_checkpoint import integer_of, to_checkpoint
from utils.quantization.integer import IntShortcut
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme

CONV = {"filters": 8, "size": 3, "pad": 1, "activation": "leaky"}
SUM = ("shortcut", {"from": -2, "activation": "leaky"})


def as_version_1(checkpoint: Checkpoint) -> Checkpoint:
    """What the first version wrote: four tensors, and a shortcut's gains as numbers."""
    payload = {key: value for key, value in checkpoint.payload.items() if key not in ("sums", "tables")}
    sums, layers = checkpoint.payload["sums"], {}
    for i, numbers in payload["layers"].items():
        if "gains" in numbers:
            count = numbers["gains"][0]
            numbers, sums = {**numbers, "gains": sums[:count].tolist()}, sums[count:]
        layers[i] = numbers
    scheme = {key: payload["scheme"][key] for key in ("w_bit", "a_bit", "outer_bit", "ranges", "percentile")}
    return replace(checkpoint, payload={**payload, "version": 1, "layers": layers, "scheme": scheme})


def test_a_file_of_version_1_computes_what_it_did():
    text = cfg_text(("convolutional", CONV), ("convolutional", CONV), SUM, ("convolutional", CONV), SUM)
    integer, x = lower(calibrate(random_network(text), [random_images()], Scheme())), random_images(2, seed=4)
    old = as_version_1(to_checkpoint(integer, "quantised"))
    again = integer_of(old)
    assert sum(isinstance(op, IntShortcut) for op in again.ops.values()) == 2
    assert all(
        torch.equal(op.gains, integer.ops[i].gains) for i, op in again.ops.items() if isinstance(op, IntShortcut)
    )
    before, after = IntegerExecutor(integer).trace(x), IntegerExecutor(again).trace(x)
    for i, level in before.levels.items():
        assert torch.equal(level, after.levels[i])


@pytest.mark.parametrize("key", ["tables", "sums"])
def test_a_file_whose_tables_or_sums_end_early_is_refused(key):
    curved = CONV | {"activation": "mish"}
    text = cfg_text(("convolutional", curved), ("convolutional", CONV), SUM)
    checkpoint = to_checkpoint(lower(calibrate(random_network(text), [random_images()], Scheme())), "quantised")
    short = {**checkpoint.payload, key: checkpoint.payload[key][:-1]}
    with pytest.raises(InputError, match=f"its {key} end early"):
        integer_of(replace(checkpoint, payload=short))
