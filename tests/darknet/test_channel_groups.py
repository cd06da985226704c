from __future__ import annotations

import pytest
import torch

from tests.pruning.nets import TINY, random_network
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.channel_groups import trace
from utils.errors import InputError
from utils.pruning.explain import groups

NET = "[net]\nchannels=3\nwidth=32\nheight=32\n"


def conv(filters: int, groups: int = 1, bn: int = 1) -> str:
    return f"[convolutional]\nbatch_normalize={bn}\nfilters={filters}\nsize=1\ngroups={groups}\nactivation=relu\n"


def traced(*sections: str):
    return trace(parse_cfg(NET + "".join(sections)))


def test_every_tiny_cfg_has_every_section_somewhere():
    kinds = {type(layer) for path in TINY for layer in read_cfg(path).layers}
    assert kinds >= {
        s.Conv,
        s.MaxPool,
        s.AvgPool,
        s.Upsample,
        s.Route,
        s.Shortcut,
        s.SqueezeExcite,
        s.ScaleChannels,
        s.Dropout,
        s.Yolo,
        s.TransposedConv,
    }


def test_shortcut_makes_channels_one_wire():
    wires = traced(conv(8), conv(4), conv(8), "[shortcut]\nfrom=-3\n", conv(5, bn=0))
    assert torch.equal(wires.outputs[0], wires.outputs[2])
    assert torch.equal(wires.outputs[0], wires.outputs[3])
    assert wires.tied[wires.outputs[0]].all()
    assert not wires.tied[wires.outputs[1]].any()


def test_shortcut_of_many_sources_ties_all_of_them():
    wires = traced(conv(8), conv(8), conv(8), "[shortcut]\nfrom=-2,-3\n", conv(5, bn=0))
    assert torch.equal(wires.outputs[0], wires.outputs[1])
    assert torch.equal(wires.outputs[0], wires.outputs[2])


def test_route_lists_wires_side_by_side():
    wires = traced(conv(4), conv(6), "[route]\nlayers=-1,-2\n", conv(5, bn=0))
    assert torch.equal(wires.outputs[2], torch.cat([wires.outputs[1], wires.outputs[0]]))
    assert not wires.tied.any()


def test_route_slices_each_source_and_ties_the_slices():
    wires = traced(conv(4), conv(6), "[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n", conv(5, bn=0))
    assert torch.equal(wires.outputs[2], torch.cat([wires.outputs[1][3:], wires.outputs[0][2:]]))
    assert torch.equal(wires.outputs[1][3:], wires.outputs[1][:3])


def test_depthwise_convolution_keeps_its_wires():
    wires = traced(conv(8), conv(8, groups=8), conv(5, bn=0))
    assert torch.equal(wires.outputs[0], wires.outputs[1])
    assert wires.depthwise == {1}
    assert wires.voters == (0,)
    assert not wires.tied.any()


def test_depthwise_convolution_that_multiplies_its_channels_goes_with_its_input():
    wires = traced(conv(4), conv(8, groups=4), conv(5, bn=0))
    assert torch.equal(wires.outputs[1], wires.outputs[0].repeat_interleave(2))


def test_grouped_convolution_is_one_wire_a_group():
    wires = traced(conv(8), conv(12, groups=4), conv(5, bn=0))
    assert torch.equal(wires.outputs[0], wires.outputs[0][::2].repeat_interleave(2))
    assert torch.equal(wires.outputs[1], wires.outputs[0][::2].repeat_interleave(3))
    assert len(wires.outputs[1].unique()) == 4


def test_image_and_heads_are_locked_and_nothing_else():
    wires = trace(random_network("plain").spec)
    assert wires.locked[wires.outputs[-1]].all()
    assert wires.locked[wires.outputs[8]].all()
    assert int(wires.locked.sum()) == 3 + 14


def test_depthwise_convolution_on_the_image_is_locked():
    wires = traced(conv(3, groups=3), conv(8), conv(5, bn=0))
    assert wires.locked[wires.outputs[0]].all()


def test_convolution_without_batch_norm_is_locked_with_a_reason():
    wires = traced(conv(8, bn=0), conv(8), conv(5, bn=0))
    assert wires.locked[wires.outputs[0]].all()
    assert any("line 5: no batch norm" in reason.text for reason in wires.reasons)


def test_gate_without_batch_norm_follows_its_features():
    wires = traced(conv(8), "[avgpool]\n", conv(8, bn=0), "[scale_channels]\nfrom=-3\n", conv(5, bn=0))
    assert torch.equal(wires.outputs[2], wires.outputs[0])
    assert not wires.locked[wires.outputs[2]].any()


def test_groups_tell_why_wires_stay_or_go_together():
    wires = trace(random_network("residual").spec)
    message = groups(wires)
    assert sum(group.wires for group in message) == wires.count
    tied = next(group for group in message if group.layers == (0, 2, 5))
    assert tied.tied and not tied.locked
    assert [text.split(": ")[1] for text in tied.reasons] == ["tied by a shortcut"] * 2
    assert next(group for group in message if "the image" in group.reasons).locked


def test_shortcut_of_unequal_widths_ties_what_both_have_and_names_the_line():
    layers = (
        s.Conv(sources=(-1,), filters=8, bn=True),
        s.Conv(sources=(0,), filters=4, bn=True),
        s.Shortcut(sources=(1, 0), line=9),
    )
    wires = trace(s.ModelSpec(layers=layers))
    assert torch.equal(wires.outputs[0][:4], wires.outputs[1])
    tied = next(reason for reason in wires.reasons if "line 9" in reason.text)
    assert torch.equal(tied.wires, wires.outputs[1].unique())


def test_unknown_layer_has_no_wires():
    class Reorg(s.Layer):
        pass

    with pytest.raises(InputError, match="cfg line 7: Reorg has no row"):
        trace(s.ModelSpec(layers=(Reorg(sources=(-1,), line=7),)))
