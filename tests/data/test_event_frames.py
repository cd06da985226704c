"""What a network is shown of events: bins of their own, kinds of frames, changes in training, and keys that cannot act."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.test_events import SIZE, events, same
from utils.darknet.cfg import parse_cfg
from utils.data.event_clips import Clip, ClipFrames, fit_sensor, placed
from utils.data.event_frames import FrameRule, Moved, disturbed, draw_move, picture
from utils.data.events import Events, counted, joined, last_polarity, voxel_grid
from utils.data.prophesee import packed, unpacked, write_dat
from utils.errors import InputError

CFG = """\
[net]
width=32
height=32
channels=2
timesteps=4
input=frames
{}
[convolutional]
filters=4
size=1
activation=lif
[convolutional]
filters=2
size=1
activation=linear
[softmax]
"""
LONG = 2**23


@pytest.mark.parametrize("bins", ["number", "time", "count"])
@pytest.mark.parametrize("length", [None, LONG])
def test_no_frame_is_the_first_one_again(bins, length):
    rule = FrameRule(5, bins, size=200 if bins == "count" else 0)
    parts = rule.binned(events(), length)
    assert same(joined(parts), events())
    frames = rule.frames(events(), SIZE, length)
    assert frames.shape == (5, 2, *SIZE)
    assert len({frame.tobytes() for frame in frames}) == 5


def test_bins_of_a_window_last_as_long_as_each_other_whenever_its_first_event_came():
    late = events()[events().t > LONG // 3]
    parts = FrameRule(4, "time").binned(late, LONG)
    assert len(parts[0]) == 0
    for n, part in enumerate(parts[1:], 1):
        assert ((part.t >= LONG * n // 4) & (part.t < LONG * (n + 1) // 4)).all()


def test_bins_of_a_count_are_the_last_ones_and_empty_where_there_are_too_few():
    parts = FrameRule(4, "count", size=300).binned(events())
    assert [len(part) for part in parts] == [100, 300, 300, 300]
    assert [len(part) for part in FrameRule(4, "count", size=600).binned(events())] == [0, 0, 400, 600]
    assert same(joined(FrameRule(2, "count", size=100).binned(events())), events()[800:])


def test_each_kind_of_frame_is_what_it_is_called():
    many = Events(*(np.repeat(getattr(events(), name), 9) for name in "txyp"))
    parts = FrameRule(3).binned(many)
    counts = np.stack([counted(part, SIZE) for part in parts])
    assert np.array_equal(FrameRule(3).frames(many, SIZE), 255 * (counts > 0))
    assert counts.max() > 15
    assert np.array_equal(FrameRule(3, frame="count").frames(many, SIZE), 17 * counts.clip(0, 15))
    shown = FrameRule(3, frame="polarity").frames(many, SIZE)
    assert np.array_equal(shown[:, 0], [last_polarity(part, SIZE) for part in parts])
    grid = FrameRule(3, "time", "voxel").frames(events(), SIZE).astype(float)
    np.testing.assert_allclose(grid[:, 0], 127.5 + voxel_grid(events(), 3, SIZE).clip(-7, 7) * 127.5 / 7, atol=0.5)
    for frame in ("binary", "count", "polarity", "voxel"):
        rule = FrameRule(3, frame=frame)
        assert rule.frames(many, SIZE).shape[1] == rule.channels
        assert picture(rule.frames(events(), SIZE)).shape == (3, *SIZE)
        with pytest.raises(InputError, match="lies outside of 29x20 px"):
            rule.frames(events(), (20, 29))


def test_a_cfg_says_how_events_are_shown_and_its_defaults_are_the_rules_own():
    said = "event_bins=time\nevent_window=90\nevent_frame=count\nevent_shift=0.5\nevent_drop=0\nevent_jitter=7"
    net = parse_cfg(CFG.format(said)).net
    assert FrameRule.of(dict(net), 4) == FrameRule(4, "time", "count", 90, 0, 0.5, 0.0, 7.0)
    assert FrameRule.of(dict(parse_cfg(CFG.format("")).net), 4) == FrameRule(4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("event_bins=size", r"line 7: event_bins=size is none of number, time, count"),
        ("event_frame=grey", "event_frame=grey is none of binary, count, polarity, voxel"),
        ("event_window=-1", "event_window=-1 must be one whole number"),
        ("event_bins=count", "event_size= is the events of a bin with event_bins=count; give both or neither"),
        ("event_size=9", "event_size= is the events of a bin with event_bins=count; give both or neither"),
        ("event_bins=count\nevent_size=0", "event_size=0 must be one whole number from 1 up"),
        ("event_bins=count\nevent_size=9\nevent_frame=voxel", "event_frame=voxel shares events out by time"),
        ("event_bins=number\nevent_frame=voxel", "event_frame=voxel shares events out by time"),
        ("event_shift=1", "event_shift=1 must be from 0 to below 1"),
        ("event_drop=nan", "event_drop=nan must be from 0 to below 1"),
        ("event_jitter=inf", "event_jitter=inf must be from 0 to below inf"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_name(said, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(CFG.format(said))


def test_keys_of_events_without_frames_are_refused():
    with pytest.raises(InputError, match="line 6: event_window= acts with input=frames; add it, or leave it away"):
        parse_cfg(CFG.format("event_window=9").replace("input=frames\n", ""))


def test_moving_and_mirroring_take_every_px_where_the_map_takes_it():
    frames = np.random.default_rng(0).integers(0, 2, (2, 2, 6, 9)).astype(np.uint8)
    for moved in (Moved(1, -2), Moved(-1, 3, True), Moved(0, 0, True)):
        out = moved.frames(frames, 7)
        matrix = moved.matrix(9)
        for y, x in np.ndindex(6, 9):
            at = matrix @ (x + 0.5, y + 0.5, 1) - 0.5
            across, down = at.round().astype(int)
            if 0 <= across < 9 and 0 <= down < 6:
                assert np.array_equal(out[:, :, down, across], frames[:, :, y, x])
        kept = (6 - abs(moved.down)) * (9 - abs(moved.right))
        assert (out == 7).sum() == frames[:, :].size - 4 * kept


def test_dropped_events_are_gone_and_jittered_ones_stay_where_they_are_in_space():
    many = joined([events(seed=n) for n in range(4)])
    many = many[np.argsort(many.t)]
    rng = np.random.default_rng(0)
    fewer = disturbed(many, FrameRule(4, drop=0.25), rng)
    assert abs(len(fewer) - 3000) < 150 and set(fewer.t) <= set(many.t)
    moved = disturbed(many, FrameRule(4, drop=0.0, jitter=1e5), rng)
    assert (np.diff(moved.t) >= 0).all() and not np.array_equal(moved.t, many.t)
    assert np.array_equal(counted(moved, SIZE), counted(many, SIZE))
    assert moved.t.min() >= many.t[0] and moved.t.max() <= many.t[-1]


def test_a_mirrored_share_is_the_share_that_was_asked_for():
    rng = np.random.default_rng(0)
    moves = [draw_move(FrameRule(4, shift=0.1), (50, 100), 0.3, rng) for _ in range(1000)]
    assert abs(sum(each.mirrored for each in moves) - 300) < 60
    assert {each.down for each in moves} == {*range(-5, 6)} and {each.right for each in moves} == {*range(-10, 11)}
    assert not any(draw_move(FrameRule(4), (9, 9), 0.0, rng).mirrored for _ in range(50))


@pytest.mark.parametrize("frame", ["binary", "polarity", "voxel"])
@pytest.mark.parametrize("jitter", [0.0, 1e5])
def test_what_is_kept_in_memory_is_what_would_be_read(tmp_path, frame, jitter):
    write_dat(tmp_path / "r.dat", events(), SIZE)
    clips = [Clip(tmp_path / "r.dat"), Clip(tmp_path / "r.dat", LONG // 4, LONG // 2)]
    rule = FrameRule(4, "time", frame, jitter=jitter)
    for augment in (False, True):
        kept, read = (ClipFrames(clips, SIZE, rule, augment=augment, flip=0.5, cache=cache) for cache in ("ram", "off"))
        assert kept.cached and not read.cached
        for epoch in (0, 1):
            kept.set_epoch(epoch)
            read.set_epoch(epoch)
            for index in (0, 1):
                assert np.array_equal(kept.shown(index)[1], read.shown(index)[1])
    assert kept.images == [tmp_path / "r.dat", tmp_path / f"r.dat@{LONG // 2}"]


def test_a_window_of_a_whole_recording_is_its_end(tmp_path):
    write_dat(tmp_path / "r.dat", events(), SIZE)
    rule = FrameRule(2, "time", window=1_000_000)
    shown = ClipFrames([Clip(tmp_path / "r.dat")], SIZE, rule).shown(0)[1]
    end = int(events().t[-1]) + 1
    expected = [
        counted(events().between(end - 1_000_000 + n * 500_000, end - 500_000 + n * 500_000), SIZE) for n in (0, 1)
    ]
    assert np.array_equal(shown, 255 * (np.array(expected) > 0))


def test_a_part_that_is_longer_than_the_window_is_shown_by_its_end(tmp_path):
    write_dat(tmp_path / "r.dat", events(), SIZE)
    rule = FrameRule(2, "time", window=100_000)
    long, short = (Clip(tmp_path / "r.dat", begin, 1_500_000) for begin in (1_000_000, 1_400_000))
    shown = [ClipFrames([clip], SIZE, rule).shown(0)[1] for clip in (long, short)]
    assert np.array_equal(*shown) and shown[0].any()


def test_a_sensor_that_fits_is_shown_px_on_px_and_a_larger_one_smaller():
    same_px, smaller = fit_sensor(SIZE, (32, 48)), fit_sensor(SIZE, (10, 30))
    assert same_px.scale == (1, 1) and same_px.pad == (0, 0)
    assert same(placed(events(), same_px), events())
    found = placed(events(), smaller)
    assert np.array_equal(found.x, events().x // 2 + smaller.pad[1]) and np.array_equal(found.y, events().y // 2)
    corner = smaller.to_network(np.array([[0, 0, SIZE[1], SIZE[0]]], np.float32))[0]
    assert corner[0] <= found.x.min() and found.x.max() < corner[2] and found.y.max() < corner[3]


def test_a_recording_without_events_is_told_and_shown_as_nothing(tmp_path, caplog):
    write_dat(tmp_path / "r.dat", events(0), SIZE)
    frames = ClipFrames([Clip(tmp_path / "r.dat")], SIZE, FrameRule(2))
    assert not frames.shown(0)[1].any()
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "no event in it; it is shown as a recording in which nothing was seen"
    ]


def test_packing_is_undone():
    assert same(unpacked(packed(events())), events())


def test_multi_scale_is_refused(tmp_path):
    from utils.data.dataset import SampleRequest

    write_dat(tmp_path / "r.dat", events(), SIZE)
    frames = ClipFrames([Clip(tmp_path / "r.dat")], SIZE, FrameRule(2))
    with pytest.raises(InputError, match="--multi-scale: events lie on px of a sensor"):
        frames.shown(SampleRequest(0, 0, (64, 64)))
