from __future__ import annotations

import pytest
import torch

from models import build
from tests.pruning.nets import image, random_network, run, with_gammas
from tests.pruning.residual import thin
from utils.darknet import spec as s
from utils.darknet.counts import count, parameters
from utils.darknet.fold import fold_bn
from utils.errors import InputError
from utils.pruning.blocks import blocks
from utils.pruning.choices import By
from utils.pruning.layer_plan import plan_layers
from utils.pruning.layers import drop

TINY = ["ghost", "mobile", "resnet", "residual", "depthwise"]


def counted(net) -> int:
    return sum(v.numel() for k, v in net.state.items() if "running" not in k)


def loud(net, values: dict[int, float]):
    """The network with all gammas of these layers at one value."""
    return with_gammas(net, {i: torch.full_like(net.state[f"layers.{i}.bn.weight"], v) for i, v in values.items()})


def test_the_blocks_of_lowest_mean_gamma_go():
    net = random_network(thin("yolov3"))
    found = blocks(net.spec)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(3)).tolist()
    net = loud(net, {block.voice[0]: 0.1 + 0.01 * rank for block, rank in zip(found, order, strict=True)})
    plan = plan_layers(net, n=8)
    assert {block.shortcut for block in plan.gone} == {
        b.shortcut for b, rank in zip(found, order, strict=True) if rank < 8
    }
    assert [row.score for row in plan.rows] == pytest.approx([0.1 + 0.01 * rank for rank in order])
    mean = sum(0.1 + 0.01 * rank for rank in range(8, 23)) / 15
    assert [row.relative for row in plan.rows] == pytest.approx([row.score / mean for row in plan.rows])


def test_the_sign_of_a_gamma_does_not_count_and_its_magnitude_does():
    net = random_network("residual")
    state = {k: -v if k == "layers.2.bn.weight" else v for k, v in net.state.items()}
    assert plan_layers(type(net)(net.spec, state), n=1).gone == plan_layers(net, n=1).gone


def test_a_voice_of_two_layers_is_judged_by_all_of_their_channels():
    net = loud(random_network("ghost"), {4: 0.2, 5: 0.6})
    assert plan_layers(net, n=0).rows[0].score == pytest.approx(0.4)


def test_another_score_decides_otherwise():
    net = random_network("residual")

    def backwards(network):
        layers = enumerate(network.spec.layers)
        return {i: torch.full((x.filters,), 99.0 - i) for i, x in layers if isinstance(x, s.Conv) and x.bn}

    assert [block.shortcut for block in plan_layers(net, n=1, score=backwards).gone] == [10]


def test_equal_blocks_go_from_the_front():
    net = random_network("mobile")
    assert [b.shortcut for b in plan_layers(loud(net, {4: 0.5, 12: 0.5, 17: 0.5}), n=2).gone] == [5, 13]


def test_blocks_inside_a_branch_that_goes_go_with_it():
    net = loud(random_network("resnet"), {2: 9, 5: 9, 7: 9, 9: 9, 13: 9, 15: 0.01, 17: 9})
    assert [block.shortcut for block in plan_layers(net, n=1).gone] == [14, 16]


@pytest.mark.parametrize("name", TINY)
def test_parameters_layers_and_macs_are_what_the_plan_predicted(name):
    net = random_network(name)
    for n in range(1, len(blocks(net.spec)) + 1):
        plan = plan_layers(net, n=n)
        small = drop(net, plan)
        assert plan.params == (counted(net), counted(small)) == (parameters(net.spec), parameters(small.spec))
        assert plan.layers == (len(net.spec.layers), len(small.spec.layers))
        assert plan.macs == (count(net.spec).macs, count(small.spec).macs)


@pytest.mark.parametrize("name", ["yolov3", "yolov4"])
def test_saved_shares_of_independent_blocks_add_up(name):
    net = random_network(thin(name))
    plan = plan_layers(net, n=5)
    gone = [row for row in plan.rows if row.goes]
    assert sum(row.params for row in gone) == plan.params[0] - plan.params[1]
    assert sum(row.macs for row in gone) == pytest.approx(1 - plan.macs[1] / plan.macs[0])


def test_energy_is_the_share_of_the_variance_that_a_branch_brings():
    """The oracle: linear layers on white noise, measured."""
    noise = torch.Generator().manual_seed(0)
    layers = (
        s.Conv(sources=(-1,), filters=64, bn=True),
        s.Conv(sources=(0,), filters=64, bn=True),
        s.Shortcut(sources=(1, 0)),
        s.Conv(sources=(2,), filters=7),
    )
    net = random_network(s.ModelSpec(layers=layers, net=(("channels", "64"),)))
    state = dict(net.state)
    for i, gamma in ((0, 1.0), (1, 0.5)):
        kernel = torch.eye(64).roll(1 + i, 0)  # shuffles the channels: white noise stays white
        state |= {
            f"layers.{i}.conv.weight": kernel[:, :, None, None],
            f"layers.{i}.bn.weight": torch.full((64,), gamma),
        }
        state |= {f"layers.{i}.bn.running_mean": torch.zeros(64), f"layers.{i}.bn.running_var": torch.ones(64)}
    net = type(net)(net.spec, state)
    out = build(net).activations(torch.randn(1, 64, 64, 64, generator=noise))
    measured = float(out[1].detach().var((2, 3)).mean() / out[2].detach().var((2, 3)).mean())
    assert plan_layers(net, n=0).rows[0].energy == pytest.approx(0.2)
    assert measured == pytest.approx(0.2, rel=0.03)


def test_by_energy_a_loud_branch_on_a_louder_trunk_goes_before_a_quiet_one_on_a_quieter():
    net = loud(random_network("mobile"), {0: 3.0, 4: 0.6, 12: 0.6, 14: 0.1, 17: 0.2})
    assert [block.shortcut for block in plan_layers(net, n=1, by=By.SCORE).gone] == [18]
    assert [block.shortcut for block in plan_layers(net, n=2, by=By.ENERGY).gone] == [5, 13]
    assert len(plan_layers(net, n=3, by=By.ENERGY).gone) == 3


def test_by_energy_what_has_gone_no_longer_drowns_what_comes_behind():
    energies = {0: 1.0, 4: 0.2, 12: 0.25, 14: 1.0, 17: 0.227}
    net = loud(random_network("mobile"), {i: energy**0.5 for i, energy in energies.items()})
    shares = {row.block.shortcut: row.energy for row in plan_layers(net, n=0).rows}
    assert shares == pytest.approx({5: 0.2 / 1.2, 13: 0.25 / 1.45, 18: 0.227 / 1.227})
    assert sorted(shares, key=shares.__getitem__) == [5, 13, 18]
    # once 5 is gone, 13 brings 0.25 of 1.25
    assert [block.shortcut for block in plan_layers(net, n=2, by=By.ENERGY).gone] == [5, 18]


def test_a_plan_reads_as_a_sentence_and_a_line_a_block():
    lines = str(plan_layers(random_network("mobile"), n=1)).splitlines()
    assert lines[0].startswith("1 of 3 residual blocks go: 25 -> 20 layers, parameters 4,930 -> 4,322 (-12.3%), MACs -")
    assert len(lines) == 4
    assert lines[1].startswith(
        "goes  shortcut 5 (cfg line 44), layers 1 2 3 4: score 0.4773 (0.89 of the mean that stays)"
    )
    assert lines[2].startswith("stays shortcut 13")


def test_nothing_goes_at_zero_and_no_mean_is_left_when_all_go():
    net = random_network("mobile")
    assert plan_layers(net, n=0).gone == ()
    x = image(net)
    assert all(torch.equal(a, b) for a, b in zip(run(drop(net, plan_layers(net, n=0)), x), run(net, x), strict=True))
    assert all(row.relative is None for row in plan_layers(net, n=3).rows)


def test_more_blocks_than_there_are_names_how_many():
    with pytest.raises(InputError, match="cannot take 24 residual blocks out: the network has 23; ask for 23 at most"):
        plan_layers(random_network(thin("yolov3")), n=24)


def test_a_negative_number_is_refused():
    with pytest.raises(InputError, match="must not be negative, got -1"):
        plan_layers(random_network("mobile"), n=-1)


def test_a_network_without_blocks_names_the_scripts_that_need_none():
    with pytest.raises(InputError, match=r"no residual block .* slim_prune\.py"):
        plan_layers(random_network("tiny"), n=1)


def test_folded_batch_norm_cannot_be_judged():
    folded = fold_bn(random_network("mobile"))
    with pytest.raises(
        InputError, match=r"network has 3, and only 0 of them have batch norm .* before batch norm is folded"
    ):
        plan_layers(folded, n=1)
