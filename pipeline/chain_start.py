"""What a chain starts from and is checked by before any stage runs: structure, task, data, how long each trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pipeline.images import check_room, training_batch
from utils.chain.budget import TrainingBudget
from utils.config.as_trained import data_of_task
from utils.config.pipeline import STAGES, PipelineConfig
from utils.config.prune import FLAGS, BlocksConfig
from utils.config.run import CFG
from utils.config.train import TrainConfig
from utils.darknet.cfg import read_cfg
from utils.darknet.network import WITH_STATE, Network, load_checkpoint
from utils.darknet.replace_activation import rewrite_activations
from utils.darknet.spec import Kernel, ModelSpec
from utils.darknet.weights import read_weights, tensors
from utils.data.manifest import Manifest
from utils.distillation.strategies import USUAL_OF_SCORES
from utils.errors import InputError
from utils.export.choices import ENGINES
from utils.export.engine.target import part_of
from utils.files import check_writable
from utils.pruning.blocks import some_blocks
from utils.quantization.validate import check_supported
from utils.reporting.files import fingerprint, sha256
from utils.reporting.runs import RUNS, WEIGHTS
from utils.spiking.spike_schedule import check_spiking_spec
from utils.task import Task
from utils.tasks import check_serves, task_of
from utils.training.build_optimizer import Learning, nominal_batch

PRUNED = Path("cfg/pruned")


def budget_of(config: PipelineConfig) -> TrainingBudget:
    """What the network and the data say of how long to train.

    Raises:
        InputError: one of them is not there or contradicts itself.
    """
    spec, task = spec_of_start(config), task_of_start(config)
    images = len(task.listed(task.open_data(config.data).train))
    batch = training_batch(config.batch_size, spec, images)
    batches = -(-images // batch)
    how = Learning(lr=1.0, epochs=1, batches=batches, batch_size=batch, nominal=nominal_batch(spec.batch))
    return TrainingBudget(images, how.schedule.steps, trained=bool(config.weights), learnt=_learnt(config))


def _learnt(config: PipelineConfig) -> int:
    """For how many epochs a checkpoint of train.py has learnt from ``--data``; 0 of other weights and other data."""
    if not config.weights.endswith(".pt"):
        return 0
    known = load_checkpoint(config.weights).meta
    return int(known.get("epoch", 0)) if known.get("data") == config.data else 0


def check_start(config: PipelineConfig) -> None:
    """Refuse Darknet weights that are not this cfg's: neither whole, nor for other classes, nor its first layers.

    A pruned network's file, for example, fills the first layers of the full one with numbers of other layers.

    Raises:
        InputError: so it is, and ``-pt`` does not ask for whatever fits.
    """
    path = Path(config.weights)
    if not config.weights or path.suffix == ".pt" or config.pretrained:
        return
    spec = read_cfg(config.cfg or CFG)
    try:
        read_weights(path, spec)
    except InputError as error:
        hint = " (--cfg of a pruned network lies in cfg/pruned/)" if "bytes" in str(error) else ""
        if not _begins_with(path, spec):
            raise InputError(f"{error}{hint}") from error


def _begins_with(path: Path, spec: ModelSpec) -> bool:
    """Whether the file's numbers are those of the network's first layers, or of all but its outputs."""
    try:
        return not any("fit no layer" in note for note in read_weights(path, spec, partial=True).left_out)
    except InputError:  # numbers of other layers, which as a variance, say, are negative
        return False


def task_of_start(config: PipelineConfig | TrainConfig) -> Task:
    """The task of the network that the chain starts from.

    Raises:
        InputError: it is not there, cannot be read, or has no output that a task knows.
    """
    place = config.weights if _own_cfg(config) else config.cfg or CFG
    task = task_of(spec_of_start(config), place)
    check_serves(task, place)
    return task


def with_data(config: PipelineConfig) -> PipelineConfig:
    """The config with the task's sample set as ``--data`` and its usual ``--KDstr``, where nobody says another.

    So every stage is told them, and the report names what is taught.

    Raises:
        InputError: as ``task_of_start``.
    """
    task = task_of_start(config)
    if task.name != "detection" and "kd" not in config.given:
        config = replace(config, kd=USUAL_OF_SCORES)
    return data_of_task(config, task)


def check_chain(config: PipelineConfig) -> None:
    """Refuse what a later stage would refuse: data, sizes, memory, folders, and what integers and spikes cannot do.

    Raises:
        InputError: what that stage would say, or which folder cannot be written.
    """
    last = STAGES.index(config.until or STAGES[-1])
    spec, task = spec_of_start(config), task_of_start(config)
    check_room(config, spec, task, task.open_data(config.data))
    if config.act:
        empty = {key: torch.zeros(shape) for _, key, shape in tensors(spec)}
        spec = rewrite_activations(Network(spec, empty), config.act).network.spec
    takes_blocks = last >= STAGES.index("pruned") and issubclass(FLAGS[config.strategy].config, BlocksConfig)
    if takes_blocks and config.shortcuts > len(found := some_blocks(spec)):
        raise InputError(f"--shortcuts: {config.shortcuts} blocks of {len(found)}; take out fewer")
    if config.target:
        part_of(config.target, ENGINES[0])
    if last >= STAGES.index("quantised"):
        layers = [replace(layer, bn=False) if isinstance(layer, Kernel) else layer for layer in spec.layers]
        check_supported(replace(spec, layers=tuple(layers)))
    if last >= STAGES.index("spiking"):
        check_spiking_spec(spec)
    check_writable(RUNS, WEIGHTS, *([PRUNED] if last >= STAGES.index("pruned") else []))


def spec_of_start(config: PipelineConfig | TrainConfig) -> ModelSpec:
    """The structure that the chain starts from.

    Raises:
        InputError: it is not there, cannot be read, or is none that can be trained.
    """
    if config.cfg is not None or not config.weights.endswith(".pt"):
        return read_cfg(config.cfg or CFG)
    checkpoint = load_checkpoint(config.weights)
    if checkpoint.kind not in WITH_STATE:
        raise InputError(
            f"{config.weights}: a {checkpoint.kind} checkpoint can not be trained; give the float one it was made of"
        )
    return checkpoint.network.spec


def _own_cfg(config: PipelineConfig | TrainConfig) -> bool:
    return config.cfg is None and config.weights.endswith(".pt")


def fingerprint_of_data(config: PipelineConfig | TrainConfig) -> str:
    """What ``--data`` says, names and sizes of its images, bytes of their labels; the sample set is composed first.

    Raises:
        InputError: the data set is not there or contradicts itself.
    """
    task = task_of_start(config)
    return _data_fingerprint(task, task.open_data(config.data))


def _data_fingerprint(task: Task, manifest: Manifest) -> str:
    """Names and sizes of the images, bytes of their labels; pixels would take minutes to read in a large set."""
    message = [str(replace(manifest, path=Path(), train=Path(), valid=Path(), labels=None))]
    for image in [*task.listed(manifest.train), *task.listed(manifest.valid)]:
        labels = task.label_file(image, manifest)
        message.append(f"{image.name} {image.stat().st_size if image.is_file() else None}")
        message.append(sha256(labels) if labels.is_file() else labels.name if labels.is_dir() else "")
    return fingerprint([], message)
