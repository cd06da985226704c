"""What a network is shown where nobody says: the data it was trained on, fitted and coloured as they were then."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from utils.config.run import DATA, RunConfig
from utils.errors import InputError
from utils.task import Task

log = logging.getLogger(__name__)

C = TypeVar("C", bound=RunConfig)


def as_trained(config: C, *, grey: bool, resize: str, jpeg: str = "full") -> C:
    """``--gray-scale``, ``--resize`` and ``--jpeg`` as it was trained; otherwise it would score wrong, silently.

    Raises:
        InputError: --rect, where images are stretched.
    """
    if config.resize is None and resize == "stretch":
        log.info("--resize stretch, as it was trained")
    elif config.resize not in (None, resize):
        log.info("--resize %s; it was trained with %s", config.resize, resize)
    if config.jpeg is None and jpeg == "reduced":
        log.info("--jpeg reduced, as it was trained")
    elif config.jpeg not in (None, jpeg):
        log.info("--jpeg %s; it was trained with %s", config.jpeg, jpeg)
    config = replace(config, resize=config.resize or resize, jpeg=config.jpeg or jpeg)
    if config.resize == "stretch" and getattr(config, "rect", False):
        raise InputError("--rect: stretched images have no border to save; leave it away, or add --resize letterbox")
    if grey and not config.gray_scale:
        log.info("--gray-scale, as it was trained")
        return replace(config, gray_scale=True)
    return config


def data_of_task(config: C, task: Task) -> C:
    """``--data`` as the task's sample set, where nobody says another; boxes have the one that is the flag's default."""
    if "data" in config.given or config.data != DATA or task.sample == DATA:
        return config
    log.info("--data %s, the sample set for %s", task.sample, task.name)
    return replace(config, data=task.sample)


def data_as_trained(config: C, remembered: str, network: object, task: Task) -> C:
    """``--data`` as the network of a checkpoint was trained on, or else the task's sample set; where nobody says it.

    Raises:
        InputError: that set is not there any more.
    """
    if "data" in config.given or config.data != DATA:
        return config
    if remembered in ("", DATA, task.sample):
        return data_of_task(config, task)
    if remembered.partition(":")[0] not in task.made and not Path(remembered).exists():
        raise InputError(f"{network}: was trained on {remembered}, which is not here; give --data")
    log.info("--data %s, which it was trained on", remembered)
    return replace(config, data=remembered)


def how_of(config: RunConfig) -> Literal["letterbox", "stretch"]:
    """How images are fitted, once `as_trained` has looked at the network."""
    return "stretch" if config.resize == "stretch" else "letterbox"


def jpeg_of(config: RunConfig) -> Literal["full", "reduced"]:
    """How JPEGs are decoded, once `as_trained` has looked at the network."""
    return "reduced" if config.jpeg == "reduced" else "full"


def shown_of(config: RunConfig) -> dict[str, Any]:
    """What a checkpoint remembers of how images are shown to its network."""
    found: dict[str, Any] = {"resize": how_of(config)}
    found |= {"jpeg": "reduced"} if jpeg_of(config) == "reduced" else {}
    return found | ({"gray_scale": True} if config.gray_scale else {})
