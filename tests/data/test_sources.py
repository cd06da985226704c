from __future__ import annotations

import cv2
import numpy as np
import pytest

from utils.data.sources import load_images
from utils.errors import InputError


def frame(brightness: int) -> np.ndarray:
    image = np.full((48, 64, 3), brightness, np.uint8)
    image[..., 0] = 0  # no blue, so that RGB and BGR can be told apart
    return image


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("b.png", "a.jpg", "c.PNG")):
        cv2.imwrite(str(tmp_path / name), frame(60 + 60 * i))
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in range(7):
        writer.write(frame(30 * i))
    writer.release()
    return path


def test_folder_and_pattern_show_their_images_by_name(folder):
    assert [f.name for f in load_images(folder)] == [str(folder / n) for n in ("a.jpg", "b.png", "c.PNG")]
    assert [f.name for f in load_images(str(folder / "[bc].*"))] == [str(folder / n) for n in ("b.png", "c.PNG")]


def test_image_is_rgb_or_grey(folder):
    colour, grey = (next(load_images(folder / "b.png", channels)).image for channels in (3, 1))
    assert colour.shape == (48, 64, 3) and colour[0, 0].tolist() == [60, 60, 0]
    assert grey.shape == (48, 64, 1)


def test_video_shows_every_frame_in_order(video):
    frames = list(load_images(video))
    assert [f.number for f in frames] == list(range(7))
    assert frames[0].video is not None and frames[0].video.fps == 10 and frames[0].video.size == (48, 64)
    for i, shown in enumerate(frames):
        np.testing.assert_allclose(shown.image.mean((0, 1)), [30 * i, 30 * i, 0], atol=6)


def test_folder_may_hold_videos_too(folder, video):
    assert len(list(load_images(folder))) == 3 + 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lost.jpg", "no such file or folder"),
        ("*.bmp", "no image or video fits this pattern"),
        ("notes.txt", "neither image nor video"),
    ],
)
def test_source_that_shows_nothing_is_refused_before_the_first_frame(folder, name, message):
    with pytest.raises(InputError, match=message):
        load_images(folder / name)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no image or video in this folder"):
        load_images(tmp_path)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "b.avi").write_bytes(b"no film")
    with pytest.raises(InputError, match=r"a.jpg: a corrupt image, .*list$"):
        list(load_images(tmp_path / "a.jpg"))
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a.jpg: a corrupt image, .*; 1 of 2 images can not be read, more than 1%$"):
        list(load_images(str(tmp_path / "*.jpg")))
    with pytest.raises(InputError, match=r"b.avi: can not be read as a video"):
        list(load_images(tmp_path / "b.avi"))


def test_camera_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"camera 97: does not open"):
        load_images("97")


def test_a_stream_that_does_not_open_is_no_file_to_convert():
    with pytest.raises(InputError, match=r"rtsp://127.0.0.1:9/x: does not open; is its sender on"):
        load_images("rtsp://127.0.0.1:9/x")
