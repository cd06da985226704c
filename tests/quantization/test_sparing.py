"""Levels that training pushes down, because they become spikes."""

from __future__ import annotations

import pytest
import torch

from tests.quantization.random_nets import cfg_text, random_images, random_network
from tests.quantization.test_fake import CONV, trained
from utils.quantization.executor import IntegerExecutor
from utils.quantization.fake import FakeQuantised
from utils.quantization.ste import fake_quantise, level_sum

SECTIONS = [("convolutional", CONV), ("convolutional", CONV | {"activation": "leaky_pow2"}), ("maxpool", {"size": 2})]


def spikes_by_the_integers(model: FakeQuantised, x: torch.Tensor) -> float:
    """Mean |n| / hi over the neurons of convolutions and shortcuts, from the golden model."""
    integer = model.integer()
    levels = IntegerExecutor(integer).levels(x)
    fired = [levels[i].double().abs() / integer.grids[i].qmax for i in integer.ops if i in levels]
    return float(torch.cat([each.flatten() for each in fired]).mean())


def test_mean_level_is_what_the_integers_fire():
    network = random_network(cfg_text(*SECTIONS[:2], ("shortcut", {"from": -2}), SECTIONS[2]))
    for bits in (8, 4, 2):
        model, x = trained(network, style="pow2", w_bit=8, a_bit=bits), random_images()
        model.counting = True
        model(x)
        assert float(model.mean_level().detach()) == pytest.approx(spikes_by_the_integers(model, x), rel=1e-5)


def test_gradient_goes_straight_to_what_fires_and_is_even():
    x = torch.tensor([-3.0, -0.4, 0.0, 0.3, 0.9, 2.2, 9.0], requires_grad=True)
    total = level_sum(x, fake_quantise(x[None], torch.tensor(0.5), -4, 3)[0], unit=0.5 * 3)
    total.backward()
    assert float(total.detach()) == pytest.approx((4 + 1 + 0 + 1 + 2 + 3 + 3) / 3)
    assert x.grad is not None and x.grad.tolist() == pytest.approx([v / 1.5 for v in (-1, -1, 0, 1, 1, 1, 1)])


def train_on(model: FakeQuantised, x: torch.Tensor, strength: float) -> None:
    """Twenty steps, nothing frozen, that push levels down where they are counted."""
    model.frozen.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(20):
        task = sum(head.square().mean() for head in model(x))
        (task + (strength * model.mean_level() if model.counting else 0)).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("learn", [False, True])
def test_pushed_levels_fall(learn):
    x = random_images()

    def after(strength: float) -> float:
        model = trained(random_network(cfg_text(*SECTIONS)), 0, style="dorefa", a_bit=4, learn=learn)
        model.counting = True
        train_on(model, x, strength)
        return spikes_by_the_integers(model, x)

    assert after(100.0) < 0.85 * after(0.0)


def edges_after(*, push: float = 0.0, **words) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales of the edges before some training in style google, whose ranges are not frozen, and after it."""
    model = trained(random_network(cfg_text(*SECTIONS)), 0, a_bit=4, **words)
    model.counting = push > 0
    before = torch.cat([edge.scale.clone() for edge in model.edges.values()])
    train_on(model, random_images(), push)
    return before, torch.cat([edge.scale for edge in model.edges.values()])


def test_ranges_do_not_follow_levels_that_are_pushed_down_nor_widened_ones_back():
    before, after = edges_after()
    assert not torch.equal(before, after)  # they do follow, otherwise
    for words in ({"push": 1.0}, {"range_scale": 1.5}):
        before, after = edges_after(**words)
        assert torch.equal(before, after)
