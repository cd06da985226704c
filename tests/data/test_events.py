"""Recordings of event cameras: bytes to events, events to bins, each bin its own, and what is damaged."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from utils.data.events import Events, bins_of, counted, last_polarity, to_frames, voxel_grid
from utils.data.recordings import read_dat, read_events, read_nmnist
from utils.errors import InputError

SIZE = (20, 30)
HEADER = b"% Date 2019-01-01\n% Height 240\n% Width 304\n\x00\x08"


def events(n=1000, seed=0) -> Events:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 2**23, n))
    return Events(t, rng.integers(0, SIZE[1], n), rng.integers(0, SIZE[0], n), rng.integers(0, 2, n))


def as_nmnist(found: Events) -> bytes:
    """40 bits an event, most significant first."""
    rows = zip(found.x, found.y, found.p, found.t, strict=True)
    return b"".join(int(x << 32 | y << 24 | p << 23 | t).to_bytes(5, "big") for x, y, p, t in rows)


def as_dat(found: Events) -> bytes:
    rows = zip(found.x, found.y, found.p, found.t, strict=True)
    return b"".join(struct.pack("<II", t, x | y << 14 | p << 28) for x, y, p, t in rows)


def same(one: Events, other: Events) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in "txyp")


def test_nmnist_is_read_to_the_bit(tmp_path):
    (tmp_path / "r.bin").write_bytes(as_nmnist(events()))
    assert same(read_events(tmp_path / "r.bin"), events())


@pytest.mark.parametrize("header", [HEADER, b""], ids=["header", "none"])
def test_dat_is_read_to_the_bit(tmp_path, header):
    (tmp_path / "r.dat").write_bytes(header + as_dat(events()))
    assert same(read_events(tmp_path / "r.dat"), events())


def test_a_window_of_a_dat_is_the_events_in_it(tmp_path):
    (tmp_path / "r.dat").write_bytes(HEADER + as_dat(events()))
    part = read_dat(tmp_path / "r.dat", begin=1_000_000, duration=500_000)
    kept = (events().t >= 1_000_000) & (events().t < 1_500_000)
    assert 0 < len(part) == kept.sum()
    assert same(part, events()[kept])
    whole = [read_dat(tmp_path / "r.dat", begin=at, duration=2**20) for at in range(0, 2**23, 2**20)]
    assert sum(map(len, whole)) == 1000


def test_a_header_alone_holds_no_events(tmp_path):
    (tmp_path / "r.dat").write_bytes(HEADER)
    assert len(read_dat(tmp_path / "r.dat")) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.bin", as_nmnist(events(3))[:-1], "14 bytes are not whole events of 5; it is cut off"),
        ("r.bin", b"", "0 bytes are not whole events"),
        ("r.bin", as_nmnist(events(9)[::-1]), "event 1 is before the one ahead of it"),
        ("r.dat", HEADER + as_dat(events(3))[:-3], r"ends inside an event \(5 bytes over\)"),
        ("r.dat", b"% Date", "its header has no end"),
        ("r.dat", HEADER[:-1] + b"\x10" + as_dat(events(2)), "events of 16 bytes, not 8"),
        ("r.xyz", b"", "recordings end in .aedat or .aedat4 or .bin or .dat or .h5 or .hdf5"),
    ],
)
def test_what_is_damaged_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_events(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_recording_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot read this recording"):
        read_nmnist(tmp_path / "none.bin")


@pytest.mark.parametrize("by", ["number", "time"])
def test_every_event_is_in_one_bin_and_each_bin_is_its_own(by):
    parts = bins_of(events(), 5, by=by)
    assert sum(map(len, parts)) == 1000
    assert same(Events(*(np.concatenate([getattr(p, n) for p in parts]) for n in "txyp")), events())
    frames = to_frames(parts, SIZE)
    assert frames.shape == (5, 2, *SIZE)
    assert len({frame.tobytes() for frame in frames}) == 5, "no frame is another one again"
    assert np.array_equal(frames.sum(0), counted(events(), SIZE))


def test_bins_by_number_and_by_time_are_what_they_are_called():
    assert {len(part) for part in bins_of(events(), 8)} == {125}
    spans = [part.t[-1] - part.t[0] for part in bins_of(events(), 4, by="time")]
    assert max(spans) <= -(-(events().t[-1] - events().t[0] + 1) // 4)


def test_counts_are_those_of_a_loop():
    expected = np.zeros((2, *SIZE), int)
    found = events(200)
    for x, y, p in zip(found.x, found.y, found.p, strict=True):
        expected[0 if p else 1, y, x] += 1
    assert np.array_equal(counted(found, SIZE), expected)
    with pytest.raises(InputError, match="lies outside of 29x20 px"):
        counted(found, (20, 29))


def test_the_last_event_of_a_pixel_is_what_its_picture_shows():
    found = events(2000)
    shown = last_polarity(found, SIZE)
    expected = np.full(SIZE, 127)
    for x, y, p in zip(found.x, found.y, found.p, strict=True):
        expected[y, x] = 255 if p else 0
    assert np.array_equal(shown, expected)
    assert set(np.unique(last_polarity(events(50), SIZE))) == {0, 127, 255}


def test_a_voxel_grid_keeps_the_polarities_and_shares_them_between_moments():
    grid = voxel_grid(events(), 4, SIZE)
    on, off = counted(events(), SIZE)
    np.testing.assert_allclose(grid.sum(0), on - off, atol=1e-9)
    middle = Events(*(np.array(row) for row in ([0, 5, 10], [1, 2, 3], [0, 0, 0], [1, 1, 0])))
    np.testing.assert_allclose(voxel_grid(middle, 2, SIZE)[:, 0, 1:4], [[1, 0.5, 0], [0, 0.5, -1]])
