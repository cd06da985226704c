"""One validator: what every pass makes holds, and each number that is changed to an impossible one is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from tests.quantization.random_nets import GATED, cfg_text, random_images, random_network, rich_cfg
from utils.darknet.network import Checkpoint, Network
from utils.errors import InputError
from utils.quantization.activation_qparams import QParams
from utils.quantization.calibrate import calibrate
from utils.quantization.check_integer import check_integer
from utils.quantization.int_checkpoint import integer_of, to_checkpoint
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.quantization.sizes import with_weight_bits
from utils.spiking.snn_checkpoint import open_spiking, run_of

LEAKY = {"filters": 8, "size": 3, "pad": 1, "activation": "leaky"}
MISH = LEAKY | {"activation": "mish"}
SUM = ("shortcut", {"from": -2, "activation": "linear"})
POOL = ("maxpool", {"size": 2, "stride": 2})
WHOLE = cfg_text(("convolutional", LEAKY), ("convolutional", MISH), SUM, *GATED, POOL)
CONV, TABLED, ADDED, MEAN, GATE, MOVED, HEAD = 0, 1, 2, 3, 6, 7, 8


@cache
def integers() -> IntegerNetwork:
    return lower(calibrate(random_network(WHOLE), [random_images()], Scheme()))


def with_op(i: int, **fields: Any) -> IntegerNetwork:
    network = integers()
    return replace(network, ops=network.ops | {i: replace(network.ops[i], **fields)})


def with_gains(i: int, **fields: Any) -> IntegerNetwork:
    by = integers().ops[i].requantiser
    assert by is not None
    return with_op(i, requantiser=replace(by, **fields))


def with_levels(i: int, **fields: Any) -> IntegerNetwork:
    network = integers()
    return replace(network, grids=network.grids | {i: replace(network.grids[i], **fields)})


def tensor(i: int, name: str) -> torch.Tensor:
    return getattr(integers().ops[i], name).clone()


def poked(values: torch.Tensor, value: float) -> torch.Tensor:
    values.view(-1)[0] = value
    return values


def without(i: int) -> IntegerNetwork:
    network = integers()
    return replace(network, ops={j: op for j, op in network.ops.items() if j != i})


FAULTS: dict[str, Callable[[], IntegerNetwork]] = {
    "clips to 5..-5, its lowest level above its highest": lambda: with_gains(CONV, qmin=5, qmax=-5),
    r"clips to 0\.\.\d+, where its levels are": lambda: with_gains(CONV, qmin=0),
    "clips to .*1099511627776, where": lambda: with_gains(CONV, qmax=2**40),
    "a shift f = -1, where 1 to 46": lambda: with_gains(CONV, shift=-1),
    "a shift f = 60, where 1 to 46": lambda: with_gains(GATE, shift=60),
    "gains torch.int32 .1,., where": lambda: with_gains(CONV, multiplier=torch.ones(1, dtype=torch.int32)),
    "gains torch.int64 .8,., where": lambda: with_gains(CONV, multiplier=torch.ones(8, dtype=torch.int64)),
    "gains do not go from 0 up": lambda: with_gains(CONV, multiplier_neg=-torch.ones(8, dtype=torch.int32)),
    "activation=linear does not bend at 0": lambda: with_gains(
        ADDED, multiplier=torch.tensor([9], dtype=torch.int32), multiplier_neg=torch.tensor([3], dtype=torch.int32)
    ),
    "products of .* bits, where 48 are exact": lambda: with_gains(
        CONV, multiplier=torch.full((8,), 2**31 - 1, dtype=torch.int32)
    ),
    "an accumulator of 1 bits, where": lambda: with_op(CONV, acc_bits=1),
    "an accumulator of 33 bits": lambda: with_op(CONV, acc_bits=33),
    "weights of 9 bits": lambda: with_op(CONV, w_bit=9),
    "a weight of -128, where 127": lambda: with_op(CONV, weight=poked(tensor(CONV, "weight"), -128)),
    "a weight of .*, where 1 is the largest": lambda: with_op(CONV, w_bit=2),
    "weights torch.int8 .8, 2, 3, 3., where": lambda: with_op(CONV, weight=tensor(CONV, "weight")[:, :2]),
    "weights torch.int16": lambda: with_op(CONV, weight=tensor(CONV, "weight").short()),
    "bias.* where torch.int32 .8,. are": lambda: with_op(CONV, bias=tensor(CONV, "bias")[:3]),
    "a scale that is no number above 0": lambda: with_op(HEAD, scale=poked(tensor(HEAD, "scale"), float("nan"))),
    "a scale that is no number": lambda: with_op(HEAD, scale=poked(tensor(HEAD, "scale"), 0)),
    "scale torch.float32": lambda: with_op(HEAD, scale=tensor(HEAD, "scale").float()),
    "nothing says what its accumulator is worth": lambda: with_op(HEAD, scale=None),
    "is read out, and has gains": lambda: with_op(HEAD, requantiser=integers().ops[MEAN].requantiser),
    "has no gains, and is no read-out": lambda: with_op(CONV, requantiser=None),
    "activation=mish needs a table": lambda: with_op(TABLED, table=None),
    "activation=leaky takes no table": lambda: with_op(CONV, table=torch.zeros(16, dtype=torch.int32)),
    "table entrys torch.int32 .255,.": lambda: with_op(TABLED, table=tensor(TABLED, "table")[:-1]),
    "its table leads out of its levels": lambda: with_op(TABLED, table=poked(tensor(TABLED, "table"), 200)),
    "averages 0 px": lambda: with_op(MEAN, count=0),
    "gains .3, 1. of a sum": lambda: with_op(ADDED, gains=torch.ones(3, 1, dtype=torch.int32)),
    "a gain of 70000, where 65535": lambda: with_op(ADDED, gains=poked(tensor(ADDED, "gains"), 70000)),
    "a Conv needs IntConv, has IntPool": lambda: replace(integers(), ops=integers().ops | {CONV: integers().ops[MEAN]}),
    "a Shortcut needs IntShortcut, has NoneType": lambda: without(ADDED),
    "a MaxPool only moves integers": lambda: replace(integers(), ops=integers().ops | {MOVED: integers().ops[MEAN]}),
    "numbers of layer 99: there is no such edge": lambda: replace(
        integers(), ops=integers().ops | {99: integers().ops[MEAN]}
    ),
    "levels of layer 8: there is no such edge": lambda: replace(
        integers(), grids=integers().grids | {HEAD: QParams(0.1, 0, 15)}
    ),
    "layer 2 .* has no levels": lambda: replace(
        integers(), grids={i: grid for i, grid in integers().grids.items() if i != ADDED}
    ),
    "a level is worth 0.0": lambda: with_levels(ADDED, scale=0.0),
    "a level is worth nan": lambda: with_levels(ADDED, scale=float("nan")),
    "levels 5..3 do not go": lambda: with_levels(ADDED, qmin=5, qmax=3),
    "levels .*1099511627776 do not go": lambda: with_levels(ADDED, qmax=2**40),
    "moves levels, and those it reads are worth": lambda: with_levels(MOVED, scale=0.3),
    "moves levels .*, and says 0": lambda: with_levels(MOVED, qmin=0),
    "are no pixels": lambda: with_levels(-1, qmax=127),
}


@pytest.mark.parametrize("fact", FAULTS)
def test_an_impossible_number_is_refused_in_one_line_that_names_the_layer(fact):
    with pytest.raises(InputError, match=rf"^net\.int\.pt: .*{fact}") as caught:
        check_integer(FAULTS[fact](), "net.int.pt")
    assert "layer" in str(caught.value) or "the image" in str(caught.value)
    assert "\n" not in str(caught.value) and "convert the network again" in str(caught.value)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("style", ["google", "dorefa", "pow2"])
def test_what_the_passes_make_is_a_network(seed, style):
    w_bit, a_bit = ((2, 3), (5, 8), (8, 4), (16, 5), (4, 16))[seed % 5]
    scheme = Scheme(style=style, w_bit=w_bit, a_bit=a_bit)
    made = lower(calibrate(random_network(rich_cfg(seed), seed), [random_images()], scheme))
    assert check_integer(made) is made
    for bits in (8, 4, 2):
        check_integer(with_weight_bits(made, bits))
    again = integer_of(to_checkpoint(made, "quantised"))  # which checks it
    assert set(again.ops) == set(made.ops)


def refused(payload: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        integer_of(Checkpoint(Network(integers().spec, {}), kind="quantised", payload=payload), "net.int.pt")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("lo", 900, r"layer 0 \(cfg line 6\): clips to 900\.\."),
        ("hi", 2**40, r"layer 0 \(cfg line 6\): hi = 1099511627776, where"),
        ("f", -1, r"layer 0 \(cfg line 6\): f = -1, where"),
        ("acc_bits", 1, r"layer 0 \(cfg line 6\): an accumulator of 1 bits"),
        ("w_bit", 10**9, r"layer 0 \(cfg line 6\): w_bit = 1000000000, where"),
        ("channels", "8", r"layer 0 \(cfg line 6\): channels = '8', where"),
        ("bent", True, r"layer 0 \(cfg line 6\): bent = True, where"),
        ("count", 7, r"layer 0 \(cfg line 6\): its field 'count' is unknown"),
    ],
)
def test_a_file_with_an_impossible_field_is_refused_where_it_is_opened(key, value, match):
    payload = to_checkpoint(integers(), "quantised").payload
    layers = payload["layers"] | {0: payload["layers"][0] | {key: value}}
    refused(payload | {"layers": layers}, match)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("layers", [], "its layers are not by layer number"),
        ("layers", {0: {}}, r"layer 0 .*its field 'acc_bits' is missing"),
        ("layers", {-1: {}}, "its layers are not by layer number"),
        ("grids", {0: [1.0, "a", 3]}, "layer 0 .*its levels are not"),
        ("weights", torch.zeros(3), "its weights are no row of torch.uint8"),
        ("biases", [1, 2], "its biases are no row of torch.int32"),
        ("scheme", {"w_bit": "8"}, "8 bits"),
        ("scheme", {"percentile": "x"}, "how it was quantised cannot be read"),
        ("scheme", 5, "how it was quantised cannot be read"),
    ],
)
def test_a_file_with_a_part_of_another_type_is_refused(key, value, match):
    refused(to_checkpoint(integers(), "quantised").payload | {key: value}, match)


@pytest.mark.parametrize(
    "run",
    [
        "layerwise", {"mode": "rapid"}, {"mode": 3}, {"rule": "none"}, {"schedule": []}, {"timesteps": -3},
        {"timesteps": 2.5}, {"timesteps": 2**60}, {"speed": 9},
    ],
)  # fmt: skip
def test_a_spiking_files_own_fields_are_held_to_what_is_known(run):
    with pytest.raises(InputError, match=r"^net\.snn\.pt: "):
        run_of({"run": run}, "net.snn.pt")


@pytest.mark.parametrize(
    "change", [{"scales": None}, {"scales": {0: 1}}, {"reset": "none"}, {"scales": {}}, {"scales": {0: torch.ones(1)}}]
)
def test_a_rate_files_own_fields_are_held_to_what_is_known(change):
    spec = random_network(cfg_text(("convolutional", LEAKY | {"activation": "relu"}))).spec
    network = random_network(cfg_text(("convolutional", LEAKY | {"activation": "relu"})))
    good = {"scales": {-1: torch.ones(3), 0: torch.ones(8)}, "reset": "zero"}
    meta = {"run": {"mode": "rate", "timesteps": 4}}
    assert spec == network.spec and not any(layer.bn for layer in spec.convs.values())
    open_spiking(Checkpoint(network, kind="spiking", meta=meta, payload=good))
    with pytest.raises(InputError, match=r"^net\.snn\.pt: "):
        open_spiking(Checkpoint(network, kind="spiking", meta=meta, payload=good | change), "net.snn.pt")
