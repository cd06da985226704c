"""Formats of recordings, written from their descriptions or by others' libraries, and read back event by event."""

from __future__ import annotations

import importlib
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_events import SIZE, events, same
from utils.data import prophesee
from utils.data.events import Events
from utils.data.recordings import open_recording, read_events
from utils.errors import InputError

VISION = ("torchvision", "torchvision.datasets", "torchvision.datasets.utils")
BOX_FIELDS = ("t", "x", "y", "w", "h", "class_id")
WINDOWS = [(0, 2**23), (1_000_000, 1_500_000), (2**23, 2**24), (5, 5)]


def as_aedat2(found: Events) -> bytes:
    """Rows of an address and us, most significant first; a DVS128 counts x and y from the lower right, and OFF is 1."""
    rows = zip(found.x.tolist(), found.y.tolist(), found.p.tolist(), found.t.tolist(), strict=True)
    head = b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n"
    return head + b"".join(struct.pack(">II", (127 - y) << 8 | (127 - x) << 1 | (1 - p), t) for x, y, p, t in rows)


def as_aedat3(found: Events, packet: int = 300) -> bytes:
    """Packets of a head and events; between them one of a kind that is no change of brightness, and invalid events."""
    out = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
    for begin in range(0, len(found), packet):
        rows = found[begin : begin + packet]
        body = b"".join(
            struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t & 0x7FFFFFFF)
            for x, y, p, t in zip(*(getattr(rows, name).tolist() for name in "xypt"), strict=True)
        )
        body += struct.pack("<II", 5 << 17 | 7 << 2, 0)  # not valid
        count = len(rows) + 1
        out += struct.pack("<HHIIIIII", 1, 1, 8, 4, int(rows.t[0]) >> 31, count, count, count - 1) + body
        out += struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 2, 2, 2) + b"\1" * 16
    return out


def as_hdf5(path, found: Events, layout: str) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        if layout == "rows":
            rows = np.zeros(len(found), [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
            for name in "xypt":
                rows[name] = getattr(found, name)
            made = file.create_group("CD").create_dataset("events", data=rows, chunks=(256,), compression="gzip")
            made.attrs["geometry"] = f"{SIZE[1]}x{SIZE[0]}"
            return
        group = file if layout == "file" else file.create_group("events")
        for name in "xy":
            group[name] = getattr(found, name).astype(np.uint16)
        group["p"] = (2 * found.p - 1).astype(np.int8) if layout == "offset" else found.p.astype(bool)
        group["t"] = (found.t - 77 if layout == "offset" else found.t).astype(np.int64)
        if layout == "offset":
            file["t_offset"] = 77


def written(folder, kind: str):
    """A recording of the thousand events, by the ending of its name."""
    path = folder / f"r.{kind.partition('-')[0]}"
    if kind == "dat":
        prophesee.write_dat(path, events(), SIZE)
    elif kind.startswith("aedat"):
        path = folder / "r.aedat"
        path.write_bytes({"aedat-2": as_aedat2, "aedat-3": as_aedat3}[kind](events()))
    else:
        as_hdf5(path, events(), kind.partition("-")[2])
    return path


@pytest.mark.parametrize("kind", ["dat", "aedat-2", "aedat-3", "h5-rows", "h5-group", "h5-file", "h5-offset"])
def test_every_format_gives_its_events_and_any_window_of_them(tmp_path, kind):
    path = written(tmp_path, kind)
    recording = open_recording(path)
    assert same(recording.whole(), events()) and len(recording) == 1000
    assert recording.end == events().t[-1] + 1
    for begin, end in WINDOWS:
        kept = (events().t >= begin) & (events().t < end)
        assert same(recording.between(begin, end), events()[kept])
    sizes = {"dat": SIZE, "aedat-2": (128, 128), "aedat-3": (128, 128), "h5-rows": SIZE}
    assert recording.size == sizes.get(kind)


def test_another_reader_reads_our_dat_and_we_read_what_it_writes(tmp_path):
    wizard = pytest.importorskip("expelliarmus").Wizard("dat")
    prophesee.write_dat(tmp_path / "ours.dat", events(), SIZE)
    rows = wizard.read(tmp_path / "ours.dat")
    assert same(Events(*(rows[name].astype(np.int64) for name in "txyp")), events())
    wizard.save(tmp_path / "theirs.dat", rows)
    assert same(read_events(tmp_path / "theirs.dat"), events())


def spikingjelly_reader(monkeypatch, name: str):
    """A module of its data sets, without what it needs to show and to fetch them."""
    folder = Path(pytest.importorskip("spikingjelly").__file__).parent / "datasets"
    package, vision, sets, fetched = (types.ModuleType(each) for each in ("spikingjelly.datasets", *VISION))
    package.__path__ = [str(folder)]
    vision.transforms = None
    sets.DatasetFolder = object
    fetched.extract_archive = fetched.check_integrity = fetched.download_url = None
    for module in (package, vision, sets, fetched):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for loaded in ("utils", "base", "cifar10_dvs"):
        monkeypatch.delitem(sys.modules, f"spikingjelly.datasets.{loaded}", raising=False)
    return importlib.import_module(f"spikingjelly.datasets.{name}")


def test_another_reader_agrees_on_aedat_3(tmp_path, monkeypatch):
    utils = spikingjelly_reader(monkeypatch, "utils")
    late = Events(events().t + 2**31 - 2**22, events().x, events().y, events().p)  # the packets' overflow counts
    content = as_aedat3(late, packet=1)
    (tmp_path / "r.aedat").write_bytes(content)
    theirs, ours = utils.load_aedat_v3(tmp_path / "r.aedat"), read_events(tmp_path / "r.aedat")
    assert same(ours, late)
    valid = theirs["t"] != (late.t[:, None] >> 31 << 31).repeat(2, 1).ravel()  # it keeps what is marked invalid
    assert all(np.array_equal(theirs[name][valid], getattr(ours, name)) for name in "txyp")


def test_another_reader_agrees_on_aedat_2_but_for_the_axes_that_it_swaps(tmp_path, monkeypatch):
    cifar = spikingjelly_reader(monkeypatch, "cifar10_dvs")
    (tmp_path / "r.aedat").write_bytes(as_aedat2(events()))
    theirs, ours = cifar._load_origin_data(tmp_path / "r.aedat"), read_events(tmp_path / "r.aedat")
    pairs = {"t": "t", "x": "y", "y": "x", "p": "p"}
    assert all(np.array_equal(theirs[name].astype(np.int64), getattr(ours, own)) for name, own in pairs.items())


def test_aedat_4_of_the_makers_library_is_read_to_the_event(tmp_path):
    dv = pytest.importorskip("dv_processing")
    path = tmp_path / "r.aedat4"
    writer = dv.io.MonoCameraWriter(str(path), dv.io.MonoCameraWriter.EventOnlyConfig("made", SIZE[::-1]))
    store = dv.EventStore()
    for row in zip(*(getattr(events(), name).tolist() for name in "txyp"), strict=True):
        store.push_back(row[0] + 1_700_000_000_000_000, row[1], row[2], bool(row[3]))
    writer.writeEvents(store)
    del writer
    found = open_recording(path)
    assert found.size == SIZE
    assert same(found.whole(), Events(events().t - events().t[0], events().x, events().y, events().p))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.aedat", as_aedat2(events(3))[:-3], r"ends inside an event \(5 bytes over\)"),
        ("r.aedat", as_aedat2(Events(*(np.array([v]) for v in (1, 3, -3, 1)))), "addresses above 15 bits"),
        ("r.aedat", as_aedat3(events(9))[:-20], "ends inside a packet"),
        ("r.aedat", as_aedat3(events(9))[:60], "its header has no end"),
        (
            "r.aedat",
            as_aedat3(events(0))[:61] + struct.pack("<HHIIIIII", 1, 1, 4, 4, 0, 1, 1, 1) + b"1234",
            "events of 4 b",
        ),
        ("r.aedat", b"#!AER-DAT4.0\r\n", "AEDAT 4 ends in .aedat4"),
        ("r.aedat4", b"#!AER-DAT4.0\r\nnothing", "aedat cannot read it"),
        ("r.h5", b"no hdf5", "h5py cannot open this recording"),
        ("r.dat", b"% Height 3\n\x0e\x08", "rows of kind 14 are no changes of brightness"),
        ("r.dat", b"", "holds not one byte; copy it again"),
        ("r.dat", b"% Height ten\n% Width 3\n\x0c\x08", "are no size"),
    ],
)
def test_what_is_damaged_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_events(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_hdf5_without_events_or_of_uneven_columns_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(InputError, match="holds weights, and no CD/events"):
        read_events(tmp_path / "other.h5")
    as_hdf5(tmp_path / "cut.h5", events(), "group")
    with h5py.File(tmp_path / "cut.h5", "a") as file:
        del file["events/x"]
        file["events/x"] = np.zeros(3)
    with pytest.raises(InputError, match=r"of lengths \[3, 1000\]"):
        read_events(tmp_path / "cut.h5")


def columns(**changed) -> dict:
    """The events as x, y, p, t, some of them otherwise."""
    return {**{name: getattr(events(), name) for name in "xypt"}, **changed}


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (columns(t=events().t / 1e6), r"its t holds [\d.e-]+; write it in whole us \(a second has 1e6\)"),
        (
            columns(t=np.where(events().t == events().t[-1], np.nan, events().t)),
            "its t holds nan; write it in whole us",
        ),
        (columns(x=events().x - 9), "its x holds -\\d; write it in whole px of the sensor, from 0 up"),
        (columns(y=events().y[:, None]), r"its y is int64 \[1000, 1\], not one row of numbers"),
        (columns(x=np.full(1000, b"a")), "its x is .*, not one row of numbers"),
        (columns(x=3), "its x is int64 .*, not one row of numbers"),
        (columns(t_offset="a"), "its t_offset is .*, not a number of us"),
    ],
)
def test_hdf5_of_other_units_or_shapes_is_refused_and_not_rounded(tmp_path, held, message):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "r.h5", "w") as file:
        for name, values in held.items():
            file[name] = values
    with pytest.raises(InputError, match=message) as caught:
        read_events(tmp_path / "r.h5")
    assert str(tmp_path / "r.h5") in str(caught.value)


def test_hdf5_with_whole_us_as_floats_is_read_and_a_sensor_of_no_size_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "r.h5", "w") as file:
        for name, values in columns(t=events().t.astype(float)).items():
            file[name] = values
    assert same(read_events(tmp_path / "r.h5"), events())
    with h5py.File(tmp_path / "r.h5", "a") as file:
        file.attrs["geometry"] = "0x0"
    with pytest.raises(InputError, match="its attributes say 0 and 0 px, no size of a sensor"):
        read_events(tmp_path / "r.h5")


def test_hdf5_that_is_damaged_behind_its_head_is_one_line(tmp_path):
    as_hdf5(tmp_path / "r.h5", events(), "file")
    content = (tmp_path / "r.h5").read_bytes()
    (tmp_path / "r.h5").write_bytes(content[:600] + bytes(len(content) - 600))
    with pytest.raises(InputError, match="h5py cannot open this recording"):
        read_events(tmp_path / "r.h5")


@pytest.mark.parametrize("kind", ["dat", "aedat-3", "h5-rows", "h5-offset"])
def test_a_recording_says_when_its_first_event_was(tmp_path, kind):
    assert open_recording(written(tmp_path, kind)).begin == events().t[0]


@pytest.mark.parametrize("suffix", [".bin", ".dat", ".aedat", ".aedat4", ".h5"])
def test_a_recording_that_is_not_there_is_one_line(tmp_path, suffix):
    with pytest.raises(InputError, match=r"[Nn]o such file"):
        read_events(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("older", [True, False], ids=["older", "newer"])
def test_boxes_are_read_under_both_names_and_in_order_of_time(tmp_path, older):
    rows = np.array([(30, 1, 2, 3, 4, 1, 0.5, 7), (10, 5, 6, 7, 8, 0, 1, 2)], prophesee.BOX)
    if older:
        fields = ["ts", "x", "y", "w", "h", "class_id", "confidence", "track_id"]
        kinds = ["<u8", "<f4", "<f4", "<f4", "<f4", "u1", "<f4", "<u4"]
        np.save(tmp_path / "b.npy", np.array(rows.tolist(), [*zip(fields, kinds, strict=True)]))
    else:
        prophesee.write_boxes(tmp_path / "b.npy", rows)
    assert np.array_equal(prophesee.read_boxes(tmp_path / "b.npy"), rows[::-1])
    assert prophesee.boxes_path(tmp_path / "a_td.dat") == tmp_path / "a_bbox.npy"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3), "boxes without t, but plain numbers"),
        (np.zeros(3, [("t", "<u8"), ("x", "<f4")]), "boxes without y, but t, x"),
        (np.zeros((2, 3)), "boxes without t"),
        (b"text", "no array of boxes"),
        (b"PK\3\4" + bytes(60), "no array of boxes"),
        (b"\x93NUMPY\1\0v\0" + b"{" * 118, "no array of boxes"),
        (np.zeros(2, [("t", "S3")]), r"t of its boxes is \|S3 \[2\], no numbers"),
        (np.array([(np.nan,)], [("ts", "<f8")]), "box 0 has ts nan"),
        (np.array([(1, 1, 1, 1, 1, 256)], [(name, "<i8") for name in BOX_FIELDS]), "box 0 has class_id 256"),
        (np.array([(1, 1, 1, 1, 1, -1)], [(name, "<i8") for name in BOX_FIELDS]), "box 0 has class_id -1"),
        (None, "no such file"),
    ],
)
def test_what_is_no_array_of_boxes_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "b.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=message) as caught:
        prophesee.read_boxes(path)
    assert str(path) in str(caught.value)


def test_a_box_that_is_not_finite_is_refused_by_its_number(tmp_path):
    rows = np.zeros(3, prophesee.BOX)
    rows["w"][2] = np.inf
    prophesee.write_boxes(tmp_path / "b.npy", rows)
    with pytest.raises(InputError, match="box 2 is not finite"):
        prophesee.read_boxes(tmp_path / "b.npy")
