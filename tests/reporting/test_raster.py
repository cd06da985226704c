"""The raster under a picture: dots where neurons fire, the same neuron in the same place, the picture as it was."""

from __future__ import annotations

import numpy as np
import pytest

from utils.reporting.raster import BAND, GAP, LEFT, LIT, QUIET, RIGHT, raster, with_raster

SENT = np.zeros((2, 8), np.float32)
SENT[0, 0] = SENT[1, 0] = SENT[1, 5] = 1.0
FIRING = {"0 convolutional": 0.1875}


def dots(strip, colour):
    """Where pixels have a colour, (row, column)."""
    return {tuple(at) for at in np.argwhere((strip == colour).all(-1)).tolist()}


def test_a_neuron_that_fires_is_lit_and_is_at_the_same_place_in_every_column():
    width = 320
    strip = raster({"0 convolutional": SENT}, FIRING, width)
    lit = {at for at in dots(strip, LIT) if LEFT <= at[1] < width - RIGHT}
    side = (width - LEFT - RIGHT) // 2
    first, second = ({(y, x - LEFT - t * side) for y, x in lit if x - LEFT >= t * side} for t in (0, 1))
    first -= {(y, x + side) for y, x in second}
    assert first and second > first, "what fires twice stands at one place, and another neuron beside it"
    assert len(second) == 2 * len(first)
    assert dots(strip, QUIET)


def test_a_level_between_is_a_shade_between():
    strip = raster({"a": np.full((1, 4), 0.5, np.float32)}, {"a": 1.0}, 320)
    middle = tuple((np.array(QUIET) + (np.array(LIT) - QUIET) * 0.5).astype(np.uint8).tolist())
    assert dots(strip, middle) and not dots(strip, LIT)


@pytest.mark.parametrize("width", [64, 500])
def test_the_picture_above_is_as_it_was(width):
    picture = np.random.default_rng(0).integers(0, 256, (40, width, 3), dtype=np.uint8)
    made = with_raster(picture, {"a": SENT, "b": SENT}, {"a": 0.1, "b": 0.2})
    assert np.array_equal(made[:40, :width], picture)
    assert made.shape == (40 + BAND + 2 * (BAND + GAP) + 2 * GAP, max(width, 320), 3)


def test_a_film_has_strips_of_one_size_from_its_first_frame_on():
    first, later = (raster({"a": np.zeros((n, 9), np.float32)}, {"a": 0.0}, 400, columns=48) for n in (1, 48))
    assert first.shape == later.shape
