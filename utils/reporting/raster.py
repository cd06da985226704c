"""A raster: a band for every layer, a column for every step, a dot where a neuron fires."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_WIDTH = 320  # px
BAND, GAP, DOT = 12, 3, 3  # height of a layer, space below it, side of a neuron; px
LEFT, RIGHT = 104, 46  # for a layer's name, and for its rate
APART, NUMBERED = 4, 16  # between columns; from this width on they have numbers
GROUND, QUIET, LIT, INK = (24, 24, 27), (46, 46, 52), (255, 199, 64), (220, 220, 220)
COLD = (96, 165, 250)  # of spikes of -1
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.33


def with_raster(
    picture: NDArray[np.uint8],
    rows: Mapping[str, NDArray[np.float32]],
    firing: Mapping[str, float],
    columns: int = 0,
) -> NDArray[np.uint8]:
    """A picture with the raster below it, both as wide as the wider of them.

    Args:
        picture: uint8 [H, W, 3], RGB.
        rows: name of a layer -> what some of its neurons send, -1 to 1, [steps, neurons].
        firing: name of a layer -> share of its neurons that fire in a step.
        columns: steps that there is room for, where more come; 0: those that there are.
    """
    strip = raster(rows, firing, max(picture.shape[1], LEAST_WIDTH), columns)
    more = strip.shape[1] - picture.shape[1]
    wide = cv2.copyMakeBorder(picture, 0, 0, 0, more, cv2.BORDER_CONSTANT, value=GROUND)
    return np.vstack([wide, strip])


def raster(
    rows: Mapping[str, NDArray[np.float32]], firing: Mapping[str, float], width: int, columns: int = 0
) -> NDArray[np.uint8]:
    """The strip alone, uint8 [H, width, 3]; the same neuron has the same place in every column."""
    head = 0 if columns else BAND  # a film's columns are numbered by nothing
    strip = np.full((head + len(rows) * (BAND + GAP) + 2 * GAP, width, 3), GROUND, np.uint8)
    for n, (name, values) in enumerate(rows.items()):
        top = head + GAP + n * (BAND + GAP)
        _write(strip, name, (4, top + BAND - 2))
        _write(strip, f"{100 * firing[name]:.1f}%", (width - RIGHT + 4, top + BAND - 2))
        side = (width - LEFT - RIGHT) / max(columns, len(values))
        for t, sent in enumerate(values):
            left, right = (LEFT + round(at * side) for at in (t, t + 1))
            _column(strip[top : top + BAND, left : max(left + DOT, right - APART)], sent)
            if head and n == 0 and side >= NUMBERED:
                _write(strip, f"step {t + 1}" if t == 0 and side >= LEFT / 2 else f"{t + 1}", (left, BAND - 1))
    return strip


def _column(place: NDArray[np.uint8], sent: NDArray[np.float32]) -> None:
    """One step of one layer: as many of its neurons as there is room for."""
    down, across = max(1, place.shape[0] // DOT), max(1, place.shape[1] // DOT)
    shown = sent[np.linspace(0, len(sent) - 1, min(len(sent), down * across)).round().astype(int)]
    for k, value in enumerate(shown):
        y, x = k % down * DOT, k // down * DOT
        colour = np.array(QUIET) + (np.array(LIT if value > 0 else COLD) - QUIET) * abs(float(value))
        place[y : y + DOT - 1, x : x + DOT - 1] = colour.astype(np.uint8)


def _write(strip: NDArray[np.uint8], text: str, at: tuple[int, int]) -> None:
    cv2.putText(strip, text, at, FONT, SCALE, INK, 1, cv2.LINE_AA)
