"""What a target cannot run is refused with what to retrain; what it can is exported and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import export
from tests.export.nets import QUICK, lowered
from tests.export.test_script import HERE, place
from tests.quantization.random_nets import Section, cfg_text, random_images
from utils.darknet.network import save_checkpoint
from utils.errors import InputError
from utils.export.onnx_folder import OnnxOptions, export_onnx
from utils.export.targets import check_target
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.scheme import Scheme

assert place  # a fixture

DPU = Scheme(style="pow2", w_bit=8, a_bit=7, equalise=False, correct_bias=False, ranges="minmax")
EITHER = r"calibrate the float network: quantize.py --target vitis-dpu, or "
RETRAIN = r"retrain: train.py --quantized pow2 --BN_Fold --w-bit 8 --a-bit 7"


def conv(activation="relu", **keys) -> Section:
    return "convolutional", {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": activation} | keys


def network(*sections: Section, scheme: Scheme = DPU):
    return lowered(cfg_text(*sections), random_images(1), scheme)


def test_a_relu_network_in_powers_of_two_passes_and_its_readme_says_what_was_checked(tmp_path):
    fits = network(
        conv(), ("maxpool", {"size": 2, "stride": 2}), conv(), conv(), ("shortcut", {"from": -2}), conv("relu6")
    )
    check_target(fits, "vitis-dpu")
    options = OnnxOptions(form="onnx", name="test", target="vitis-dpu")
    assert export_onnx(tmp_path / "out", fits, random_images(1), options)["target"] == "vitis-dpu"
    text = (tmp_path / "out/README.md").read_text()
    assert "Target: vitis-dpu" in text and "neither compiled with Vitis AI nor run" in text
    assert max(grid.qmax for i, grid in fits.grids.items() if i >= 0) == 127


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            [conv("leaky")],
            r"activation=leaky, and the DPU's leaky has slope 26/256 and no other; " + RETRAIN + " --act relu=leaky",
        ),
        ([conv("leaky_pow2")], r"activation=leaky_pow2, and the DPU's leaky has slope 26/256"),
        ([conv("mish")], r"activation=mish has no form on the DPU; " + RETRAIN + " --act relu=mish"),
        ([conv(), conv(groups=2)], "groups=2; the DPU has 1 and depthwise only"),
        ([conv(size=17)], "a kernel of 17 px with stride 1; the DPU takes 16 and 8"),
        ([conv(), ("maxpool", {"size": 13, "stride": 1})], "a pool of 13 px, stride 1; the DPU takes 8"),
        ([conv(), ("route", {"layers": -1, "groups": 2, "group_id": 1})], "a slice of channels, which .* to the CPU"),
        ([conv(), conv(), ("shortcut", {"from": -2, "activation": "leaky"})], "a sum with activation=leaky"),
        ([conv(), ("upsample", {"stride": 2, "zeros": 1})], "zeros between values: the DPU's transposed convolution"),
        ([conv(), ("reorg", {"stride": 2})], "Reorg: whether the DPU computes it in the same integers is not known"),
    ],
)
def test_what_the_dpu_cannot_run_is_told_with_layer_line_and_remedy(sections, message):
    with pytest.raises(InputError, match=rf"--target vitis-dpu: layer \d+ \(cfg line \d+\): {message}"):
        check_target(network(*sections), "vitis-dpu")


def test_scales_that_are_no_powers_of_two_and_levels_beyond_int8_are_told():
    with pytest.raises(
        InputError, match=rf"style google has scales that are no powers of two; {EITHER}{RETRAIN} \(and \d more\)"
    ):
        check_target(network(conv(), scheme=QUICK), "vitis-dpu")
    with pytest.raises(
        InputError, match=rf"layer 0 .*: levels 0\.\.255 do not fit int8, 7 unsigned bits do; {EITHER}{RETRAIN}$"
    ):
        check_target(network(conv(), scheme=replace(DPU, a_bit=8)), "vitis-dpu")
    wide = replace(DPU, layer_bits=((0, 16, 7),))
    with pytest.raises(InputError, match="weights of 16 bits, and the DPU has int8"):
        check_target(network(conv(), scheme=wide), "vitis-dpu")


def test_wide_layers_are_told_by_what_does_not_fit():
    fits = network(conv(), conv())
    layers = list(fits.spec.layers)
    layers[1] = replace(layers[1], dilation=600)
    with pytest.raises(InputError, match="8 channels in, 8 out, dilation 600; the DPU takes 4096; prune"):
        check_target(replace(fits, spec=replace(fits.spec, layers=tuple(layers))), "vitis-dpu")


def typed(*words: str):
    return export.run(export.parser().parse_args([*words, "--golden", "1", "--target", "vitis-dpu", *HERE]))


def test_the_script_refuses_before_it_writes_and_marks_what_it_writes(place):
    with pytest.raises(InputError, match="--target vitis-dpu: style google has scales"):
        typed("fpga", "--weights", "weights/net.int.pt")
    assert not Path("export").exists()
    fits = lowered(Path("net.cfg").read_text().replace("leaky", "relu"), random_images(2, side=64), DPU)
    save_checkpoint("weights/fits.int.pt", to_checkpoint(fits, "quantised", ("blue", "green")))
    typed("fpga", "--weights", "weights/fits.int.pt")
    assert json.loads(Path("export/fits/manifest.json").read_text())["target"] == "vitis-dpu"
    assert "Target: vitis-dpu" in Path("export/fits/README.md").read_text()
