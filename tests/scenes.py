"""A data set of drawn rectangles and a network of a few channels, for the scripts' tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CFG = """[net]
batch=4
subdivisions=1
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=relu
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=16
size=3
stride=1
pad=1
activation=relu
[convolutional]
batch_normalize=1
filters=16
size=3
stride=1
pad=1
activation=relu
[shortcut]
from=-2
activation=linear
[maxpool]
size=2
stride=2
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=0,1
anchors=12,12, 24,24
classes=2
[route]
layers=4
[maxpool]
size=2
stride=2
[upsample]
stride=2
[route]
layers=-1,3
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=0,1
anchors=12,12, 24,24
classes=2
"""


def write_scenes(folder: Path, train: int = 12, valid: int = 4) -> Path:
    """Blue and green rectangles on noise; ``folder/set.data``, ``folder/net.cfg``. Returns the .data file."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("valid", valid)):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
            label, x, y = number % 2, int(rng.integers(4, 36)), int(rng.integers(4, 36))
            image[y : y + 20, x : x + 20, label] = 250
            cv2.imwrite(str(images / f"{number}.png"), image)
            row = f"{label} {(x + 10) / 64:.5f} {(y + 10) / 64:.5f} {20 / 64:.5f} {20 / 64:.5f}\n"
            (labels / f"{number}.txt").write_text(row)
        rows = "".join(f"{images.resolve()}/{number}.png\n" for number in range(count))
        (folder / f"{split}.txt").write_text(rows)
    (folder / "set.names").write_text("blue\ngreen\n")
    data = folder / "set.data"
    data.write_text("classes=2\ntrain=train.txt\nvalid=valid.txt\nnames=set.names\nflip=0\n")
    (folder / "net.cfg").write_text(CFG)
    return data
