"""Sets of masks and of recordings of events, a few bytes each, and cfgs of what is learned from them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.scenes import section

LABELS, SHADES = ("left", "right"), ("dark", "grey", "light")
STEM = {"batch_normalize": 1, "filters": 8, "size": 3, "stride": 2, "pad": 1}


def _linear(filters: int) -> str:
    return section("convolutional", filters=filters, size=1, activation="linear")


EVENTS = "".join(
    (
        section("net", batch=4, width=16, height=16, channels=2, timesteps=4, input="frames"),
        section("convolutional", **STEM, activation="lif"),
        _linear(len(LABELS)),
        section("softmax"),
    )
)
MASKS = "".join(
    (
        section("net", batch=2, width=32, height=32),
        section("convolutional", **STEM, activation="relu"),
        _linear(len(SHADES)),
        section("segment", classes=len(SHADES), ignore=7, factor=2),
    )
)
SUMS = "".join(
    (
        section("net", batch=4, width=1, height=1, channels=2, timesteps=10, input="frames"),
        section("ltc_rnn", output=6),
        _linear(1),
        section("sequence", predicts="value", data="adding"),
    )
)


def write_masks(folder: Path) -> None:
    """An image and its mask to train on, and to validate on."""
    for number, part in enumerate(("train", "val")):
        for kind in ("images", "masks"):
            (folder / kind / part).mkdir(parents=True)
        mask = np.random.default_rng(number).integers(0, len(SHADES), (24, 32), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / part / "0.png"), np.repeat(80 * mask[..., None], 3, 2))
        cv2.imwrite(str(folder / "masks" / part / "0.png"), mask)
    (folder / "names.txt").write_text("\n".join(SHADES))


def write_recordings(folder: Path) -> None:
    """A recording of each class to train on, and to validate on, as N-MNIST has them."""
    places = (folder / split / label for split in ("Train", "Test") for label in LABELS)
    for number, place in enumerate(places):
        rows = np.random.default_rng(number).integers(0, 16, (200, 5), dtype=np.uint8)
        rows[:, 2], rows[:, 3] = 128, np.sort(rows[:, 3])  # ON, in order of time
        place.mkdir(parents=True)
        (place / "0.bin").write_bytes(rows[np.lexsort((rows[:, 4], rows[:, 3]))].tobytes())
