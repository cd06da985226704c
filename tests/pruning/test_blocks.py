from __future__ import annotations

import pytest

from tests.pruning.nets import ROOT, random_network
from tests.pruning.residual import thin
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.shapes import channels
from utils.errors import InputError
from utils.pruning.blocks import Block, blocks, layer_gammas, shorten, some_blocks
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import cut

NET = "[net]\nchannels=3\nwidth=32\nheight=32\n"
HEAD = "[convolutional]\nfilters=7\nactivation=linear\n[yolo]\nanchors=4,4\nclasses=2\n"


def conv(filters: int = 8, bn: int = 1, activation: str = "relu") -> str:
    return f"[convolutional]\nbatch_normalize={bn}\nfilters={filters}\nsize=1\nactivation={activation}\n"


def add(sources: str, activation: str = "linear", more: str = "") -> str:
    return f"[shortcut]\nfrom={sources}\nactivation={activation}\n{more}"


def route(layers: str) -> str:
    return f"[route]\nlayers={layers}\n"


def parsed(*sections: str) -> s.ModelSpec:
    return parse_cfg(NET + "".join(sections) + HEAD)


def edges(spec: s.ModelSpec) -> list[tuple[int, int]]:
    return [(block.shortcut, block.source) for block in blocks(spec)]


@pytest.mark.parametrize("name", ["yolov3", "yolov3-spp", "yolov4"])
def test_every_shortcut_of_darknet53_and_of_csp_is_a_block_of_two_convolutions(name):
    spec = read_cfg(ROOT / "cfg" / f"{name}.cfg")
    shortcuts = [i for i, layer in enumerate(spec.layers) if isinstance(layer, s.Shortcut)]
    assert len(shortcuts) == 23
    assert blocks(spec) == tuple(Block(i, i - 1, i - 3, (i - 2, i - 1), (i - 1,)) for i in shortcuts)


def test_mobilenet_blocks_hold_depthwise_and_both_kinds_of_gates():
    assert blocks(random_network("mobile").spec) == (
        Block(5, 4, 0, (1, 2, 3, 4), (4,)),
        Block(13, 12, 5, (6, 7, 8, 9, 10, 11, 12), (12,)),
        Block(18, 17, 14, (15, 16, 17), (17,)),
    )


def test_ghost_blocks_end_in_a_route_and_speak_with_both_of_its_convolutions():
    found = blocks(random_network("ghost").spec)
    assert [(b.shortcut, b.trunk, b.voice) for b in found] == [(7, 0, (4, 5)), (15, 7, (12, 13)), (23, 16, (20, 21))]
    assert found[0].layers == (1, 2, 3, 4, 5, 6)


def test_a_sum_of_two_branches_gives_two_blocks_and_a_block_may_lie_inside_another():
    found = {(b.shortcut, b.source): b for b in blocks(random_network("resnet").spec)}
    assert {source for shortcut, source in found if shortcut == 10} == {7, 9}
    assert found[10, 9].layers == (8, 9)  # the route to the trunk goes with the branch
    assert 14 in found[16, 15].layers and (14, 13) in found
    assert found[21, 20].layers == (17, 20) and found[21, 20].trunk == 16


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny"])
def test_networks_without_shortcuts_have_no_blocks_and_are_told_what_to_use(name):
    spec = read_cfg(ROOT / "cfg" / f"{name}.cfg")
    assert blocks(spec) == ()
    for ask in (some_blocks, layer_gammas):
        with pytest.raises(InputError, match=r"no residual block to take out: .* instead: normal_prune\.py") as message:
            ask(spec)
        assert "\n" not in str(message.value)


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param([conv(), conv(), route("0"), conv(), add("1")], id="both sides are projections"),
        pytest.param([conv(), conv(), add("0"), route("1,2")], id="the branch is read by another layer"),
        pytest.param([conv(), conv(), route("0,1"), conv(), add("1")], id="the branch reads more than the trunk"),
        pytest.param([conv(), route("0"), add("0")], id="the branch has no convolution"),
        pytest.param([conv(), conv(), add("0", more="weights_type=per_feature\n")], id="a weighted sum"),
    ],
)
def test_no_blocks_are(sections):
    assert blocks(parsed(*sections)) == ()


def test_a_sum_that_is_an_output_is_no_block():
    layers = (s.Conv(sources=(-1,), filters=4, bn=True), s.Conv(sources=(0,), filters=4, bn=True))
    assert blocks(s.ModelSpec(layers=(*layers, s.Shortcut(sources=(1, 0))))) == ()


def test_the_image_is_no_trunk():
    layers = (s.Conv(sources=(-1,), filters=3, bn=True), s.Shortcut(sources=(0, -1)), s.Conv(sources=(1,), filters=2))
    assert blocks(s.ModelSpec(layers=layers)) == ()


@pytest.mark.parametrize("way", ["0", "-3", "-3,0"])
def test_references_of_every_spelling_are_understood(way):
    assert edges(parsed(conv(), conv(), conv(), add(way))) == [(3, 2)]


def test_the_trunk_may_be_the_previous_layer_by_a_route():
    assert edges(parsed(conv(), conv(), route("0"), add("1"))) == [(3, 1)]


def test_of_a_chain_only_the_end_is_a_block_until_it_is_gone():
    spec = parsed(conv(), conv(), conv(), add("1,0"))
    assert edges(spec) == [(3, 2)]
    assert edges(shorten(spec, blocks(spec)).spec) == [(2, 1)]


def test_voice_reaches_through_a_convolution_without_batch_norm_and_may_be_empty():
    assert [b.voice for b in blocks(parsed(conv(), conv(4), conv(bn=0), add("0")))] == [(1,)]
    assert [b.voice for b in blocks(parsed(conv(), conv(bn=0), add("0")))] == [()]


def test_a_gate_has_no_voice():
    gate = "[avgpool]\n" + conv(activation="logistic") + "[scale_channels]\nfrom=-3\n"
    assert [b.voice for b in blocks(parsed(conv(), conv(), gate, add("0")))] == [(1,)]


@pytest.mark.parametrize("name", ["ghost", "mobile", "resnet", "residual", "depthwise", "yolov3", "yolov4"])
def test_a_network_with_channels_cut_has_the_same_blocks(name):
    net = random_network(thin(name) if name.startswith("yolo") else name)
    small = cut(net, plan_channels(net, percent=0.5, tie=ShortcutRule.ANY))
    assert blocks(small.spec) == blocks(net.spec) != ()


@pytest.mark.parametrize(
    ("activations", "after"),
    [
        (("relu", "relu"), []),
        (("relu", "leaky"), []),
        (("relu6", "relu"), []),
        (("relu", "relu6"), ["relu6"]),
        (("leaky", "leaky"), ["leaky"]),
        (("linear", "logistic"), ["logistic"]),
        (("leaky", "linear"), []),
    ],
    ids=" then ".join,
)
def test_an_activation_behind_the_sum_is_carried_where_it_would_change_the_trunk(activations, after):
    spec = parsed(conv(activation=activations[0]), conv(), add("0", activations[1]))
    short = shorten(spec, blocks(spec))
    carried = [short.spec.layers[i] for i in short.carriers]
    assert [layer.activation for layer in carried] == after
    assert all((layer.filters, layer.groups, layer.size, layer.bn) == (8, 8, 1, False) for layer in carried)
    assert len(short.spec.layers) == 3 + len(after)


def test_a_route_is_put_where_the_trunk_is_no_longer_the_layer_before():
    spec = parsed(conv(), conv(), route("0"), conv(5), route("1"), add("0"), conv(), route("-1,3"))
    short = shorten(spec, blocks(spec)).spec
    assert [type(layer).__name__ for layer in short.layers[:6]] == ["Conv", "Route", "Conv", "Route", "Conv", "Route"]
    assert short.layers[3].sources == (0,) and short.layers[5].sources == (4, 2)
    assert parse_cfg(write_cfg(short)) == short


def test_a_sum_that_loses_its_first_branch_is_spelled_from_what_is_now_before_it():
    spec = parsed(conv(), conv(), route("0"), conv(), add("0,1"))
    first = next(block for block in blocks(spec) if block.source == 3)
    short = shorten(spec, [first]).spec
    assert [layer.sources for layer in short.layers[:3]] == [(-1,), (0,), (1, 0)]
    assert parse_cfg(write_cfg(short)) == short


def test_all_references_of_a_published_cfg_are_renumbered_and_widths_still_fit():
    spec = thin("yolov4")
    short = shorten(spec, blocks(spec))
    width, before = channels(short.spec), channels(spec)
    assert len(short.spec.layers) == len(spec.layers) - 3 * 23 and not short.carriers
    assert all(width[new] == before[old] for old, new in short.number.items())
    assert blocks(short.spec) == ()


def test_layer_gammas_are_those_before_the_sums():
    masks = layer_gammas(random_network("ghost").spec)
    assert {i: len(mask) for i, mask in masks.items()} == {4: 4, 5: 4, 12: 4, 13: 4, 20: 6, 21: 6}
    assert all(mask.all() for mask in masks.values())
    assert len(layer_gammas(read_cfg(ROOT / "cfg" / "yolov3.cfg"))) == 23
