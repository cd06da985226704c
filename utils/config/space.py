"""What a search over the settings of a training may choose: those that nobody said, and that act in this training."""

from __future__ import annotations

from collections.abc import Collection

from utils.config.train import TrainConfig
from utils.search.study import Between, OneOf, Space

SGD = Between(0.02, 0.5)
QUANTISED = Between(0.001, 0.05)
ADAM = 1 / 100  # of SGD's rate


def space_of(config: TrainConfig, idle: Collection[str] = ()) -> Space:
    """The settings that a search may choose, by their fields' names.

    Args:
        config: of the training; what was said stays as it was said.
        idle: fields that cannot act in its task.
    """
    usual = QUANTISED if config.wanted_style else SGD
    part = ADAM if config.adam else 1.0
    space: dict[str, Between | OneOf] = {"lr": Between(usual.low * part, usual.high * part)}
    if not config.rect:
        space |= {"mosaic": Between(0.0, 1.0, log=False), "multi_scale": OneOf((False, True))}
    if config.sparse:
        space |= {"s": Between(1e-4, 1e-2), "s_schedule": OneOf(("constant", "decay"))}
    if config.kd not in ("", "none"):
        space["kd_weight"] = Between(0.1, 10.0)
    if config.wanted_style:
        space |= {"learn_scales": OneOf((False, True)), "range_scale": Between(0.5, 2.0)}
    return {name: choice for name, choice in space.items() if name not in config.given and name not in idle}
