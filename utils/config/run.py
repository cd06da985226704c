"""What every script is told: data, batches, device, seed, name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from utils import cli
from utils.cli import flag
from utils.config.needs import check
from utils.config.reference import EVERYWHERE
from utils.errors import InputError

CFG = "cfg/yolov3-tiny-digits.cfg"  # the structure where none is named
DATA = "data/digits.data"  # the embedded sample set
WORKERS = 32  # processes a core that wait for a disk or a network; more of them only fill the memory


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The flags that every script has.

    ``img_size`` is one side or (height, width), px. Two are no flags: compress.py knows a stage again by its
    ``fingerprint``, and ``given`` names the fields that somebody said.
    """

    instead: ClassVar[Mapping[str, str]] = EVERYWHERE

    data: str = flag(
        DATA,
        "a .data file, a data.yaml, or a folder of a set (default: the embedded digits, as boxes, classes or masks)",
    )
    batch_size: int | None = flag(None, "images a step (default: the cfg's)", type=cli.positive)
    img_size: tuple[int, ...] | None = flag(None, "px, one side or height width", type=cli.positive, nargs="+")
    device: str = flag("", "cpu, or a GPU's number (default: the GPU if there is one)")
    workers: int | None = flag(None, "loader processes (default: by core count)", type=cli.whole)
    cache: str = flag(
        "auto",
        "where decoded images are kept: in memory, in a file that is mapped into it, or (auto) in memory if they fit",
        choices=["auto", "ram", "disk", "off"],
    )
    jpeg: str | None = flag(
        None,
        "JPEGs in full, or at the least half, quarter or eighth that is no smaller than what the network is shown: "
        "faster, and other pixels (default: as the weights were trained)",
        choices=["full", "reduced"],
    )
    resize: str | None = flag(
        None, "how images are fitted (default: as the weights were trained)", choices=["letterbox", "stretch"]
    )
    gray_scale: bool = flag(False, "show grey images, also to a network of three channels")
    seed: int = flag(0, "of everything random", type=cli.seed)
    name: str = flag("", "suffix of the run's folder and files", type=cli.plain_name)
    fingerprint: str = ""
    given: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_given(cls, given: Mapping[str, Any], usual: Mapping[str, Any]) -> Self:
        """The config of the fields that somebody said; the one door from flags and keywords.

        Args:
            given: said fields and their values.
            usual: defaults that differ from the config's own.

        Raises:
            InputError: one of them cannot act beside the others.
        """
        config = cls(**{**usual, **given}, given=tuple(sorted(given)))
        check(config, given)
        config.check_values()
        return config

    def check_values(self) -> None:
        """Refuse values that no run can use.

        Raises:
            InputError: names the flag.
        """
        most = WORKERS * (os.cpu_count() or 1)
        if self.workers is not None and self.workers > most:
            raise InputError(f"--workers: {self.workers} processes for {os.cpu_count()} cores; use at most {most}")

    @property
    def size_asked(self) -> tuple[int, ...] | None:
        """What ``--img-size`` says of the size that a network is measured at."""
        return self.img_size

    @property
    def values(self) -> dict[str, Any]:
        """What a record and a checkpoint keep: every field's value, whoever said it."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.compare}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(RunConfig):
    """The flags of scripts that open a network that is there."""

    cfg: str | None = flag(None, "structure of .weights; a .pt carries its own")
    weights: str = flag("", "the network (default: the newest made here)")


def check_rank(said: int) -> None:
    """Refuse a --local_rank that is not this process's."""
    known = os.environ.get("LOCAL_RANK")
    if said != -1 and str(said) != known:
        fact = "no launcher started this process" if known is None else f"the launcher says LOCAL_RANK={known}"
        raise InputError(f"--local_rank {said}: {fact}; leave it away, and start with torchrun")
