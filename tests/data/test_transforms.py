from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data import transforms
from utils.detection import augment as boxed
from utils.detection.augment import Augment

SIZES = st.integers(8, 700)


def measured(image: np.ndarray, brighter_than: int = 184) -> np.ndarray:
    """The box (x1, y1, x2, y2 px) of the bright pixels: independent of every formula under test."""
    rows, columns = np.nonzero(image[..., 0] > brighter_than)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def rectangle(size: tuple[int, int], box: tuple[int, int, int, int], channels: int = 3) -> np.ndarray:
    image = np.full((*size, channels), 114, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


@given(h=SIZES, w=SIZES, to_h=SIZES, to_w=SIZES)
@settings(max_examples=60, deadline=None)
def test_letterbox_mapped_back_is_the_original(h, w, to_h, to_w):
    box = transforms.fit((h, w), (to_h, to_w))
    assert box.scaled[0] == to_h or box.scaled[1] == to_w
    corners = np.array([[0, 0, w, h], [w / 4, h / 3, w / 2, h / 2]], np.float32)
    np.testing.assert_allclose(box.to_original(box.to_network(corners)), corners, atol=1e-2)


def test_letterbox_keeps_the_aspect_and_fills_with_114():
    image = np.full((50, 100, 3), 200, np.uint8)
    box = transforms.fit((50, 100), (64, 64))
    out = transforms.letterbox(image, box)
    assert out.shape == (64, 64, 3) and box.scaled == (32, 64) and box.pad == (16, 0)
    assert (out[:16] == 114).all() and (out[48:] == 114).all() and (out[16:48] == 200).all()


def test_letterboxed_box_fits_its_pixels():
    image = rectangle((60, 100), (20, 12, 70, 42))
    box = transforms.fit((60, 100), (128, 128))
    corners = np.array([[0, 0.2, 0.2, 0.7, 0.7]], np.float32)
    placed = boxed.place(corners, box.scaled, box.pad)[0, 1:]
    np.testing.assert_allclose(measured(transforms.letterbox(image, box)), placed, atol=1)
    np.testing.assert_allclose(box.to_network(np.array([[20, 12, 70, 42]])), placed[None], atol=0.5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_moved_and_mirrored_box_fits_its_pixels(seed, channels):
    rng = np.random.default_rng(seed)
    image = rectangle((96, 128), (30, 20, 80, 70), channels)
    matrix = transforms.random_matrix((96, 128), (80, 64), Augment(scale=0.5, translate=0.3), rng)
    if seed % 2:
        matrix = transforms.mirror(matrix, 64)
    moved = transforms.warp(image, matrix, (80, 64))
    rows = boxed.warp_boxes(np.array([[3, 30, 20, 80, 70]], np.float32), matrix, (96, 128), (80, 64), 0.0)
    assert moved.shape == (80, 64, channels) and rows[0, 0] == 3
    np.testing.assert_allclose(measured(moved), rows[0, 1:], atol=1)


@pytest.mark.parametrize("seed", range(8))
def test_box_of_a_turned_and_slanted_rectangle_is_the_smallest_upright_one(seed):
    rng = np.random.default_rng(seed)
    matrix = transforms.random_matrix((128, 128), (128, 128), Augment(degrees=30, shear=15, scale=0.2), rng)
    moved = transforms.warp(rectangle((128, 128), (40, 50, 90, 80)), matrix, (128, 128))
    rows = boxed.warp_boxes(np.array([[0, 40, 50, 90, 80]], np.float32), matrix, (128, 128), (128, 128), 0.0)
    np.testing.assert_allclose(measured(moved), rows[0, 1:], atol=2)  # a sharp corner fades over a pixel more


@pytest.mark.parametrize("seed", range(12))
def test_each_box_of_a_mosaic_fits_its_pixels(seed):
    rng = np.random.default_rng(seed)
    brightness = (150, 180, 210, 240)
    images = [np.where(rectangle((64, 48 + 4 * i), (10, 12, 36, 50)) == 255, b, 114) for i, b in enumerate(brightness)]
    images = [image.astype(np.uint8) for image in images]
    boxes = [np.array([[i, 10 / (48 + 4 * i), 12 / 64, 36 / (48 + 4 * i), 50 / 64]], np.float32) for i in range(4)]
    canvas, rows = boxed.mosaic(images, boxes, (64, 64), rng)
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    rows = boxed.warp_boxes(rows, identity, (128, 128), (128, 128), 0.0)
    assert len(rows) >= 1
    for row in rows:
        only = np.where(canvas == brightness[int(row[0])], 255, 0)
        np.testing.assert_allclose(measured(only), row[1:], atol=1e-3)


def test_box_is_cut_where_the_mosaic_cut_its_image():
    matrix = np.array([[0.5, 0, 20], [0, 0.5, 20]])  # the whole canvas is visible, with a border round it
    rows = boxed.warp_boxes(np.array([[0, -20, 10, 40, 50]], np.float32), matrix, (64, 64), (72, 72), 0.25)
    np.testing.assert_allclose(rows[0, 1:], [20, 25, 40, 45])


@pytest.mark.parametrize(("visible", "kept"), [(0.2, 1), (0.3, 0)])
def test_box_of_which_too_little_is_left_is_dropped(visible, kept):
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    quarter_inside = np.array([[0, 48, 48, 80, 80]], np.float32)
    assert len(boxed.warp_boxes(quarter_inside, identity, (64, 64), (64, 64), visible)) == kept


def test_box_thinner_than_two_pixels_is_dropped():
    third = np.array([[1 / 3, 0, 0], [0, 1 / 3, 0]])
    rows = np.array([[0, 3, 3, 8, 33], [1, 3, 3, 10, 33]], np.float32)
    assert boxed.warp_boxes(rows, third, (64, 64), (64, 64), 0.0)[:, 0].tolist() == [1]


def test_shares_and_corners_are_inverse():
    rows = np.array([[3, 0.5, 0.4, 0.2, 0.3], [1, 0.1, 0.9, 0.05, 0.1]], np.float32)
    pixels = boxed.place(boxed.to_corners(rows), (80, 60))
    np.testing.assert_allclose(boxed.to_shares(pixels, (80, 60)), rows, atol=1e-6)


def test_colours_without_gains_stay_and_with_gains_agree_with_arithmetic():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    same = transforms.shift_colours(image, (0.0, 0.0, 0.0), np.random.default_rng(1))
    assert np.abs(same.astype(int) - image).max() <= 6  # hue has 180 steps
    grey = image[..., :1]
    brighter = transforms.shift_colours(grey, (0.0, 0.0, 0.4), np.random.default_rng(1))
    factor = 1 + 0.4 * np.random.default_rng(1).uniform(-1, 1, 3)[2]
    np.testing.assert_allclose(brighter, np.minimum(grey * factor, 255), atol=1)


def test_enlarging_is_linear_and_reducing_averages():
    image = np.zeros((4, 4, 1), np.uint8)
    image[::2, ::2] = 200
    assert (transforms.resize(image, (2, 2)) == 50).all()
    assert transforms.resize(image, (8, 8)).shape == (8, 8, 1)
    assert (transforms.resize(image, (8, 8))[..., 0] == cv2.resize(image, (8, 8))).all()


def test_map_that_doubles_is_opencvs_resize():
    """Both hold that pixel i covers i to i + 1: half a pixel off would show at every edge."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (5, 5), 0)
    doubled = transforms.warp(image, np.array([[2.0, 0, 0], [0, 2, 0]]), (40, 60)).astype(int)
    expected = cv2.resize(image, (60, 40), interpolation=cv2.INTER_LINEAR)
    assert np.abs(doubled - expected)[2:-2, 2:-2].max() <= 2
    assert (transforms.warp(image, np.array([[1.0, 0, 0], [0, 1, 0]]), (20, 30)) == image).all()
