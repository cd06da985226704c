"""Text in pictures: OpenCV's strokes for what is ASCII, which is all they have, matplotlib's own font for the rest."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT = cv2.FONT_HERSHEY_SIMPLEX
EM = 29  # px of the font at scale 1, where its capitals are as high as OpenCV's


def text_size(text: str, scale: float, thick: int = 1) -> tuple[int, int, int]:
    """Px: how wide a text is, how far it reaches above its line and below."""
    if text.isascii():
        (wide, tall), below = cv2.getTextSize(text, FONT, scale, thick)
        return wide, tall, below
    left, top, right, bottom = _font(scale).getbbox(text, anchor="ls")
    return round(right - min(0.0, left)), round(-top), max(0, round(bottom))


def write(
    picture: NDArray[np.uint8], text: str, at: tuple[int, int], scale: float, ink: tuple[int, int, int], thick: int = 1
) -> None:
    """Write onto a picture [H, W, 3], from ``at`` (x, y) px on, which is on the line; letters no font has are boxes."""
    if text.isascii():
        cv2.putText(picture, text, at, FONT, scale, ink, thick, cv2.LINE_AA)
        return
    wide, tall, below = text_size(text, scale, thick)
    top, left = max(0, at[1] - tall - 1), max(0, at[0] - 1)
    part = picture[top : max(0, at[1] + below + 2), left : max(0, at[0] + wide + 2)]
    if not part.size:
        return
    drawn = Image.fromarray(np.ascontiguousarray(part))
    place = (at[0] - left, at[1] - top)
    ImageDraw.Draw(drawn).text(place, text, fill=ink, font=_font(scale), anchor="ls", stroke_width=0.4 * (thick - 1))
    part[:] = np.asarray(drawn)


@functools.lru_cache(maxsize=32)
def _font(scale: float) -> ImageFont.FreeTypeFont:
    package = importlib.util.find_spec("matplotlib")  # its files alone: to import it takes half a second
    assert package is not None and package.origin is not None
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", max(6.0, EM * scale))
