from __future__ import annotations

import torch

from tests.pruning.nets import random_network, with_gammas
from utils.darknet.cfg import parse_cfg
from utils.darknet.channel_groups import trace
from utils.pruning.penalty import decisive
from utils.pruning.scores import gammas, strengths

NET = "[net]\nchannels=3\nwidth=32\nheight=32\n"
HEAD = "[convolutional]\nfilters=5\nactivation=linear\n"


def conv(filters: int, groups: int = 1) -> str:
    return f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize=1\ngroups={groups}\nactivation=relu\n"


def judged(text: str, **values: list[float]):
    """Strengths of a network whose layer ``L3`` has the gammas given as ``L3=[…]``."""
    net = random_network(parse_cfg(NET + text))
    net = with_gammas(net, {int(name[1:]): torch.tensor(value) for name, value in values.items()})
    return strengths(net.spec, trace(net.spec), gammas(net))


def test_gammas_are_absolute_values():
    net = with_gammas(random_network("plain"), {0: torch.linspace(-1, 1, 8)})
    assert torch.equal(gammas(net)[0], torch.linspace(-1, 1, 8).abs())


def test_wire_in_series_is_as_weak_as_its_weakest_gamma():
    found = judged(conv(2) + conv(2, 2) + HEAD, L0=[0.9, 0.2], L1=[0.1, 0.8])
    torch.testing.assert_close(found[0], torch.tensor([0.1, 0.2]))


def test_channel_read_before_and_after_a_depthwise_layer_is_as_strong_as_its_stronger_path():
    ghost = conv(2) + conv(2, 2) + "[route]\nlayers=-1,-2\n" + HEAD
    found = judged(ghost, L0=[0.9, 0.2], L1=[0.1, 0.8])
    torch.testing.assert_close(found[0], torch.tensor([0.9, 0.2]))


def test_depthwise_layer_behind_a_shortcut_weakens_all_that_is_added():
    text = conv(2) + conv(2) + "[shortcut]\nfrom=-2\n" + conv(2, 2) + HEAD
    found = judged(text, L0=[0.9, 0.2], L1=[0.3, 0.7], L3=[0.5, 0.5])
    torch.testing.assert_close(found[0], torch.tensor([0.9, 0.2]))  # layer 1 reads it at once
    torch.testing.assert_close(found[1], torch.tensor([0.3, 0.5]))


def test_slice_that_nobody_reads_has_no_strength():
    text = conv(4) + conv(4, 4) + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n" + HEAD
    found = judged(text, L0=[0.2, 0.4, 0.6, 0.8], L1=[1.0] * 4)
    pairs = torch.tensor([0.6, 0.8]) / 2**0.5  # root mean square with the unread half
    torch.testing.assert_close(found[0], pairs.repeat(2))


def test_channels_of_one_layer_on_one_wire_share_their_root_mean_square():
    found = judged(conv(4) + conv(4, 2) + HEAD, L0=[0.3, 0.4, 1.0, 1.0], L1=[0.0, 1.0, 2.0, 2.0])
    torch.testing.assert_close(found[0], torch.tensor([0.125, 0.125, 1.0, 1.0]).sqrt())
    torch.testing.assert_close(found[1], torch.tensor([0.5, 0.5, 4.0, 4.0]).sqrt())


def test_only_a_depthwise_gamma_without_a_way_around_it_is_decisive():
    block = parse_cfg(NET + conv(2) + conv(2, 2) + HEAD)
    assert set(decisive(block, trace(block))) == {0, 1}
    assert decisive(block, trace(block))[1].all()
    ghost = parse_cfg(NET + conv(2) + conv(2, 2) + "[route]\nlayers=-1,-2\n" + HEAD)
    assert not decisive(ghost, trace(ghost))[1].any()
