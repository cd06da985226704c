"""YOLOR's implicit values: read, written, and folded into the convolutions beside them without a change."""

from __future__ import annotations

import pytest
import torch

from models import Darknet, build, load_model, network_of
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.heads import head_convolutions
from utils.darknet.implicit import fold_implicit
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.darknet.weights import read_weights, write_weights
from utils.errors import InputError
from utils.pruning.sparsity import sparsity
from utils.quantization.validate import check_supported

HEAD = """
[implicit_add]
filters=8
[implicit_mul]
filters=14
[route]
layers=0
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
activation=swish
[shift_channels]
from=1
[convolutional]
{norm}filters=14
size={size}
pad={pad}
activation={activation}
[control_channels]
from=2
{after}[yolo]
mask=0,1
anchors=4,4, 8,8
num=2
classes=2
"""
IMAGE = "[net]\nwidth=16\nheight=16\n[convolutional]\nfilters=6\nsize=3\nstride=2\npad=1\nactivation=leaky\n"


def text(norm=False, size=1, pad=0, activation="linear", after=""):
    norm = "batch_normalize=1\n" if norm else ""
    return IMAGE + HEAD.format(norm=norm, size=size, pad=pad, activation=activation, after=after)


def random_network(cfg: str) -> Network:
    torch.manual_seed(0)
    model = Darknet(parse_cfg(cfg))
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return network_of(model)


def heads(network: Network) -> torch.Tensor:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return build(network)(image)[0]


def test_the_sections_of_yolor_are_read_and_written():
    spec = parse_cfg(text())
    assert parse_cfg(write_cfg(spec)) == spec
    assert isinstance(spec.layers[1], s.ImplicitAdd) and isinstance(spec.layers[7], s.ControlChannels)


def test_values_start_around_nothing_to_add_and_one_to_multiply_by():
    state = Darknet(parse_cfg(text())).state_dict()
    assert state["layers.1.implicit"].abs().max() < 0.2 and (state["layers.2.implicit"] - 1).abs().max() < 0.2


def test_a_weights_file_holds_them_in_the_order_of_the_sections(tmp_path):
    network = random_network(text())
    write_weights(tmp_path / "net.weights", network)
    back = read_weights(tmp_path / "net.weights", network.spec).state
    assert all(torch.equal(back[key], value) for key, value in network.state.items() if key in back)
    assert "layers.1.implicit" in back and "layers.2.implicit" in back


@pytest.mark.parametrize("norm", [False, True])
def test_folded_into_convolutions_of_1x1_the_network_is_the_same_and_has_no_layer_more(norm):
    network = random_network(text(norm=norm))
    folded = fold_implicit(network)
    assert [type(layer) for layer in folded.spec.layers] == [s.Conv, s.Route, s.Conv, s.Conv, s.Yolo]
    torch.testing.assert_close(heads(folded), heads(network), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("keys", "more"), [
    ({"size": 3, "pad": 1}, 1),  # a border sees nothing of what is added
    ({"activation": "leaky"}, 1),  # bends what is multiplied
    ({"size": 3, "pad": 1, "activation": "leaky"}, 2),
])  # fmt: skip
def test_where_they_do_not_fold_a_depthwise_convolution_takes_their_place(keys, more):
    network = random_network(text(**keys))
    folded = fold_implicit(network)
    width = 0
    for layer in folded.spec.layers:
        width += isinstance(layer, s.Conv) and layer.groups > 1
    assert width == more
    torch.testing.assert_close(heads(folded), heads(network), rtol=1e-4, atol=1e-4)


def test_a_head_is_still_that_of_its_convolution():
    assert head_convolutions(parse_cfg(text())) == {8: 6}


def test_a_network_without_them_is_left_as_it_is():
    network = random_network(IMAGE)
    assert fold_implicit(network) is network


def test_the_door_of_the_scripts_opens_the_folded_network(tmp_path):
    network = random_network(text())
    loaded = load_model(save_checkpoint(tmp_path / "net.pt", Checkpoint(network)))
    assert loaded.network is not None and not any(isinstance(layer, s.Implicit) for layer in loaded.spec.layers)
    torch.testing.assert_close(heads(loaded.network), heads(network), rtol=1e-4, atol=1e-4)


def test_channels_that_meet_implicit_values_are_judged_by_their_batch_norm():
    wires = trace(parse_cfg(text()))
    assert torch.equal(wires.outputs[1], wires.outputs[4]) and not wires.locked[wires.outputs[4]].any()


def test_sparse_training_pushes_the_gammas_that_implicit_values_stand_beside():
    network = random_network(text())
    assert [*sparsity(network, 0)[0]] == [4] and [*sparsity(fold_implicit(network), 0)[0]] == [2]


@pytest.mark.parametrize(("wrong", "line"), [
    ("from=0", "from= names no such layer"),
    ("from=2", "shift_channels of layers 4 and 2 joins 8 and 14 channels"),
])  # fmt: skip
def test_a_shift_by_something_else_is_refused(wrong, line):
    with pytest.raises(InputError, match=line):
        parse_cfg(text().replace("from=1", wrong))


def test_sections_that_put_learned_channels_beside_a_map_are_refused_by_name():
    with pytest.raises(InputError, match=r"\[implicit_cat\] is a way to put learned channels beside"):
        parse_cfg(text().replace("[implicit_add]", "[implicit_cat]"))


def test_integers_of_values_that_are_still_learned_are_refused_with_the_way():
    with pytest.raises(InputError, match=r"implicit values have no integer form .* quantize.py"):
        check_supported(parse_cfg(text()))
