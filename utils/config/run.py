"""What every script is told: data, batches, device, seed, name."""

from __future__ import annotations

from dataclasses import dataclass

from utils import cli
from utils.cli import flag

CFG = "cfg/yolov3-tiny-digits.cfg"  # the structure where none is named
DATA = "data/digits.data"  # the embedded sample set


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The flags that every script has.

    ``img_size`` is one side or (height, width), px. ``fingerprint`` is no flag: compress.py knows a stage again by it.
    """

    data: str = flag(DATA, "a .data file, or a folder of VOC annotations")
    batch_size: int | None = flag(None, "images a step (default: the cfg's)", type=cli.positive)
    img_size: tuple[int, ...] | None = flag(None, "px, one side or height width", type=cli.positive, nargs="+")
    device: str = flag("", "cpu, or a GPU's number (default: the GPU if there is one)")
    workers: int | None = flag(None, "loader processes (default: by core count)", type=cli.whole)
    cache: str = flag("auto", "decoded images in memory", choices=["auto", "ram", "off"])
    gray_scale: bool = flag(False, "show grey images, also to a network of three channels")
    seed: int = flag(0, "of everything random", type=cli.whole)
    name: str = flag("", "suffix of the run's folder and files", type=cli.plain_name)
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(RunConfig):
    """The flags of scripts that open a network that is there."""

    cfg: str | None = flag(None, "structure of .weights; a .pt carries its own")
    weights: str = flag("", "the network (default: the newest made here)")
