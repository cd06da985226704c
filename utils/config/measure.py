"""What test.py and detect.py are told."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from utils import cli
from utils.cli import flag
from utils.config.reference import MEASURED
from utils.config.run import NetworkConfig
from utils.thresholds import Thresholds

SOURCE = "data/digits/images/valid/0000?.jpg"


def codec(text: str) -> str:
    """Four characters that name a codec."""
    if len(text) != 4 or not text.isascii():
        raise argparse.ArgumentTypeError(f"must be four characters, such as mp4v or XVID, got {text}")
    return text


@dataclass(frozen=True, kw_only=True)
class TestConfig(NetworkConfig):
    """The flags of test.py."""

    instead: ClassVar[Mapping[str, str]] = MEASURED

    weights: str = flag("", "what to measure (default: the newest network made here)")
    conf_thres: float = flag(0.001, "candidates score above this", type=cli.fraction)  # low: AP needs the tail
    iou_thres: float = flag(0.6, "NMS: boxes that overlap more are one", type=cli.fraction)
    rect: bool = flag(False, "batches of images of similar aspect, less padding")
    save_json: bool = flag(False, "answers in a file; boxes and masks in COCO's results format")
    task: str = flag("test", "one measurement, or a table", choices=["test", "benchmark"])
    binary_steps: bool = flag(
        False, "a network trained with ilif: also as binary spikes, D steps of 0 and 1 for each step of D levels"
    )
    early_exit: tuple[float, ...] | None = flag(
        None,
        "a network trained as spikes: end an image's steps when its answer leads by a margin; a table of accuracy "
        "and mean steps over these margins",
        type=cli.fraction,
        nargs="+",
        metavar="MARGIN",
    )

    @property
    def thresholds(self) -> Thresholds:
        """As a task takes them."""
        return Thresholds(confidence=self.conf_thres, overlap=self.iou_thres)


@dataclass(frozen=True, kw_only=True)
class DetectConfig(NetworkConfig):
    """The flags of detect.py."""

    instead: ClassVar[Mapping[str, str]] = MEASURED

    source: tuple[str, ...] = flag(
        (SOURCE,), "images, folders, patterns, videos, a stream or a camera's number", nargs="+"
    )
    conf_thres: float = flag(0.3, "boxes score above this", type=cli.fraction)  # what a person wants to see
    iou_thres: float = flag(0.45, "NMS: boxes that overlap more are one", type=cli.fraction)
    classes: tuple[int, ...] | None = flag(None, "only these classes, by number", type=cli.whole, nargs="+")
    agnostic_nms: bool = flag(False, "NMS over all classes together")
    save_txt: bool = flag(False, "an image a file: class cx cy w h score, 0..1")
    save_json: bool = flag(False, "all answers in one file, masks as COCO's run-length codes")
    carry: bool = flag(False, "a streaming network, or one trained as spikes, on video: go on from the frame before")
    reset: int | None = flag(None, "with --carry: forget that after so many frames of a film", type=cli.positive)
    early_exit: float | None = flag(
        None,
        "a network trained as spikes: end a picture's steps when its answer leads by this margin, 0 to 1",
        type=cli.fraction,
        metavar="MARGIN",
    )
    raster: bool = flag(False, "a network trained as spikes: which neurons fire at each step, under the picture")
    frames: int | None = flag(None, "stop after so many frames", type=cli.positive)
    output: str = flag("", "a new folder for the pictures, instead of the run's; a taken name gets -2")
    fourcc: str = flag("mp4v", "codec of the films that are written: mp4v, avc1, XVID, MJPG, VP90 ...", type=codec)
    view_img: bool = flag(False, "also in a window; a key goes on, q ends", "--view-img", "--view_img")

    @property
    def thresholds(self) -> Thresholds:
        """As a task takes them."""
        return Thresholds(
            confidence=self.conf_thres, overlap=self.iou_thres, agnostic=self.agnostic_nms, classes=self.classes
        )
