"""--target speck: layer by layer, refused by name with a remedy; and sinabs' own sums of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import export
from tests.export.nets import lowered
from tests.export.test_script import HERE, place
from tests.quantization.random_nets import Section, cfg_text, random_images
from utils.darknet.network import save_checkpoint
from utils.errors import InputError
from utils.export.speck import KERNELS, NEURONS, memories, speck_faults
from utils.export.targets import check_target
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.integer import IntegerNetwork
from utils.quantization.scheme import Scheme

assert place  # a fixture

POW2 = Scheme(style="pow2", w_bit=8, a_bit=4, acc_bits=16, equalise=False, correct_bias=False, ranges="minmax")


def conv(activation="relu", **keys) -> Section:
    return "convolutional", {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": activation} | keys


def network(*sections: Section, scheme: Scheme = POW2) -> IntegerNetwork:
    return lowered(cfg_text(*sections), random_images(1), scheme)


MEAN = ("local_avgpool", {"size": 2, "stride": 2, "padding": 0})


def test_a_relu_chain_of_one_threshold_a_layer_passes():
    fits = network(conv(stride=2), conv(), MEAN, conv(size=1, pad=0))
    assert list(speck_faults(fits, (16, 16))) == []
    check_target(fits, "speck", (16, 16), "nir")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([conv("leaky")], "activation=leaky; a Speck has relu; train.py --act relu=leaky, then quantise"),
        ([conv(), ("maxpool", {"size": 2, "stride": 2})], r"a max pool, and a Speck has sums; use \[local_avgpool\]"),
        (
            [conv(), conv(), ("shortcut", {"from": -2, "activation": "relu"})],
            "a sum of layers with weights of their own",
        ),
        ([conv(), ("route", {"layers": -1, "groups": 2, "group_id": 1})], "channels side by side or sliced"),
        ([conv(), ("upsample", {"stride": 2})], "Upsample: a Speck has no such layer"),
        ([conv(dilation=2)], "a kernel of 3 px, padding 2, dilation 2; a core takes 16, 7 and 1"),
        ([conv(stride=3)], "stride 3; a core has 1, 2, 4, 8"),
    ],
)
def test_what_a_core_cannot_run_is_told_with_layer_line_and_remedy(sections, message):
    with pytest.raises(InputError, match=rf"--target speck: layer \d+ \(cfg line \d+\): {message}"):
        check_target(network(*sections), "speck", (16, 16), "nir")


def faults(fits: IntegerNetwork, size: tuple[int, int] = (16, 16)) -> str:
    return "; ".join(speck_faults(fits, size))


def test_sizes_widths_and_states_are_told_with_what_a_core_has():
    fits = network(conv(), conv())
    assert "an image of 160x96 px; a Speck takes 128; use --img-size 128" in faults(fits, (160, 96))
    assert "a map of 128x128; a core has 64; use stride=2" in faults(fits, (128, 128))
    wide = replace(POW2, acc_bits=None, layer_bits=((1, 16, 4),))
    found = faults(network(conv(), conv(), scheme=wide))
    assert "weights of 16 bits, and a core has 8; quantize.py --style pow2" in found and "states of up to" in found
    google = replace(POW2, style="google")
    assert "channels with gains of their own, and a core has one threshold" in faults(network(conv(), scheme=google))
    assert "): 3 layers read it, and a core sends to 2" in faults(network(conv(), *[_from_first()] * 3))


def _from_first() -> Section:
    return "shortcut", {"from": 0, "activation": "relu"}


def test_nine_layers_have_a_core_each_and_the_tenth_has_none():
    def of(count: int) -> IntegerNetwork:
        return network(*[conv(filters=4) for _ in range(count - 1)])  # and the head

    assert not faults(of(9))
    assert "and the cores that have both are taken (9 in all); prune, or fewer layers" in faults(of(10))


def test_a_layer_that_no_core_holds_is_told_with_both_sums():
    fits = network(conv(filters=256), conv(filters=256))
    assert "1,048,576 words of weights and 65,536 of states, and no core has both" in faults(fits)


def test_memories_and_cores_are_those_that_sinabs_states():
    dynapcnn = pytest.importorskip("sinabs")
    source = Path(dynapcnn.__file__).parent / "backend/dynapcnn"
    text = (source / "chips/dynapcnn.py").read_text().partition("def get_constraints")[2]
    for name, mine in (("weight_memory_size", KERNELS), ("neurons_memory_size", NEURONS)):
        listed = text.partition(f"{name} = [")[2].partition("]")[0]
        numbers = [line.partition("#")[0].strip(" ,") for line in listed.splitlines() if "*" in line]
        assert [int(a) * int(b) for a, b in (each.split("*") for each in numbers)] == list(mine)
    fits = network(conv(filters=12, stride=2), conv(filters=20, groups=4))
    for i, (c, f, side) in {0: (3, 12, 8), 1: (12, 20, 8)}.items():
        kernel = c * 2 ** (np.ceil(np.log2(9)) + np.ceil(np.log2(f)))  # dynapcnn_layer.py, memory_summary
        assert memories(fits, i, (side, side)) == (kernel, f * 2 ** (2 * np.ceil(np.log2(side))))


def test_the_script_takes_it_for_nir_and_events_alone(place):
    cfg = cfg_text(conv(stride=2), conv(stride=2), side=64).partition("[convolutional]\nfilters=6")[0]
    cfg += Path("net.cfg").read_text().rpartition("[convolutional]")[2].join(["[convolutional]", ""])
    fits = lowered(cfg, random_images(2, side=64), POW2)
    save_checkpoint("weights/fits.int.pt", to_checkpoint(fits, "quantised", ("blue", "green")))
    words = ["--weights", "weights/fits.int.pt", "--golden", "1", "--target", "speck"]
    export.run(export.parser().parse_args(["nir", *words, *HERE]))
    assert "## Target: speck" in Path("export/fits/README.md").read_text()
    with pytest.raises(InputError, match="--target speck: reads nir and aer, not fpga; export one of those"):
        export.run(export.parser().parse_args(["fpga", *words, *HERE]))
