"""detect.py from its command line: a line an image, films in and out, a folder of one's own, a window."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

import detect
from models import Darknet, network_of
from tests.scenes import write_scenes
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.data.screen import Screen, portable
from utils.errors import InputError


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A network, three pictures, and a film of four frames."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, train=2, valid=3)
    save_checkpoint("net.pt", Checkpoint(network_of(Darknet(read_cfg("net.cfg"))), ("blue", "green")))
    film = cv2.VideoWriter("one.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (32, 48))
    for level in range(4):
        film.write(np.full((48, 32, 3), 60 * level, np.uint8))
    film.release()
    return tmp_path


def typed(*words: str):
    return detect.run(detect.parser().parse_args(["--weights", "net.pt", "--device", "cpu", *words]))


def test_an_image_is_a_line_with_what_was_found_and_the_milliseconds(place, caplog):
    caplog.set_level("INFO")
    record = typed("--source", "images/valid", "--conf-thres", "0.01")
    lines = [each.getMessage() for each in caplog.records if each.getMessage().startswith("images/valid/")]
    assert len(lines) == 3 == record.metrics["images"]
    assert all(re.fullmatch(r"images/valid/\d\.png: (nothing|\d+ \w+(, \d+ \w+)?), \d+\.\d ms", line) for line in lines)
    told = sum(int(n) for line in lines for n in re.findall(r"(\d+) (?:blue|green)", line))
    assert told == record.metrics["boxes"]
    assert record.metrics["find_ms"] > 0


def test_a_film_is_a_line_and_comes_out_with_as_many_frames_in_the_codec_that_was_asked_for(place, caplog):
    caplog.set_level("INFO")
    record = typed("--source", "one.avi", "images/valid/0.png", "--fourcc", "MJPG", "--output", "mine")
    assert sorted(path.name for path in Path("mine").iterdir()) == ["0.jpg", "one.avi"]
    assert {path.name for path in record.folder.iterdir()} == {"record.json"}
    film = cv2.VideoCapture("mine/one.avi")
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and film.get(cv2.CAP_PROP_FPS) == 5
    code = int(film.get(cv2.CAP_PROP_FOURCC))
    assert bytes((code >> 8 * i) & 255 for i in range(4)) == b"MJPG"
    assert "one.avi: goes to mine/one.avi, without its sound" in caplog.text
    assert re.search(r"one\.avi: 4 frames: .*, \d+\.\d ms a frame", caplog.text)
    typed("--source", "images/valid/0.png", "--output", "mine")
    assert sorted(path.name for path in Path("mine-2").iterdir()) == ["0.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "images/valid", "--fourcc", "mp4v"], "^--fourcc: images/valid has no film; leave it away"),
        (["--source", "one.avi", "--fourcc", "ABCD"], "^--fourcc ABCD: this build of OpenCV writes no such film"),
    ],
)
def test_a_codec_that_cannot_act_is_refused(place, words, message):
    with pytest.raises(InputError, match=message):
        typed(*words)


@pytest.fixture
def screen(monkeypatch):
    """Tk as far as a window uses it: what it shows, and the key that a person presses at each picture."""
    shown, keys, bound = [], [], {}

    class Root:
        def __getattr__(self, name):
            return lambda *words, **options: None

        def bind(self, event, press):
            bound[event] = press

        def wait_variable(self, variable):
            bound["<Key>"](SimpleNamespace(keysym=keys.pop(0)))

    class Text:
        def __init__(self, root):
            self.value = ""

        def set(self, value):
            self.value = value

        def get(self):
            return self.value

    fake = ModuleType("tkinter")
    fake.TclError = RuntimeError
    fake.Tk, fake.StringVar, fake.Label = Root, Text, lambda root: Root()
    fake.PhotoImage = lambda master, data, format: shown.append(data)
    monkeypatch.setitem(sys.modules, "tkinter", fake)
    return SimpleNamespace(shown=shown, keys=keys, module=fake)


def test_the_window_shows_each_picture_and_ends_where_somebody_says_so(place, screen, caplog):
    caplog.set_level("INFO")
    screen.keys += ["space", "q"]
    record = typed("--source", "images/valid", "--view-img")
    assert record.metrics["images"] == len(screen.shown) == 2 and "the window was closed" in caplog.text
    assert screen.shown[0].startswith(b"P6 512 512 255\n")


def test_the_windows_bytes_are_a_picture_that_others_read():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    read = cv2.imdecode(np.frombuffer(portable(picture), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), picture)


def test_without_a_screen_or_tk_the_window_is_refused_before_anything_is_made(place, screen, monkeypatch):
    def no_screen():
        raise RuntimeError("no display name")

    screen.module.Tk = no_screen
    with pytest.raises(InputError, match=r"^--view-img: no window opens here \(no display name\); the pictures are"):
        typed("--source", "images/valid", "--view-img")
    assert not Path("runs").exists()
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(InputError, match=r"^--view-img: this Python has no Tk; apt-get install python3-tk"):
        Screen("x")
