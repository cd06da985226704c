from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.quantization.random_nets import GATED, LEAKY, cfg_text, random_images, random_network
from utils.darknet.cfg import parse_cfg
from utils.quantization.activation_qparams import edge_bits, level_bounds, make_grids, trace_edges
from utils.quantization.histogram import Histogram, collect, float_edges
from utils.quantization.ranges import METHODS, channel_steps, choose_scales, squared_errors
from utils.quantization.scheme import Scheme

CONV = {"filters": 4, "size": 3, "pad": 1}


def histogram(values: torch.Tensor) -> Histogram:
    """Exact: one bin a value."""
    return Histogram(torch.ones(1, len(values)), values[:1], values[-1:])


def test_minmax_clips_nothing_and_percentile_clips_its_share():
    values = torch.linspace(0, 100, 2001)
    member = (values, torch.ones(2001), 0, 15)
    assert METHODS["minmax"]([member], Scheme()) == pytest.approx(100 / 15)
    assert METHODS["percentile"]([member], Scheme(percentile=90)) == pytest.approx(90 / 15, rel=0.01)


def test_mse_finds_the_scale_that_brute_force_finds():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20000, generator=generator).abs().sort().values
    found = METHODS["mse"]([(values, torch.ones(20000), 0, 15)], Scheme())
    errors = {}
    for step in range(1, 400):
        s = step * float(values[-1]) / 15 / 400
        errors[s] = float((((values / s + 0.5).floor().clamp(0, 15) * s - values) ** 2).sum())
    assert found == pytest.approx(min(errors, key=errors.__getitem__), rel=0.03)


def test_an_all_zero_edge_gets_a_finite_scale():
    zeros = torch.zeros(512)
    for method in METHODS.values():
        assert 0 < method([(zeros, torch.ones(512), 0, 15)], Scheme()) < float("inf")


def test_histograms_count_every_value_once():
    network = random_network(cfg_text(("convolutional", CONV | {"activation": "leaky"})))
    x = random_images(3)
    found = collect(network, [x[:2], x[2:]], [-1, 0])
    edges = dict(float_edges(network, x, keep=True))
    for i in (-1, 0):
        assert float(found[i].counts.sum()) == edges[i].numel()
        torch.testing.assert_close(found[i].high, edges[i].amax((0, 2, 3)))
        mean = (found[i].values() * found[i].counts).sum(1) / found[i].counts.sum(1)
        torch.testing.assert_close(mean, edges[i].mean((0, 2, 3)), atol=0.01, rtol=0)


def test_a_channels_step_follows_its_own_range():
    values = torch.linspace(0, 1, 512)
    wide = Histogram(torch.ones(2, 512), torch.zeros(2), torch.tensor([1.0, 10.0]))
    steps = channel_steps(wide, 0, 15)
    assert float(steps[1] / steps[0]) == pytest.approx(10, rel=1e-3)
    assert float(channel_steps(histogram(values), 0, 15)) == pytest.approx(1 / 15, rel=0.05)


def test_errors_of_a_grid_that_holds_every_value_are_zero():
    values = torch.arange(-8.0, 8.0)[None] * 0.25
    assert float(squared_errors(values, torch.ones_like(values), torch.tensor([[0.25]]), -8, 7)) == 0


def test_concat_pool_and_upsample_share_a_scale_and_a_shortcut_has_its_own():
    spec = parse_cfg(
        cfg_text(
            ("convolutional", CONV | {"activation": "relu"}),  # 0
            ("convolutional", CONV | {"activation": "leaky"}),  # 1
            ("shortcut", {"from": -2, "activation": "linear"}),  # 2
            ("maxpool", {"size": 2, "stride": 2}),  # 3
            ("upsample", {"stride": 2}),  # 4
            ("route", {"layers": "-1,0"}),  # 5
        ),
        "test",
    )
    edges = trace_edges(spec)
    assert edges.group[2] == edges.group[3] == edges.group[4] == edges.group[5] == edges.group[0]
    assert len({edges.group[-1], edges.group[0], edges.group[1]}) == 3
    assert edges.signed == {-1: False, 0: False, 1: True, 2: True, 3: True, 4: True, 5: True}
    grids = make_grids(spec, edges, dict.fromkeys(edges.group.values(), 0.5), dict.fromkeys(edges.producers, 4))
    assert (grids[0].qmin, grids[0].qmax, grids[1].qmin, grids[1].qmax) == (0, 15, -8, 7)
    assert (grids[5].qmin, grids[5].qmax) == (-8, 15)


def test_what_is_tied_to_the_image_keeps_the_images_scale_and_bits():
    spec = parse_cfg(
        cfg_text(("convolutional", CONV | {"activation": "relu"}), ("route", {"layers": "-1"})),
        "test",
    )
    edges = trace_edges(spec)
    edges = type(edges)({**edges.group, 0: -1, 1: -1}, edges.signed, edges.producers)
    grids = make_grids(spec, edges, {-1: 1 / 255}, edge_bits(edges, Scheme(a_bit=4)))
    assert (grids[0].scale, grids[0].qmax) == (1 / 255, 255)


@pytest.mark.parametrize("qmin", [0, -8])
def test_cosine_finds_the_scale_that_brute_force_finds(qmin):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20000, generator=generator).double()
    values = (values if qmin else values.abs()).sort().values
    qmax = 15 + qmin
    found = METHODS["cosine"]([(values.float(), torch.ones(20000), qmin, qmax)], Scheme())
    broadcast = {}
    for step in range(1, 400):
        s = step * float(values.abs().max()) / 7 / 400
        made = (values / s + 0.5).floor().clamp(qmin, qmax) * s
        broadcast[s] = float(made @ values / (made.norm() * values.norm()).clamp_min(1e-12))
    made = (values / found + 0.5).floor().clamp(qmin, qmax) * found
    assert float(made @ values / made.norm() / values.norm()) > max(broadcast.values()) - 1e-4
    assert found == pytest.approx(max(broadcast, key=broadcast.__getitem__), rel=0.05)


def test_cosine_weighs_the_members_of_a_group_as_one_vector():
    """A thousand values of one member outvote ten of another, and counts stand for values."""
    wide, narrow = torch.linspace(0, 50, 11), torch.linspace(0, 1, 64)
    both = METHODS["cosine"]([(wide, torch.ones(11) * 1e-6, 0, 15), (narrow, torch.ones(64) * 1e4, 0, 15)], Scheme())
    assert both < 0.5 * METHODS["cosine"]([(wide, torch.ones(11), 0, 15)], Scheme())
    values = torch.tensor([0.1, 0.7, 1.0])
    counted = METHODS["cosine"]([(values, torch.tensor([3.0, 1.0, 2.0]), 0, 3)], Scheme())
    repeated = torch.tensor([0.1, 0.1, 0.1, 0.7, 1.0, 1.0])
    assert counted == METHODS["cosine"]([(repeated, torch.ones(6), 0, 3)], Scheme())


@given(
    st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=1, max_size=40),
    st.sampled_from(sorted(METHODS)),
    st.integers(2, 8),
    st.booleans(),
)
def test_every_method_gives_a_usable_scale_whatever_the_values(values, method, bits, signed):
    qmin, qmax = level_bounds(bits, signed)
    values = torch.tensor(values if signed else [abs(v) for v in values]).sort().values
    scale = METHODS[method]([(values, torch.ones(len(values)), qmin, qmax)], Scheme())
    assert 0 < scale < float("inf")


@pytest.mark.parametrize("style", ["google", "pow2"])
def test_range_scale_widens_every_range_but_those_of_the_image_and_of_gates(style):
    network = random_network(cfg_text(("convolutional", LEAKY), *GATED))
    edges = trace_edges(network.spec)
    histograms = collect(network, [random_images()], edges.producers)
    plain, wide = (choose_scales(edges, histograms, Scheme(style=style, range_scale=scale)) for scale in (1, 2))
    given = {edges.group[-1], *edges.gates}
    assert len(given) == 2 and len(plain) > 2
    assert wide == {group: scale * (1 if group in given else 2) for group, scale in plain.items()}
