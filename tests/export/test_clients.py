"""What hls4ml and FINN open: hls4ml's C simulation and qonnx's own passes give the integers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import export
from tests.conftest import ROOT
from tests.export.nets import lowered, small
from tests.export.test_script import HERE, place
from tests.quantization.random_nets import CONV, Section, cfg_text, random_images
from utils.darknet.cfg import read_cfg, write_cfg
from utils.errors import InputError
from utils.export.client_folder import ClientOptions, export_client
from utils.export.onnx_quant import quant_model
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.scheme import Scheme

assert place  # a fixture
onnx_exec = pytest.importorskip("qonnx.core.onnx_exec")

POW2 = Scheme(style="pow2", w_bit=6, a_bit=4, equalise=False, correct_bias=False, ranges="minmax")
POOL: Section = ("maxpool", {"size": 2, "stride": 2})


def conv(**keys: object) -> Section:
    return "convolutional", CONV | {"filters": 4} | keys


def network(*sections: Section, side: int = 8, scheme: Scheme = POW2) -> IntegerNetwork:
    return lowered(cfg_text(*sections, side=side), random_images(3, side=side), scheme)


def folder(out: Path, net: IntegerNetwork, client: str, layers: int | None = None, side: int = 8) -> dict:
    options = ClientOptions(client=client, name="net", layers=layers)
    return export_client(out, net, random_images(3, side=side, seed=5), options)


def converted(out: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(out / "convert.py"), str(tmp_path / "project")]
    return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here: hls4ml's C simulation cannot be compiled")
def test_hls4mls_c_simulation_of_a_relu_network_is_the_integers(tmp_path):
    pytest.importorskip("hls4ml")
    folder(tmp_path / "out", network(conv(), POOL, conv(stride=2)), "hls4ml")
    wanted = np.load(tmp_path / "out/expected_output.npy")
    assert len(np.unique(wanted)) > 10
    done = converted(tmp_path / "out", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"C simulation: 0 of {wanted.size} numbers differ from the integer network's" in done.stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here: hls4ml's C simulation cannot be compiled")
def test_hls4mls_c_simulation_of_a_part_of_the_sample_network_is_the_integers_and_a_difference_is_noticed(tmp_path):
    pytest.importorskip("hls4ml")
    cfg = write_cfg(read_cfg(ROOT / "cfg/yolov3-tiny-digits.cfg")).replace("=96", "=32")
    net = lowered(cfg, random_images(2, side=32), POW2)
    report = folder(tmp_path / "out", net, "hls4ml", layers=3, side=32)
    assert report["layers"] == 3 and report["differing"] == 0
    path = tmp_path / "out/expected_output.npy"
    wanted = np.load(path)
    np.save(path, wanted + np.eye(1, wanted.size, 3, dtype=np.float32).reshape(wanted.shape))
    done = converted(tmp_path / "out", tmp_path)
    assert f"C simulation: 1 of {wanted.size} numbers differ" in done.stdout, done.stderr[-2000:]
    assert done.returncode == 1


def test_what_nobody_can_change_about_qonnxs_own_models_is_not_printed(tmp_path, capfd):
    folder(tmp_path / "out", network(conv()), "hls4ml")
    assert "opset" not in capfd.readouterr().err


def test_finns_folder_has_what_build_dataflow_reads_and_qonnx_runs_it(tmp_path):
    wrapper = pytest.importorskip("qonnx.core.modelwrapper").ModelWrapper
    net = network(conv(), conv(groups=4), POOL, conv(), ("shortcut", {"from": -2, "activation": "relu"}))
    folder(tmp_path / "out", net, "finn")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    config = json.loads((tmp_path / "out/dataflow_build_config.json").read_text())
    assert names >= {"model.onnx", "input.npy", "expected_output.npy", config["folding_config_file"]}
    folds = json.loads((tmp_path / "out/folding_config.json").read_text())
    assert folds["MVAU_hls_2"] == {"PE": 2, "SIMD": 4} and folds["VVAU_hls_0"] == {"PE": 4}
    model = wrapper(str(tmp_path / "out/model.onnx"))
    passes = pytest.importorskip("qonnx.transformation.general")
    lower = pytest.importorskip("qonnx.transformation.lower_convs_to_matmul").LowerConvsToMatMul
    fold = pytest.importorskip("qonnx.transformation.fold_constants").FoldConstants
    for step in (passes.GiveUniqueNodeNames(), passes.GiveReadableTensorNames(), fold(), lower(), passes.SortGraph()):
        model = model.transform(step)
    given = {model.graph.input[0].name: np.load(tmp_path / "out/input.npy")}
    (found,) = onnx_exec.execute_onnx(model, given).values()
    np.testing.assert_allclose(found, np.load(tmp_path / "out/expected_output.npy"), rtol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_qonnx_form_passes_the_channels_last_pass_as_delivered(channels_last):
    last = pytest.importorskip("qonnx.transformation.channels_last").ConvertToChannelsLastAndClean
    sections = [conv(), POOL, conv(groups=4), conv(size=1, pad=0)]
    net = lowered(cfg_text(*sections), random_images(2))
    x = random_images(1, seed=3)
    model = quant_model(net, (16, 16))
    ends = [each.dims for each in model.graph.initializer if each.name.endswith(("_bias", "_scale"))]
    assert ends and {len(dims) for dims in ends} == {4}
    changed = model.transform(last(make_input_channels_last=channels_last))
    pixels, golden = (x * 255).round().numpy(), IntegerExecutor(net)(x)[0].numpy()
    assert any(node.op_type == "Conv" and "channels_last" in node.domain for node in changed.graph.node)
    given = pixels.transpose(0, 2, 3, 1) if channels_last else pixels
    (found,) = onnx_exec.execute_onnx(changed, {changed.graph.input[0].name: given}).values()
    np.testing.assert_allclose(found, golden, rtol=1e-6)


@pytest.mark.parametrize(
    ("client", "sections", "message"),
    [
        ("hls4ml", [conv(activation="leaky")], "layer 0 .*activation=leaky, .* train.py --act relu=leaky"),
        ("hls4ml", [conv(), conv(groups=2)], r"layer 1 .*groups=2: .*--layers 1 writes what is before it"),
        ("hls4ml", [conv(), ("maxpool", {"size": 2, "stride": 1})], "layer 1 .*its windows hang over the border"),
        ("hls4ml", [conv(), conv(), ("shortcut", {"from": -2})], "layer 2 .*a sum needs a rounding of its own"),
        ("hls4ml", [conv(), ("upsample", {"stride": 2})], "layer 1 .*not written in this form"),
        ("finn", [conv(activation="mish")], "layer 0 .*activation=mish falls somewhere, .*--act relu=mish"),
        ("finn", [conv(), ("maxpool", {"size": 2, "stride": 1})], "layer 1 .*a pool whose windows overlap"),
        ("finn", [conv(), conv(groups=2)], "layer 1 .*groups=2: FINN has one group or depthwise"),
        ("finn", [conv(), ("reorg", {"stride": 2})], "layer 1 .*Reorg: FINN has no such layer"),
    ],
)
def test_what_a_client_cannot_take_is_said_before_anything_is_written(tmp_path, client, sections, message):
    with pytest.raises(InputError, match=message):
        folder(tmp_path / "out", network(*sections), client)
    assert not list(tmp_path.iterdir())


def test_scales_that_are_no_powers_of_two_and_layers_that_are_not_there_are_refused(tmp_path):
    google = Scheme(a_bit=4, equalise=False, correct_bias=False)
    with pytest.raises(InputError, match=r"--for hls4ml: style google has scales .*quantize\.py --style pow2"):
        folder(tmp_path / "out", network(conv(), scheme=google), "hls4ml")
    for client in ("hls4ml", "finn"):
        with pytest.raises(InputError, match="--layers: 9 of 3; use 1 to 3"):
            folder(tmp_path / "out", network(conv()), client, layers=9)
    with pytest.raises(InputError, match=r"a second head, and build_dataflow verifies one output .*--layers \d+"):
        folder(tmp_path / "out", small("tests/cfgs/tiny.cfg", POW2)[0], "finn", side=64)


def test_the_script_writes_it_and_a_prefix_of_a_network(place):
    words = ["qonnx", "--for", "finn", "--layers", "1", "--weights", "weights/net.int.pt", "--golden", "1", *HERE]
    record = export.run(export.parser().parse_args(words))
    assert [path.name for path in record.paths()] == ["model.onnx", "report.json"]
    assert record.metrics["differing"] == 0 and "build_dataflow" in Path("export/net/README.md").read_text()
