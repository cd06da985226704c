"""Histograms and the scales chosen from them, against plain numpy or a brute-force search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models import build
from tests.conftest import ROOT
from tests.quantization.random_nets import CONV, GATED, LEAKY, cfg_text, random_images, random_network
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.quantization.activation_qparams import edge_bits, gate_scale, level_bounds, trace_edges
from utils.quantization.histogram import Histogram, collect, collect_both, float_edges
from utils.quantization.ranges import METHODS, channel_steps, choose_scales, power_of_two, squared_errors
from utils.quantization.scheme import RANGE_METHODS, Scheme
from utils.quantization.tables import charge_grid


def member(
    values: np.ndarray, qmin: int, qmax: int, counts: np.ndarray | None = None
) -> tuple[Tensor, Tensor, int, int]:
    counts = np.ones(len(values)) if counts is None else counts
    return torch.tensor(values, dtype=torch.float32), torch.tensor(counts, dtype=torch.float32), qmin, qmax


def rounded(values: np.ndarray, scale: float, qmin: int, qmax: int) -> np.ndarray:
    return np.clip(np.floor(values / scale + 0.5), qmin, qmax) * scale


# ------------------------------------------------------------------------------------------------------- ranges


def test_minmax_reaches_both_ends_whichever_is_farther():
    assert METHODS["minmax"]([member(np.linspace(-100, 20, 50), -8, 7)], Scheme()) == pytest.approx(100 / 8)
    assert METHODS["minmax"]([member(np.linspace(-20, 100, 50), -8, 7)], Scheme()) == pytest.approx(100 / 7)
    lopsided = [member(np.linspace(0, 3, 50), 0, 15), member(np.linspace(-1, 1, 50), -8, 7)]
    assert METHODS["minmax"](lopsided, Scheme()) == pytest.approx(3 / 15)


def test_percentile_clips_its_share_on_both_sides():
    scheme = Scheme(percentile=90)
    assert METHODS["percentile"]([member(np.linspace(-100, 20, 1201), -8, 7)], scheme) == pytest.approx(
        88 / 8, rel=0.01
    )
    assert METHODS["percentile"]([member(np.linspace(-20, 100, 1201), -8, 7)], scheme) == pytest.approx(
        88 / 7, rel=0.01
    )


@pytest.mark.parametrize(("value", "qmin"), [(3.0, 0), (3.0, -8), (-5.0, -8)])
def test_percentile_does_not_clip_what_is_always_the_same(value, qmin):
    qmax = 15 + qmin
    found = METHODS["percentile"]([member(np.array([value]), qmin, qmax)], Scheme(percentile=99))
    assert found == pytest.approx(max(value / qmax, value / qmin if qmin else 0))


def test_percentile_does_not_clip_half_of_the_values_because_they_are_the_lowest():
    half = member(np.array([-5.0, 1.0]), -8, 7, np.array([50.0, 50.0]))
    assert METHODS["percentile"]([half], Scheme(percentile=99)) == pytest.approx(5 / 8)


@pytest.mark.parametrize("order", [1, -1])
def test_the_scale_of_a_group_has_the_least_error_over_all_members(order):
    rng = np.random.default_rng(0)
    wide, narrow = np.sort(rng.exponential(4, 3000)), np.sort(rng.normal(0, 0.3, 3000))
    group = [member(wide, 0, 15), member(narrow, -8, 7)][::order]
    found = METHODS["mse"](group, Scheme())
    full = METHODS["minmax"](group, Scheme())
    tried = {
        s: ((rounded(wide, s, 0, 15) - wide) ** 2).sum() + ((rounded(narrow, s, -8, 7) - narrow) ** 2).sum()
        for s in np.linspace(0.02, 1, 500) * full
    }
    assert found == pytest.approx(min(tried, key=tried.__getitem__), rel=0.03)


def test_the_search_goes_down_to_where_an_outlier_leaves_the_rest():
    values, counts = np.append(np.linspace(0, 1, 512), 30.0), np.append(np.full(512, 1e5), 1.0)
    for method in ("mse", "cosine"):
        assert METHODS[method]([member(values, 0, 15, counts)], Scheme()) < 0.1, method


def test_a_channels_step_is_the_best_of_a_brute_force_search_and_sees_negative_values():
    rng = np.random.default_rng(1)
    values = np.sort(np.append(-rng.exponential(1, 4000), rng.uniform(0, 0.5, 100)))
    one = Histogram(torch.ones(1, 512), torch.tensor([values[0]]).float(), torch.tensor([values[-1]]).float())
    found = float(channel_steps(one, -8, 7))
    bins = one.values()[0].numpy().astype(float)
    tried = {s: ((rounded(bins, s, -8, 7) - bins) ** 2).sum() for s in np.linspace(0.02, 1, 400) * -bins[0] / 8}
    assert found == pytest.approx(min(tried, key=tried.__getitem__), rel=0.05)


def test_squared_errors_are_numpys():
    rng = np.random.default_rng(2)
    values, counts = rng.normal(0, 2, (3, 40)), rng.integers(0, 9, (3, 40))
    scales = np.array([[0.1, 0.7]] * 3)
    found = squared_errors(*(torch.tensor(a, dtype=torch.float32) for a in (values, counts, scales)), -8, 7)
    for c in range(3):
        for k in range(2):
            off = (rounded(values[c], scales[c, k], -8, 7) - values[c]) ** 2 * counts[c]
            assert float(found[c, k]) == pytest.approx(off.sum(), rel=1e-3)


@pytest.mark.parametrize("style", ["google", "pow2"])
@pytest.mark.parametrize("ranges", RANGE_METHODS)
def test_every_group_gets_the_scale_of_all_that_it_joins_and_gates_and_image_get_theirs(style, ranges):
    text = cfg_text(("convolutional", CONV), *GATED, ("convolutional", LEAKY), ("route", {"layers": "-1,-2"}))
    network = random_network(text)
    network.state["layers.5.conv.weight"] *= 3
    scheme, edges = Scheme(style=style, ranges=ranges), trace_edges(network.spec)
    histograms = collect(network, [random_images()], edges.producers)
    found, bits = choose_scales(edges, histograms, scheme), edge_bits(edges, scheme)
    assert found[edges.group[-1]] == (1 / 255 if style == "google" else 2.0**-8)
    assert found[edges.group[3]] == gate_scale(scheme, 8) and edges.group[3] in edges.gates
    joined = [i for i in edges.producers if edges.group[i] == edges.group[4]]
    assert joined == [4, 5]
    members = [(*histograms[i].merged(), *level_bounds(bits[i], edges.signed[i])) for i in joined]
    wanted = METHODS[ranges](members, scheme)
    assert found[edges.group[4]] == (wanted if style == "google" else power_of_two(wanted))


# --------------------------------------------------------------------------------------------------- histograms


def test_histograms_of_many_batches_are_those_of_one():
    """The farthest values lie in the first batch for some channels, in the last for others."""
    network, x = random_network(cfg_text(("convolutional", LEAKY))), random_images(6, seed=2)
    x[0], x[5] = x[0] * 0, 1 - x[5] * 0
    whole, parts = collect(network, [x], [-1, 0]), collect(network, [x[:1], x[1:4], x[4:]], [-1, 0])
    edges = dict(float_edges(network, x, keep=True))
    for i in (-1, 0):
        for name, end in (("low", edges[i].amin((0, 2, 3))), ("high", edges[i].amax((0, 2, 3)))):
            torch.testing.assert_close(getattr(parts[i], name), end)
        torch.testing.assert_close(parts[i].counts, whole[i].counts, rtol=0, atol=2)
        assert float(parts[i].counts.sum()) == edges[i].numel()


def test_bins_stand_for_the_values_from_the_lowest_to_the_highest_and_count_what_is_nearest():
    network, x = random_network(cfg_text(("convolutional", LEAKY))), random_images(3)
    one = collect(network, [x], [0])[0]
    y = dict(float_edges(network, x, keep=True))[0].numpy()
    values = one.values().numpy()
    np.testing.assert_allclose(values[:, 0], y.min((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(values[:, -1], y.max((0, 2, 3)), rtol=1e-4)
    for c in range(8):
        nearest = np.abs(values[c][:, None] - y[:, c].ravel()[None]).argmin(0)
        counts = np.bincount(nearest, minlength=values.shape[1])
        assert np.abs(counts - one.counts[c].numpy()).sum() <= 4  # float32 at the middle between two


def test_merged_channels_keep_every_value_where_it_was():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 9, (3, 512), generator=generator).float()
    one = Histogram(counts, torch.tensor([-3.0, 0.0, 0.5]), torch.tensor([1.0, 8.0, 0.75]))
    values, merged = (each.double() for each in one.merged())
    step = float(values[1] - values[0])
    assert float(merged.sum()) == float(counts.sum())
    assert float(values[0]) == -3 and float(values[-1]) == pytest.approx(8, abs=1e-3)
    mean = float((one.values() * counts).double().sum() / counts.double().sum())
    assert float((values * merged).sum() / merged.sum()) == pytest.approx(mean, abs=0.05 * step)


def test_the_ranges_of_large_maps_are_those_of_all_their_pixels():
    """Counts are thinned, extremes are not."""
    network = random_network(cfg_text(("convolutional", LEAKY), side=128))
    x = random_images(1, side=128)
    x[0, :, 1, 1] = 1.0
    found = collect(network, [x], [-1, 0])
    edges = dict(float_edges(network, x, keep=True))
    assert 900 < float(found[0].counts[0].sum()) < 128 * 128 / 8
    torch.testing.assert_close(found[0].high, edges[0].amax((0, 2, 3)))


@pytest.mark.parametrize("name", ["weighted", "gates", "csp", "passthrough", "mobile", "spp", "grouped"])
def test_the_float_walk_is_the_network(name):
    """Every layer as models.py computes it, which shares only the convolution's call with it."""
    spec = read_cfg(ROOT / f"tests/cfgs/{name}.cfg")
    network = fold_bn(expand(random_network(write_cfg(spec)))[0])
    x = random_images(1, side=64, image_channels=spec.channels)
    with torch.no_grad():
        exact = build(network).activations(x)
    for i, y in float_edges(network, x, keep=True):
        torch.testing.assert_close(y, exact[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["mish", "logistic"])
def test_before_an_activation_is_before_it_and_after_is_after(activation):
    text = cfg_text(("convolutional", CONV | {"activation": activation}))
    network, x = random_network(text), random_images()
    after, before = collect_both(network, [x], [0], [0])
    plain = Network(
        replace(network.spec, layers=(replace(network.spec.layers[0], activation="linear"),)), network.state
    )
    y = dict(float_edges(plain, x, keep=True))[0]
    torch.testing.assert_close(before[0].high, y.amax((0, 2, 3)))
    torch.testing.assert_close(before[0].low, y.amin((0, 2, 3)))
    torch.testing.assert_close(after[0].high, ACTIVATIONS[activation](y).amax((0, 2, 3)))


@pytest.mark.parametrize("ranges", RANGE_METHODS)
@pytest.mark.parametrize("style", ["google", "pow2"])
def test_the_grid_before_a_table_is_as_fine_as_its_method_says(ranges, style):
    values = np.append(np.linspace(-4, 4, 9990), np.linspace(30, 40, 10))
    counts, _ = np.histogram(values, 512, (-4, 40))
    one = Histogram(torch.tensor(counts)[None].float(), torch.tensor([-4.0]), torch.tensor([40.0]))
    grid = charge_grid(one, "logistic", Scheme(ranges=ranges, style=style))
    assert (grid.qmin, grid.qmax) == (-128, 127)
    bins, weight = (each.numpy().astype(float) for each in one.merged())
    if ranges == "mse":  # of what goes on: behind the sigmoid's flat end nothing is worth a bit

        def lost(scale: float) -> float:
            made, exact = (1 / (1 + np.exp(-v)) for v in (rounded(bins, scale, -128, 127), bins))
            return float(((made - exact) ** 2 * weight).sum())

        full = 40 / 127
        best = min(np.linspace(0.02, 1, 200) * full, key=lost)
        wanted = best if style == "google" else power_of_two(best)
        assert grid.scale < full / 3 and lost(grid.scale) <= 1.2 * lost(wanted)
    else:
        wanted = METHODS[ranges]([(*one.merged(), -128, 127)], Scheme(ranges=ranges))
        assert grid.scale == (wanted if style == "google" else power_of_two(wanted))
