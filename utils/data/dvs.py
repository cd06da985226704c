"""What an event camera would have seen of a scene whose brightness is known at every moment.

A pixel remembers the logarithm of the brightness at its last event. When the present one is a threshold above it, the
pixel sends ON and what it remembers rises by that threshold; when it is one below, OFF, and it falls. Between two
moments that are given the logarithm changes linearly, and an event is sent when it crosses, not when the next picture
comes (Rebecq et al., ESIM: an open event camera simulator, CoRL 2018, section 3; Gehrig et al., Video to events, CVPR
2020, equation 2). Thresholds differ a little from pixel to pixel; for a while after an event a pixel is deaf, and what
it crosses then is lost; and each sends events without a cause, at a low rate (Hu, Liu, Delbruck, v2e, CVPRW 2021,
section 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.data.events import Events, joined

MICROSECONDS = 1_000_000
SPREAD = 0.3  # the largest mismatch; thresholds are cut at three deviations, and so stay above 0


@dataclass(frozen=True)
class EventCamera:
    """A camera's constants.

    ``on``, ``off``: thresholds, in natural logarithms of brightness. ``mismatch``: their standard deviation over the
    pixels, as a share of each. ``dark``: brightness that is added to all (of 1), where the logarithm would have no end.
    ``refractory``: us that a pixel is deaf after an event. ``noise``: events without a cause a second and pixel.
    """

    on: float = 0.25
    off: float = 0.25
    mismatch: float = 0.03
    dark: float = 0.1
    refractory: int = 500
    noise: float = 1.0

    def __post_init__(self) -> None:
        low = min(self.on, self.off, self.dark) <= 0 or min(self.mismatch, self.refractory, self.noise) < 0
        if low or self.mismatch > SPREAD:
            raise ValueError(
                f"{self}: thresholds and dark must be above 0, the others not below, mismatch at most {SPREAD}"
            )


@dataclass(frozen=True)
class SimulatedEvents:
    """``events`` of a scene; ``lost``: crossings while a pixel was deaf, [2, H, W], ON first; ``level`` at the end.

    ``level`` is what each pixel remembers, [H, W]: where it began, and a threshold for each of its crossings.
    """

    events: Events
    lost: NDArray[np.int64]
    level: NDArray[np.float64]


def simulate(
    pictures: Iterable[tuple[int, NDArray[np.uint8]]], camera: EventCamera, rng: np.random.Generator
) -> SimulatedEvents:
    """Events of a scene.

    Args:
        pictures: moments, us, ascending, at least two, and the brightness [H, W] then, 0 to 255.
        camera: its constants.
        rng: of the pixels' thresholds and of noise.
    """
    each = iter(pictures)
    begin, first = next(each)
    size = (first.shape[0], first.shape[1])
    pixels = _Pixels(_brightness(first, camera), begin, camera, rng)
    end = begin
    for moment, picture in each:
        pixels.advance(_brightness(picture, camera), end, moment)
        end = moment
    caused = joined(pixels.sent)
    noise = _noise(camera.noise, begin, end, size, rng)
    found = joined([caused, noise])
    order = np.argsort(found.t, kind="stable")
    return SimulatedEvents(found[order], pixels.lost, pixels.level)


class _Pixels:
    """All pixels of a camera, from one moment to the next."""

    def __init__(
        self, brightness: NDArray[np.float64], begin: int, camera: EventCamera, rng: np.random.Generator
    ) -> None:
        self.now, self.level = brightness, brightness.copy()
        shape = brightness.shape
        spread = 1 + camera.mismatch * rng.standard_normal((2, *shape)).clip(-3, 3)
        self.thresholds = np.array([camera.on, camera.off])[:, None, None] * spread
        self.deaf_until = np.full(shape, float(begin))
        self.refractory = camera.refractory
        self.lost = np.zeros((2, *shape), np.int64)
        self.sent: list[Events] = []

    def advance(self, brightness: NDArray[np.float64], begin: int, end: int) -> None:
        """Until ``end``, us, as the brightness changes linearly."""
        for polarity, sign in ((1, 1.0), (0, -1.0)):
            threshold = self.thresholds[1 - polarity]
            crossings = np.floor(sign * (brightness - self.level) / threshold)
            rows, columns = np.nonzero(crossings >= 1)
            left = crossings[rows, columns].astype(np.int64)
            while len(rows):  # the next crossing of each pixel that has one
                self.level[rows, columns] += sign * threshold[rows, columns]
                share = (self.level - self.now)[rows, columns] / (brightness - self.now)[rows, columns]
                at = begin + share.clip(0, 1) * (end - begin)
                heard = at >= self.deaf_until[rows, columns]
                self._send(at[heard], rows[heard], columns[heard], polarity)
                self.lost[1 - polarity, rows[~heard], columns[~heard]] += 1
                left -= 1
                rows, columns, left = rows[left > 0], columns[left > 0], left[left > 0]
        self.now = brightness

    def _send(self, at: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64], p: int) -> None:
        self.deaf_until[rows, columns] = at + self.refractory
        self.sent.append(Events(at.astype(np.int64), columns, rows, np.full(len(rows), p)))


def _brightness(picture: NDArray[np.uint8], camera: EventCamera) -> NDArray[np.float64]:
    table = np.log(camera.dark + np.arange(256) / 255)
    found: NDArray[np.float64] = table[picture]
    return found


def _noise(rate: float, begin: int, end: int, size: tuple[int, int], rng: np.random.Generator) -> Events:
    """Events without a cause: of any pixel, time and polarity."""
    count = int(rng.poisson(rate * (end - begin) / MICROSECONDS * size[0] * size[1]))
    columns = (rng.integers(0, most, count) for most in (size[1], size[0], 2))
    return Events(rng.integers(begin, max(end, begin + 1), count), *columns)
