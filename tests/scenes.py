"""A data set of drawn rectangles and a network of a few channels, for the scripts' tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import pipeline.epoch_report
import pipeline.session
from utils.detection.task import DetectionTask
from utils.reporting.latency import Latency


def section(kind: str, **keys: object) -> str:
    """A section of a cfg."""
    return f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items())


def convolution(filters: int, stride: int = 1) -> str:
    """3x3 with batch norm and ReLU."""
    return section("convolutional", batch_normalize=1, filters=filters, size=3, stride=stride, pad=1, activation="relu")


def head(classes: int = 2, anchors: str = "12,12, 24,24") -> str:
    """A head of two anchors and the 1x1 convolution it reads."""
    raw = section("convolutional", filters=2 * (5 + classes), size=1, activation="linear")
    return raw + section("yolo", mask="0,1", anchors=anchors, classes=classes, num=2)


POOL = section("maxpool", size=2, stride=2)
CFG = "".join(
    (
        section("net", batch=4, subdivisions=1, width=64, height=64, channels=3),
        convolution(8, stride=2),  # layer 0
        POOL,
        convolution(16),
        convolution(16),
        section("shortcut", **{"from": -2}, activation="linear"),
        POOL,
        head(),  # 6 and 7
        section("route", layers=4),
        POOL,
        section("upsample", stride=2),
        section("route", layers="-1,3"),
        head(),
    )
)


def write_scenes(
    folder: Path, train: int = 12, valid: int = 4, shape: tuple[int, int] = (64, 64), cfg: str = CFG
) -> Path:
    """Blue and green squares on noise; ``folder/set.data``, ``folder/net.cfg``. Returns the .data file.

    The squares are of 20 px, the images of ``shape`` (height, width); an image shows class number % 2.
    """
    rng = np.random.default_rng(0)
    high, wide = shape
    for split, count in (("train", train), ("valid", valid)):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 90, (high, wide, 3), dtype=np.uint8)
            label, x, y = number % 2, int(rng.integers(4, wide - 28)), int(rng.integers(4, high - 28))
            image[y : y + 20, x : x + 20, label] = 250
            cv2.imwrite(str(images / f"{number}.png"), image)
            row = f"{label} {(x + 10) / wide:.5f} {(y + 10) / high:.5f} {20 / wide:.5f} {20 / high:.5f}\n"
            (labels / f"{number}.txt").write_text(row)
        rows = "".join(f"{images.resolve()}/{number}.png\n" for number in range(count))
        (folder / f"{split}.txt").write_text(rows)
    (folder / "set.names").write_text("blue\ngreen\n")
    data = folder / "set.data"
    data.write_text("classes=2\ntrain=train.txt\nvalid=valid.txt\nnames=set.names\nflip=0\n")
    (folder / "net.cfg").write_text(cfg)
    return data


def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stop watches."""
    known = Latency(1.0, 1.0, 1.0, 1, 1, 1)
    monkeypatch.setattr(
        pipeline.session, "measure_in_turns", lambda predictors, *_, **__: dict.fromkeys(predictors, known)
    )


def undrawn_runs(patch: pytest.MonkeyPatch) -> None:
    """Training runs without pictures: most tests do not look at them and save their time."""
    for name in ("plot_results", "plot_gammas"):
        patch.setattr(pipeline.epoch_report, name, lambda *words, **options: None)
    for name in ("training_picture", "validation_picture"):
        patch.setattr(DetectionTask, name, lambda *words, **options: None)
