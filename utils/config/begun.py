"""What a training run that was cut began with: which flags may differ now, and whether its data are the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from utils.cli import flag_fields, option_names
from utils.config.train import TrainConfig
from utils.errors import InputError

log = logging.getLogger(__name__)

HERE = {"device", "workers", "resume", "sync_bn", "rank_timeout"}  # this machine's, whatever the run began with
FREE = {"cache", "epochs"}  # as the run began, unless somebody says otherwise


def check_training(saved: Mapping[str, Any], place: Path) -> None:
    """Refuse a training state of which a part is missing or of another type.

    Raises:
        InputError: names the file and the part.
    """
    config, progress, files = saved.get("config", saved.get("args")), saved.get("progress"), saved.get("files")
    wrong = [key for key in ("model", "random") if not isinstance(saved.get(key), dict)]
    wrong += ["config"] * (not isinstance(config, dict))
    if isinstance(config, dict):
        for field in flag_fields(TrainConfig):
            value, usual = config.get(field.name, field.default), field.default
            number = isinstance(usual, int | float) and not isinstance(usual, bool)
            fits = isinstance(value, int | float) if number else value is None or isinstance(value, type(usual))
            wrong += [f"config: {field.name}"] * (usual is not None and not fits)
    counted = isinstance(progress, dict) and type(progress.get("epochs")) is int and progress["epochs"] >= 0
    wrong += ["progress"] * (not counted)
    named = isinstance(files, dict) and all(isinstance(files.get(key), str) for key in ("folder", "best", "last"))
    wrong += ["files"] * (not named)
    if not isinstance(saved.get("data", {}), dict):
        wrong.append("data")
    if wrong:
        raise InputError(f"{place}: its '{wrong[0]}' is none to go on with; it is damaged, start anew without --resume")


def saved_config(config: TrainConfig, saved: Mapping[str, Any]) -> TrainConfig:
    """The config a cut run began with, but for what is this machine's; what it did not know yet is as it is here.

    Args:
        config: as it is told now.
        saved: the training state of the run's checkpoint.

    Raises:
        InputError: a flag contradicts the run, or asks for fewer epochs than are done.
    """
    kept = saved.get("config") or saved["args"]  # before there were configs: the flags
    kept = {"resize": "letterbox", "jpeg": "full", **kept}  # which all runs were before they were flags
    known = {each.name for each in fields(TrainConfig)} - HERE - (FREE & {*config.given})
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items() if k in known}
    for field in flag_fields(TrainConfig):
        if field.name in config.given and field.name in values:
            _agree(option_names(field)[-1], getattr(config, field.name), values[field.name], saved)
    if "epochs" in config.given:
        _check_epochs(config.epochs, int(kept["epochs"]), saved, staged=kept.get("progressive") is not None)
    return replace(config, **values)


def tell_changes(data: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Say that the data are others than when the run was cut; an older checkpoint does not know."""
    changed = [split for split in now if split in before and now[split] != before[split]]
    for split in changed:
        log.info(
            "resume: %s has changed since the run was cut: %d %s images then, %d now; it goes on with these",
            data, before[split]["images"], split, now[split]["images"],
        )  # fmt: skip


def _agree(option: str, said: Any, was: Any, saved: Mapping[str, Any]) -> None:
    """Refuse a flag that says something else than the run began with; paths of one file are the same."""
    paths = isinstance(said, str) and isinstance(was, str) and bool(said and was)
    if said == was or (paths and Path(said).resolve() == Path(was).resolve()):
        return
    place = saved["files"]["last"]
    values = [" ".join(map(str, v)) if isinstance(v, tuple) else v for v in (said, was)]
    began = "without it" if was in (None, "", False) else f"with {values[1]}"
    raise InputError(
        f"{option}: {values[0]}, but the run of {place} was begun {began}; leave {option} away, "
        "or start a run of its own without --resume"
    )


def _check_epochs(epochs: int, was: int, saved: Mapping[str, Any], *, staged: bool) -> None:
    done, place = int(saved["progress"]["epochs"]), saved["files"]["last"]
    if epochs == was:
        return
    if staged:
        raise InputError(f"--epochs: {epochs}, but the stages of --progressive share {was}; leave --epochs away")
    if epochs < done:
        raise InputError(f"--epochs: {epochs}, but the run of {place} has done {done}; give {done} or more")
    log.info("resume: %d epochs instead of %d; the schedule is stretched to them", epochs, was)
