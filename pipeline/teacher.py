"""A teacher beside a training run, opened from its config."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from models import load_model
from pipeline.images import Setting
from utils.config.as_trained import how_of, jpeg_of
from utils.config.train import TrainConfig
from utils.darknet.network import load_checkpoint
from utils.darknet.shapes import granularity
from utils.darknet.spec import ModelSpec
from utils.data.loader import Loader
from utils.data.text import same_names
from utils.distillation.context import DistillationContext
from utils.distillation.distiller import Distiller
from utils.distillation.pairs import OUTPUTS
from utils.distillation.soft import SoftDistiller
from utils.distillation.strategies import TERMS, terms_of
from utils.distillation.unlabelled import unlabelled_batches
from utils.errors import InputError
from utils.task import task_name

log = logging.getLogger(__name__)


def open_teacher(setting: Setting, student: ModelSpec, batch_size: int) -> tuple[TrainConfig, DistillationContext]:
    """The teacher the config names; and the config with the teacher's file in it.

    Raises:
        InputError: flags are missing or contradict each other, or nothing can be distilled.
    """
    config, manifest, precision = setting.config, setting.manifest, setting.precision
    path = Path(config.t_weights or _origin(config.weights, config.kd))
    config = replace(config, t_weights=str(path))  # saved with the config and in the record
    if not path.is_file():
        raise InputError(f"--t_weights {path}: no such file; give the teacher's .pt or .weights")
    if path.suffix != ".pt" and not config.t_cfg:
        raise InputError(f"--t_weights {path}: Darknet weights need their structure; add --t_cfg")
    kind = load_checkpoint(path).kind if path.suffix == ".pt" else "float"
    if kind != "float":
        raise InputError(f"--t_weights {path}: a {kind} network can not teach; give the float one it was made of")
    loaded = load_model(path, config.t_cfg)
    _check_sizes(config, student, loaded.spec, setting.size)
    if loaded.resize != how_of(config):
        log.info("teacher: was trained with --resize %s, it is shown %s images", loaded.resize, how_of(config))
    if loaded.jpeg != jpeg_of(config):
        log.info("teacher: was trained with --jpeg %s, it is shown %s images", loaded.jpeg, jpeg_of(config))
    distiller = _distiller(setting, student, precision.place(loaded.predictor), loaded.spec)
    answers = any(name not in TERMS or TERMS[name].compares == OUTPUTS for name in distiller.terms)
    if answers and len(loaded.names) == manifest.classes and not same_names(loaded.names, manifest.names):
        raise InputError(
            f"--t_weights {path}: knows {', '.join(loaded.names)[:80]}, {manifest.path} has "
            f"{', '.join(manifest.names)[:80]}, in this order; call and order the classes alike, or use --KDstr cwd"
        )
    precision.place(distiller.helpers)
    log.info("teacher %s, --KDstr %s (%s): %s", path, config.kd, ", ".join(distiller.terms), distiller.message)
    files = (path, *([Path(config.t_cfg)] if config.t_cfg else []))
    return config, DistillationContext(distiller, files, _unlabelled(setting, student, batch_size))


def _distiller(
    setting: Setting, student: ModelSpec, teacher: nn.Module, structure: ModelSpec
) -> Distiller | SoftDistiller:
    """What compares the two: boxes and features of detectors, scores of anything else."""
    kd, weight, autocast = setting.config.kd, setting.config.kd_weight, setting.precision.autocast
    names = {task_name(spec) for spec in (student, structure)}
    if len(names) > 1:
        raise InputError(
            f"teacher: is for {task_name(structure)}, the student for {task_name(student)}; choose another"
        )
    if names != {"detection"}:
        return SoftDistiller(student, teacher, structure, kd, weight=weight, autocast=autocast)
    mean = setting.group.mean
    return Distiller(student, teacher, structure, terms_of(kd), weight=weight, autocast=autocast, mean=mean)


def _origin(weights: str, kd: str) -> str:
    """The network that a pruned one was made of, which its checkpoint names: the nearest teacher it can have."""
    meta = load_checkpoint(weights).meta if Path(weights).suffix == ".pt" else {}
    if "from" not in meta:
        raise InputError(f"--KDstr {kd}: no teacher, and {weights or 'this network'} was not pruned; add --t_weights")
    return str(meta["from"])


def _unlabelled(setting: Setting, student: ModelSpec, batch_size: int) -> Loader[Any] | None:
    """Batches of ``--t_data``, augmented as the labelled are."""
    config, group = setting.config, setting.group
    if not config.t_data:
        return None
    return unlabelled_batches(
        Path(config.t_data),
        setting.manifest,
        setting.size,
        batch_size,
        cache=config.cache,
        seed=config.seed,
        channels=student.channels,
        grey=config.gray_scale,
        how=how_of(config),
        jpeg=jpeg_of(config),
        workers=config.workers,
        share=(group.rank, group.size),
    )


def _check_sizes(config: TrainConfig, student: ModelSpec, teacher: ModelSpec, size: tuple[int, int]) -> None:
    """See that the teacher takes every size of image the student is trained on."""
    step = granularity(teacher)
    if any(side % step for side in size):
        high, wide = size
        raise InputError(
            f"teacher: images of {high}x{wide} px do not divide by its largest stride, {step}; use another --img-size"
        )
    if (config.multi_scale or config.rect) and granularity(student) % step:
        raise InputError(f"teacher: takes multiples of {step} px only; leave --multi-scale and --rect away")
