"""The simulated event camera: silent where nothing changes, right where something does, and no crossing is forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from utils.data.dvs import EventCamera, simulate

STILL = EventCamera(noise=0, mismatch=0, refractory=0)


def made(pictures, camera=STILL, seed=0, step=1000):
    moments = ((n * step, np.asarray(picture, np.uint8)) for n, picture in enumerate(pictures))
    return simulate(moments, camera, np.random.default_rng(seed))


def edge(steps=20, dark=40, light=200, width=24):
    """A dark edge that moves to the right over a light ground, a px a step."""
    return [np.where(np.arange(width)[None] < n, dark, light).repeat(8, 0) for n in range(2, 2 + steps)]


def test_nothing_changes_and_nothing_is_sent():
    assert len(made([np.full((8, 9), 77)] * 5).events) == 0


def test_of_a_still_scene_there_is_noise_alone_at_its_rate_and_of_both_polarities():
    camera = EventCamera(noise=50, mismatch=0)
    found = made([np.full((40, 40), 77)] * 11, camera, step=100_000).events
    expected = 50 * 40 * 40  # for a second
    assert abs(len(found) - expected) < 5 * expected**0.5
    assert abs(found.p.mean() - 0.5) < 0.01
    assert (np.diff(found.t) >= 0).all() and found.t.max() < 1_000_000


def test_what_gets_darker_sends_off_and_what_gets_lighter_on():
    assert set(made(edge()).events.p) == {0}
    assert set(made(edge(dark=200, light=40)).events.p) == {1}
    assert set(made(edge()[::-1]).events.p) == {1}


def test_an_edge_is_seen_where_and_when_it_is():
    found = made(edge()).events
    at = 2 + found.t // 1000  # the px that the edge crosses then
    assert (found.x == at).all()
    assert set(zip(found.x.tolist(), found.y.tolist(), strict=True)) == {(x, y) for x in range(2, 21) for y in range(8)}


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.6])
def test_a_pixel_sends_a_threshold_for_each_threshold_that_it_crosses(threshold):
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (6, 10, 11))
    camera = EventCamera(on=threshold, off=threshold * 1.5, noise=0, mismatch=0, refractory=0)
    found = made(pictures, camera)
    first, last = (np.log(camera.dark + pictures[n] / 255) for n in (0, -1))
    on, off = (np.zeros((10, 11)) for _ in range(2))
    np.add.at(on, (found.events.y[found.events.p == 1], found.events.x[found.events.p == 1]), 1)
    np.add.at(off, (found.events.y[found.events.p == 0], found.events.x[found.events.p == 0]), 1)
    remembered = first + camera.on * on - camera.off * off
    np.testing.assert_allclose(found.level, remembered)
    assert (last - remembered < camera.on).all() and (remembered - last < camera.off).all()
    assert len(found.events) == on.sum() + off.sum() > 100


def test_a_deaf_pixel_loses_crossings_and_forgets_none():
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (6, 10, 11))
    heard = made(pictures)
    deaf = made(pictures, EventCamera(noise=0, mismatch=0, refractory=400))
    assert 0 < len(deaf.events) < len(heard.events)
    assert len(deaf.events) + deaf.lost.sum() == len(heard.events)
    np.testing.assert_allclose(deaf.level, heard.level)
    for place in range(110):
        own = deaf.events[deaf.events.y * 11 + deaf.events.x == place]
        assert (np.diff(own.t) >= 399).all()  # times are whole us


def test_the_time_of_an_event_is_that_of_its_crossing():
    low, high = 100, 200
    levels = np.log(STILL.dark + np.array([low, high]) / 255)
    found = made([[[low]], [[high]]], step=10_000).events
    crossings = np.arange(1, 1 + int((levels[1] - levels[0]) / STILL.on)) * STILL.on / (levels[1] - levels[0])
    assert len(crossings) == 2
    np.testing.assert_allclose(found.t, crossings * 10_000, atol=1)


def test_pixels_differ_and_a_seed_decides_how():
    ramp = [np.full((6, 6), value) for value in range(20, 240, 10)]
    camera = EventCamera(noise=5, mismatch=0.1)
    one, same, other = (made(ramp, camera, seed).events for seed in (3, 3, 4))
    assert all(np.array_equal(getattr(one, name), getattr(same, name)) for name in "txyp")
    assert len(one) != len(other) or not np.array_equal(one.t, other.t)
    assert len(set(made(ramp).events.t.tolist())) < len(
        set(made(ramp, EventCamera(noise=0, mismatch=0.1)).events.t.tolist())
    )


@pytest.mark.parametrize("wrong", [{"on": 0}, {"dark": 0}, {"refractory": -1}, {"noise": -1}, {"mismatch": 0.4}])
def test_a_camera_that_cannot_be_is_none(wrong):
    with pytest.raises(ValueError, match="thresholds"):
        EventCamera(**wrong)
