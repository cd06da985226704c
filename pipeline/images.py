"""The images of a set as a network takes them: to train on, to validate on, to calibrate on."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.config.as_trained import how_of, jpeg_of
from utils.config.run import RunConfig
from utils.config.train import AUTO, TrainConfig
from utils.darknet.counts import count
from utils.darknet.memory import check_memory
from utils.darknet.network import Network
from utils.darknet.shapes import granularity, image_size, sizes
from utils.darknet.spec import ModelSpec
from utils.darknet.training_words import batch_size
from utils.data.batch_sizes import several_sizes
from utils.data.dali import DaliLoader
from utils.data.dataset import Unreadable
from utils.data.event_clips import fit_sensor
from utils.data.event_frames import FrameRule
from utils.data.images import Size
from utils.data.loader import Loader, make_loader
from utils.data.manifest import Manifest, read_list
from utils.data.plain_images import BareFolder, BareImages
from utils.data.recordings import holds_recordings, open_recording
from utils.errors import InputError
from utils.task import Task
from utils.temporal.execution import clock_of
from utils.training.device import Precision, faster_precision, select_device, select_precision, trial_step
from utils.training.distributed import Group
from utils.training.schedule import STEPS

log = logging.getLogger(__name__)

CALIBRATION, BATCH = 128, 16  # training images that ranges start from
MOMENT = 2_000_000_000  # multiplications: a step of so many takes a tenth of a second or two


def check_resize(config: RunConfig, manifest: Manifest, size: tuple[int, int]) -> None:
    """Refuse ``--resize`` where nothing is fitted.

    Raises:
        InputError: the set is of recordings, and their sensor's px are those of the network's image.
    """
    if "resize" not in config.given or isinstance(manifest, BareFolder) or not holds_recordings(manifest.valid):
        return
    sensor = open_recording(read_list(manifest.valid)[0]).size
    if fit_sensor(sensor, size, "letterbox") == fit_sensor(sensor, size, "stretch"):
        raise InputError(
            f"--resize: the events of {manifest.valid} keep their px in {size[0]}x{size[1]}; leave it away"
        )


def dataset_of(
    config: RunConfig,
    task: Task,
    manifest: Manifest,
    spec: ModelSpec,
    size: tuple[int, int],
    *,
    images: Path | None = None,
    cache: str | None = None,
    augment: Any = False,
    unreadable: Unreadable | None = None,
    largest: Size | None = None,
) -> Any:
    """The images of a list (by default those to train on) as this network takes them.

    What cannot be read is skipped alike in every script: dropped from a list that is measured on, replaced by another
    image in one to train on; a loader tells each, and more than 1 % of them are an error.
    """
    if isinstance(manifest, BareFolder):
        return BareImages(
            images or manifest.train,
            size,
            seed=config.seed,
            channels=spec.channels,
            grey=config.gray_scale,
            how=how_of(config),
            jpeg=jpeg_of(config),
            unreadable=unreadable or ("drop" if images else "replace"),
        )
    return task.dataset(
        manifest,
        images or manifest.train,
        size,
        cache=cache or config.cache,
        seed=config.seed,
        channels=spec.channels,
        grey=config.gray_scale,
        how=how_of(config),
        jpeg=jpeg_of(config),
        largest=largest,
        augment=augment,
        unreadable=unreadable or ("drop" if images else "replace"),
        frames=frame_rule(spec),
    )


def frame_rule(spec: ModelSpec) -> FrameRule | None:
    """How a network is shown recordings; None where it takes images."""
    return FrameRule.of(dict(spec.net), spec.timesteps) if spec.input_frames else None


def check_room(
    config: RunConfig, spec: ModelSpec, task: Task, manifest: Manifest, processes: int = 1, device: str = ""
) -> None:
    """Refuse a training run that does not fit the memory.

    Raises:
        InputError: so it is, the images' size is none for this network, or its batch norm would see one value.
    """
    images, size = len(task.listed(manifest.train)), image_size(config.size_asked, spec)
    batch = training_batch(config.batch_size, spec, images)
    share = -(-min(batch, images) // processes)
    segments = (config.fptt_k or spec.timesteps) if isinstance(config, TrainConfig) and config.trainer == "fptt" else 1
    check_memory(
        spec,
        size,
        share,
        select_device(config.device or device),
        training=True,
        steps=-(-spec.timesteps // segments),
        timed=clock_of(spec, frames=spec.input_frames).timed,
    )
    alone = next((i for i in _normed(spec) if sizes(spec, *size)[i] == (1, 1)), None)
    if alone is not None and 1 in (share, images % batch):
        raise InputError(
            f"layer {alone} (cfg line {spec.layers[alone].line}): batch norm would see one value, since its map has "
            f"1x1 px and {images} images in batches of {batch} leave one alone; use another --batch-size"
        )


def _normed(spec: ModelSpec) -> list[int]:
    """Layers whose batch norm sees a value a map's px and image of a batch."""
    return [i for i, layer in enumerate(spec.layers) if getattr(layer, "bn", False) or getattr(layer, "step_norm", 0)]


def training_batch(given: int | None, spec: ModelSpec, images: int) -> int:
    """Images at once in training: as given, or the network's; fewer where a small set would be over in two steps."""
    return given or min(batch_size(spec), max(1, images // STEPS))


def facts_of(task: Task, manifest: Manifest) -> dict[str, Any]:
    """How many images each list has, and a digest of their names; a checkpoint keeps it."""
    found = {}
    for split, place in (("training", manifest.train), ("validation", manifest.valid)):
        names = [image.name for image in task.listed(place)]
        found[split] = {"images": len(names), "digest": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    return found


@dataclass(kw_only=True)
class Setting:
    """What a training works with, whatever it learns: its flags, the task, data, images' size, device, processes."""

    config: TrainConfig
    task: Task
    manifest: Manifest
    size: tuple[int, int]
    precision: Precision
    group: Group

    def dataset(self, spec: ModelSpec, **how: Any) -> Any:
        """The images of a list as a network of this structure takes them, as ``dataset_of``."""
        return dataset_of(self.config, self.task, self.manifest, spec, self.size, **how)

    def calibration(self, network: Network) -> list[Tensor]:
        """The first training images of a seeded order as inference sees them, batches [N,C,H,W] in 0..1."""
        dataset = self.dataset(network.spec, cache="off")
        loader = make_loader(dataset, min(BATCH, len(dataset)), workers=0, shuffle=True, seed=self.config.seed)
        batches = islice(loader, CALIBRATION // BATCH)
        return [self.task.inputs(batch, torch.device("cpu")) for batch in batches]


def with_precision(setting: Setting, model: nn.Module, batch: int) -> Setting:
    """The setting with a precision that was measured, where the CPU multiplies bf16 and nobody said one.

    The config has its name then, so that a run that is resumed goes on in it.

    Args:
        setting: of the run.
        model: what is to be trained; it stays as it is.
        batch: images of a step.
    """
    config, precision, group = setting.config, setting.precision, setting.group
    if config.precision != AUTO or precision.device.type != "cpu" or precision.dtype is None:
        return setting
    name = group.shared(_measured_precision(setting, model, batch) if group.is_main else "")
    precision = select_precision(precision.device, name)
    return replace(setting, precision=precision, config=replace(config, precision=name))


def _measured_precision(setting: Setting, model: Any, batch: int) -> str:
    """Forward and backward of a copy of the model on the first training images, of as many as take a moment."""
    macs = count(model.spec, setting.size).macs * (model.spec.timesteps if model.spec.stateful else 1)
    images = max(min(batch, 2), min(batch, MOMENT // max(1, macs)))
    dataset = setting.dataset(model.spec, cache="off")
    with torch.random.fork_rng():
        x = setting.task.inputs(next(iter(make_loader(dataset, images, workers=0))), torch.device("cpu"))
        copied = setting.precision.place(copy.deepcopy(model)).train()

        chosen = faster_precision(partial(trial_step, copied, x))
    log.info("--precision auto: %s a step of a batch of %d: %s", chosen.words, len(x), chosen.name)
    return chosen.name


def loaders(setting: Setting, spec: ModelSpec) -> tuple[Loader[Any], Loader[Any]]:
    """Training and validation batches; ``--batch-size`` is that of all processes together.

    Raises:
        InputError: there are more processes than images in a batch.
    """
    config, group = setting.config, setting.group
    share, step = (group.rank, group.size), granularity(spec)
    dali = config.loader == "dali"
    if dali and jpeg_of(config) == "reduced":
        raise InputError("--jpeg reduced: DALI decodes whole images; add --jpeg full, or use --loader torch")
    augment = setting.task.augmentation(setting.manifest, config.mosaic, mixup=config.mixup, cutmix=config.cutmix)
    sides = several_sizes(config.sides, setting.size, step) if config.multi_scale else []
    largest = max([setting.size, *sides], key=math.prod)
    seen = setting.dataset(spec, augment=augment, cache="off" if dali else None, largest=largest)
    batch = training_batch(config.batch_size, spec, len(seen))
    if batch < group.size:
        raise InputError(f"--batch-size: {batch} images for {group.size} processes; use at least one for each")
    train = make_loader(
        seen,
        batch,
        share=share,
        workers=config.workers,
        shuffle=True,
        seed=config.seed,
        rect=step if config.rect else 0,
        sizes=sides,
        kind=partial(DaliLoader, device=setting.precision.device) if dali else None,
    )
    looked_at = setting.dataset(spec, images=setting.manifest.valid)
    valid = make_loader(looked_at, batch, workers=config.workers, share=share)
    return train, valid
