"""Names on pictures, in whatever letters."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from utils.data.lettering import text_size, write


def drawn(text: str, *, scale: float = 1.0) -> np.ndarray:
    page = np.full((60, 300, 3), 255, np.uint8)
    write(page, text, (5, 40), scale, (0, 0, 0))
    return page


def test_ascii_is_what_opencv_draws():
    page = np.full((60, 300, 3), 255, np.uint8)
    cv2.putText(page, "it's", (5, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 0), 1, cv2.LINE_AA)
    assert np.array_equal(drawn("it's"), page)
    (wide, tall), below = cv2.getTextSize("it's", cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    assert text_size("it's", 1.0) == (wide, tall, below)


@pytest.mark.parametrize("text", ["é", "Straße", "собака"])
def test_other_letters_are_drawn_themselves_not_as_question_marks(text):
    assert not np.array_equal(drawn(text), drawn("?" * len(text)))
    assert not np.array_equal(drawn(text), drawn("?" * len(text.encode())))
    other = text[:-1] + chr(ord(text[-1]) + 2)
    assert not np.array_equal(drawn(text), drawn(other))


def test_a_text_takes_the_place_that_its_size_says_and_capitals_are_as_high_in_both_fonts():
    for scale in (0.5, 1.0):
        rows, columns = (np.flatnonzero((drawn("Öde", scale=scale) < 200).any(axis)) for axis in ((1, 2), (0, 2)))
        wide, tall, below = text_size("Öde", scale)
        assert columns[0] >= 5 - 1 and columns[-1] <= 5 + wide + 1
        assert rows[0] >= 40 - tall - 1 and rows[-1] <= 40 + below + 1
    capitals = [np.flatnonzero((drawn(text) < 128).any((1, 2))) for text in ("D", "Д")]
    assert abs(int(capitals[0][0]) - int(capitals[1][0])) <= 2


def test_what_is_beyond_the_picture_is_left_out():
    page = np.full((20, 20, 3), 255, np.uint8)
    for place in ((-5, 10), (30, 10), (5, -30), (5, 60), (15, 19)):
        write(page, "é é é", place, 1.0, (0, 0, 0))
    assert page.shape == (20, 20, 3)
