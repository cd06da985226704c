"""QDQ models beside the integer network, in onnxruntime."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import export
from models import build
from tests.conftest import ROOT
from tests.export.hand_made import hand_made
from tests.export.nets import LOW, chance, lowered, small
from tests.export.test_script import HERE, place
from tests.quantization.random_nets import cfg_text, random_images, random_network, rich_cfg
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.fold import fold_bn
from utils.errors import InputError
from utils.export import onnx_check, onnx_folder, onnx_round
from utils.export.onnx_check import compare_qdq, judge, run, session
from utils.export.onnx_float import float_model
from utils.export.onnx_folder import OnnxOptions, export_onnx
from utils.export.onnx_graph import check, save
from utils.export.onnx_qdq import qdq_model
from utils.export.onnx_round import Rounding
from utils.quantization.activation_qparams import QParams
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv, IntegerNetwork, IntPool, Requantiser, requantise
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme

assert place  # a fixture

POW2 = Scheme(style="pow2", a_bit=8, equalise=False, correct_bias=False, ranges="minmax")
POW2_LOW = replace(POW2, a_bit=4, w_bit=4)
OPTIONS = OnnxOptions(form="onnx", name="test")


def compare(network, images, tmp_path):
    """The comparison that an export makes, on the model as it lies on disk."""
    model = qdq_model(network, (images.shape[2], images.shape[3]))
    check(model)
    save(model, tmp_path / "model.onnx")
    return compare_qdq(network, images, tmp_path / "model.onnx")


def differing(found):
    counts = (*found.alone, *found.chained, *found.heads)
    assert all(each.elements > 0 for each in counts) and len(counts) > 4
    return [each for each in counts if each.differing]


@pytest.mark.parametrize("scheme", [POW2, POW2_LOW], ids=["8 bits", "4 bits"])
@pytest.mark.parametrize("seed", range(8))
def test_powers_of_two_give_the_same_integers_in_every_element(tmp_path, seed, scheme):
    assert differing(compare(*chance(seed, scheme), tmp_path)) == []


@pytest.mark.parametrize(
    "cfg",
    [
        "spp",
        "passthrough",
        "csp",
        "grey",
        "grouped",
        "depthwise",
        "plain",
        "mobile",
        "transposed",
        "uneven",
        "space",
        "blurred",
    ],
)
def test_every_layer_that_moves_or_groups_moves_integers_alike(tmp_path, cfg):
    assert differing(compare(*small(f"tests/cfgs/{cfg}.cfg", POW2), tmp_path)) == []


@pytest.mark.parametrize("seed", range(6))
def test_every_section_and_activation_holds_in_powers_of_two(tmp_path, seed):
    images = random_images(2, seed=seed)
    network = lowered(rich_cfg(seed), images, POW2)
    assert differing(compare(network, images, tmp_path)) == []


@pytest.mark.parametrize("scheme", [None, LOW], ids=["8 bits", "4 bits"])
@pytest.mark.parametrize("seed", range(4))
def test_a_scale_for_each_channel_moves_a_level_by_one_at_most(tmp_path, seed, scheme):
    network, images = chance(seed, scheme) if scheme else chance(seed)
    found = compare(network, images, tmp_path)
    judge(network, found, "onnx", strict=False)
    assert sum(each.differing for each in found.alone) <= 1e-3 * sum(each.elements for each in found.alone)


@pytest.mark.parametrize("seed", range(3))
def test_wild_gains_hold_too_and_exactly_where_scales_are_powers_of_two(tmp_path, seed):
    network, images = hand_made(seed), random_images(2, seed=seed)
    judge(network, compare(network, images, tmp_path), "onnx", strict=False)
    exact = replace(network, scheme=POW2, grids=network.grids | {-1: QParams(2.0**-8, 0, 255)})
    judge(exact, replace(compare(exact, images, tmp_path), heads=()), "onnx", strict=True)


def halves(activation: str, qmin: int, qmax: int) -> IntegerNetwork:
    """Accumulators that lie halfway between two levels every other time: one weight of 1 or -1, a shift by 1."""
    kind = ("convolutional", {"filters": 2, "size": 1, "stride": 1, "pad": 1, "activation": activation})
    images = random_images(1)
    network = lowered(cfg_text(kind), images, POW2)
    weight = torch.tensor([[1, 0, 0], [-1, 0, 0]], dtype=torch.int8).view(2, 3, 1, 1)
    by = Requantiser(
        multiplier=torch.full((2,), 8, dtype=torch.int32),
        multiplier_neg=torch.ones(2, dtype=torch.int32),
        shift=4,
        qmin=qmin,
        qmax=qmax,
    )
    op = IntConv(weight=weight, bias=torch.zeros(2, dtype=torch.int32), w_bit=8, acc_bits=9, requantiser=by)
    return replace(network, ops=network.ops | {0: op}, grids=network.grids | {0: QParams(0.25, qmin, qmax)})


@pytest.mark.parametrize(("activation", "qmin", "qmax"), [("relu", 0, 255), ("leaky_pow2", -128, 127), ("relu", 0, 99)])
def test_ties_go_up_and_would_not_without_what_lifts_them(tmp_path, monkeypatch, activation, qmin, qmax):
    network = halves(activation, qmin, qmax)
    images = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    assert differing(compare(network, images, tmp_path)) == []
    monkeypatch.setattr(onnx_round.Rounding, "tie", 0.0)
    assert sum(each.differing for each in compare(network, images, tmp_path).alone) > 10


def test_a_layer_that_starts_at_0_becomes_an_integer_kernel(tmp_path):
    import onnx
    import onnxruntime

    network, images = (
        lowered(
            cfg_text(*[("convolutional", {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "relu"})] * 2),
            random_images(1),
            POW2,
        ),
        random_images(1),
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    model = qdq_model(network, (16, 16))
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "fast.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2, kinds
    assert differing(compare(network, images, tmp_path)) == []


@pytest.mark.parametrize(
    ("activation", "style"),
    [("leaky", "google"), ("leaky", "pow2"), ("leaky_pow2", "google"), ("leaky_pow2", "pow2"), ("linear", "google")],
)
def test_layers_with_levels_below_0_become_integer_kernels_too(tmp_path, activation, style):
    import onnx
    import onnxruntime

    kind = ("convolutional", {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": activation})
    scheme = replace(POW2, style=style)
    network = lowered(
        cfg_text(kind, kind, ("shortcut", {"from": -2, "activation": "linear"})), random_images(1), scheme
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    model = qdq_model(network, (16, 16))
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = onnx.load(tmp_path / "fast.onnx")
    kinds = [node.op_type for node in made.graph.node]
    times, sums = (1, 0) if activation == "linear" else (2, 2)
    sums += scheme.style == "google"  # the shortcut; that of powers of two has a quarter added
    assert kinds.count("QLinearConv") == 2 * times and kinds.count("QLinearAdd") == sums, kinds
    weights = [each.name for each in model.graph.initializer if each.name.endswith("weight_levels")]
    assert len(weights) == 3, "those of a layer share their weights; the third are the read-out's"


@settings(max_examples=40, deadline=None)
@given(
    shift=st.integers(1, 22),
    exponent=st.integers(10, 16),
    slope=st.sampled_from([0.1, 0.01, 0.3]),
    grid=st.sampled_from([(-128, 127), (-8, 7)]),
    scale=st.integers(-9, 2),
)
def test_what_is_below_0_gets_its_levels_by_one_step_whatever_the_slope(shift, exponent, slope, grid, scale):
    gain = torch.tensor([2**exponent], dtype=torch.int32)
    below = (gain * slope).round().int()
    by = Requantiser(multiplier=gain, multiplier_neg=below, shift=shift, qmin=grid[0], qmax=grid[1])
    how = Rounding(by, 2.0**scale, strict=True)
    assume(how.splits)  # else the definition in float64 stays
    acc = torch.cat((torch.arange(-(2**17), 1), torch.arange(1 - 2**24, 1, 997)))
    wanted = requantise(acc.view(1, 1, 1, -1), by).flatten().numpy()
    unit, step = float(how.gain[0] * how.scale), np.float32(how.step_below or 2.0**scale / float(how.slope[0]))
    for levels_by in (onnx_round._by_file, onnx_round._by_kernel):
        assert np.array_equal(levels_by(acc.numpy(), unit, step).clip(*grid), wanted)


def test_sums_that_16_bits_do_not_hold_are_exact_on_any_processor(tmp_path):
    kind = ("convolutional", {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "relu"})
    images = torch.ones(1, 3, 16, 16)
    network = lowered(cfg_text(kind), images, POW2)
    weight = torch.full_like(network.conv(0)[1].weight, 127)
    weight[:, 0] = -126
    network = replace(network, ops=network.ops | {0: replace(network.conv(0)[1], weight=weight)})
    golden = IntegerExecutor(network)(images)
    for optimise in (True, False):
        found = run(session(qdq_model(network, (16, 16)), optimise=optimise), {"image": images.numpy()})
        assert all(np.array_equal(right.numpy(), got) for right, got in zip(golden, found.values(), strict=True))


def test_plain_and_optimised_sessions_and_any_batch_agree(tmp_path):
    network, images = chance(2, POW2)
    model = qdq_model(network, (16, 16))
    golden = IntegerExecutor(network)(images)
    for optimise in (True, False):
        for part in (slice(0, 2), slice(1, 2)):
            found = run(session(model, optimise=optimise), {"image": images[part].numpy()})
            for right, got in zip(golden, found.values(), strict=True):
                assert np.array_equal(right[part].numpy(), got)


def test_the_folder_holds_model_report_and_readme(tmp_path):
    network, images = chance(1, POW2)
    export_onnx(tmp_path / "out", network, images, OPTIONS)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "report.json", "README.md"}
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert sum(each["differing"] for each in report["chained"]) == 0 and report["target"] is None
    text = (tmp_path / "out/README.md").read_text()
    assert "no element of any layer differs" in text and "${" not in text and "thresholds" not in text


def test_a_model_that_differs_leaves_nothing_behind(tmp_path, monkeypatch):
    network, images = chance(1, POW2)
    first = network.ops[0]
    assert isinstance(first, IntConv)
    off = replace(network, ops=network.ops | {0: replace(first, bias=first.bias + 600)})
    monkeypatch.setattr(onnx_check, "qdq_model", lambda _, size, **how: qdq_model(off, size, **how))
    with pytest.raises(InputError, match=r"layer 0 \(cfg line \d+\): \d+ of \d+ levels differ .* nothing was written"):
        export_onnx(tmp_path / "out", network, images, OPTIONS)
    monkeypatch.undo()
    monkeypatch.setattr(onnx_folder, "save", lambda model, path: save(qdq_model(off, (16, 16)), path))
    with pytest.raises(InputError, match="the head's map is off by"):
        export_onnx(tmp_path / "out", network, images, OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["onnx", "qonnx"])
def test_a_missing_package_is_one_line_with_the_command(tmp_path, monkeypatch, form):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=rf"export.py {form} needs onnx: pip install -r requirements-export.txt"):
        export_onnx(tmp_path / "out", *chance(1), OnnxOptions(form=form, name="test"))


def test_what_onnx_cannot_hold_is_refused_by_layer_and_line():
    network, _ = chance(1)
    first = network.ops[0]
    assert isinstance(first, IntConv)
    wide = replace(first, weight=first.weight.to(torch.int16), w_bit=16)
    with pytest.raises(
        InputError, match=r"layer 0 \(cfg line \d+\): weights of 16 bits, and ONNX has 8; use --w-bit 8"
    ):
        qdq_model(replace(network, ops=network.ops | {0: wide}), (16, 16))
    averaged = hand_made()
    assert isinstance(averaged.ops[3], IntPool)
    with pytest.raises(
        InputError, match=r"layer 3 \(cfg line \d+\): averages 16x16 levels, but its gain is made for 64"
    ):
        qdq_model(averaged, (32, 32))


def test_levels_of_16_bits_are_refused_in_one_line():
    scheme = Scheme(a_bit=16, w_bit=4, equalise=False, correct_bias=False)
    network = lower(calibrate(random_network(3), [random_images(2)], scheme))
    with pytest.raises(InputError, match=r"levels -?\d+\.\.\d+, and QuantizeLinear has 8 bits; use --a-bit 8"):
        qdq_model(network, (16, 16))


@pytest.mark.parametrize("form", ["onnx", "qonnx"])
def test_the_script_writes_it_and_tells_where(place, form):
    record = export.run(export.parser().parse_args([form, "--weights", "weights/net.int.pt", "--golden", "1", *HERE]))
    model, report = record.paths()
    assert model.parent.name == "net" and model.is_file() and record.metrics["bytes"] == model.stat().st_size
    assert json.loads(report.read_text())["form"] == form


@pytest.mark.parametrize(
    "cfg", ["plain", "spp", "csp", "residual", "grouped", "passthrough", "transposed", "uneven", "space", "blurred"]
)
def test_the_float_model_computes_the_network(cfg):
    spec = read_cfg(ROOT / f"tests/cfgs/{cfg}.cfg")
    network = fold_bn(random_network(write_cfg(spec)))
    images = random_images(2, side=64, image_channels=spec.channels)
    model = float_model(network, (64, 64))
    check(model)
    with torch.no_grad():
        golden = build(network)(images)
    for right, found in zip(golden, run(session(model), {"image": images.numpy()}).values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), right, rtol=1e-4, atol=1e-4)
