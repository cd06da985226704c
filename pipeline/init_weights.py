"""What a training or a chain starts from: a cfg, Darknet weights or a checkpoint, fitted to the data's classes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models import Darknet
from pipeline.session import RUNS, WEIGHTS, batch_size, image_size
from pipeline.spiking_training import as_hardware, as_spiking
from pipeline.tasks import check_serves, task_of
from utils.chain.budget import TrainingBudget
from utils.config.as_trained import data_of_task
from utils.config.pipeline import STAGES, PipelineConfig
from utils.config.run import CFG, RunConfig
from utils.config.train import TrainConfig
from utils.darknet.cfg import read_cfg
from utils.darknet.cfg_schema import EVENTS
from utils.darknet.heads import head_convolutions
from utils.darknet.memory import check_memory
from utils.darknet.network import WITH_STATE, Checkpoint, Network, State, load_checkpoint, resize_of
from utils.darknet.replace_activation import rewrite_activations
from utils.darknet.shapes import sizes
from utils.darknet.spec import Kernel, ModelSpec
from utils.darknet.training_words import epochs
from utils.darknet.weights import read_weights, tensors
from utils.darknet.words import FOLLOWED, unused_words
from utils.data.manifest import Manifest
from utils.errors import InputError
from utils.files import check_writable
from utils.quantization.dequantise import as_floats
from utils.quantization.qat_checkpoint import KIND
from utils.quantization.validate import check_supported
from utils.reporting.files import sha256, stamps
from utils.spiking.spike_schedule import check_spiking_spec
from utils.task import Task
from utils.training.build_optimizer import STEPS, Learning, nominal_batch
from utils.training.device import select_device

log = logging.getLogger(__name__)

# Keys of [net] that shape the network or the batch, and those that are followed; the other ones are train.py's flags.
USED_KEYS = {
    "width",
    "height",
    "channels",
    "batch",
    "subdivisions",
    "letter_box",
    "timesteps",
    "input",
    *EVENTS,
    *FOLLOWED,
}
QUANTISED = "quantised"
PRUNED = Path("cfg/pruned")


@dataclass(frozen=True)
class InitialNetwork:
    """A network, the files it came from, and whether nothing of it was learned before.

    Its state is whole once `fitted` has filled it. ``new_outputs``: they start fresh on a network that knows something.
    """

    network: Network
    files: tuple[Path, ...]
    scratch: bool
    new_outputs: bool = False
    grey: bool = False
    resize: str = "letterbox"
    thresholds: Mapping[int, float] | None = None  # of a quantised network: its highest levels by layer
    names: tuple[str, ...] = ()


def read_initial(config: TrainConfig) -> InitialNetwork:
    """Read ``--cfg`` and ``--weights`` as they are.

    Raises:
        InputError: the two do not belong together, or the checkpoint is of a kind that cannot be trained.
    """
    if not config.weights:
        cfg = Path(config.cfg or CFG)
        spec = read_cfg(cfg)
        return InitialNetwork(Network(spec, {}), (cfg,), scratch=True, resize=spec.resize_here)
    weights = Path(config.weights)
    if weights.suffix == ".pt":
        checkpoint = load_checkpoint(weights)
        grey, resize, names = bool(checkpoint.meta.get("gray_scale")), resize_of(checkpoint), checkpoint.names
        told: dict[str, Any] = {"scratch": False, "grey": grey, "resize": resize, "names": names}
        if config.spiking and checkpoint.kind in (KIND, QUANTISED):
            made = as_floats(checkpoint, str(weights))
            network, highest = (checkpoint.network if checkpoint.kind == KIND else made.network), made.highest
            return InitialNetwork(network, (weights,), thresholds=highest, **told)
        return InitialNetwork(_own(checkpoint, weights, config.cfg), (weights,), **told)
    cfg = Path(config.cfg or CFG)
    spec = read_cfg(cfg)
    read = read_weights(weights, spec, partial=config.pretrained)
    for note in read.left_out:
        log.info("%s: %s", weights, note)
    return InitialNetwork(Network(spec, read.state), (cfg, weights), scratch=False, resize=spec.resize)


def check_room(
    config: RunConfig, spec: ModelSpec, task: Task, manifest: Manifest, processes: int = 1, device: str = ""
) -> None:
    """Refuse a training run that does not fit the memory.

    Raises:
        InputError: so it is, the images' size is none for this network, or its batch norm would see one value.
    """
    images, size = len(task.listed(manifest.train)), image_size(config.size_asked, spec)
    batch = config.batch_size or min(batch_size(spec), max(1, images // STEPS))
    share = -(-min(batch, images) // processes)
    check_memory(spec, size, share, select_device(config.device or device), training=True)
    alone = next((i for i in _normed(spec) if sizes(spec, *size)[i] == (1, 1)), None)
    if alone is not None and 1 in (share, images % batch):
        raise InputError(
            f"layer {alone} (cfg line {spec.layers[alone].line}): batch norm would see one value, since its map has "
            f"1x1 px and {images} images in batches of {batch} leave one alone; use another --batch-size"
        )


def _normed(spec: ModelSpec) -> list[int]:
    """Layers whose batch norm sees a value a map's px and image of a batch."""
    return [i for i, layer in enumerate(spec.layers) if getattr(layer, "bn", False) or getattr(layer, "step_norm", 0)]


def fitted(read: InitialNetwork, config: TrainConfig, task: Task, manifest: Manifest) -> InitialNetwork:
    """The network for the data's classes, every tensor filled; what the files do not fill starts fresh.

    Raises:
        InputError: the outputs are for other classes than the data, and -pt is not given.
    """
    network = read.network
    spec = task.adapt(network.spec, manifest, str(read.files[0]), fresh=config.pretrained)
    changed = spec != network.spec or _other_classes(read, config, manifest)
    state = _without_outputs(network) if changed and not read.scratch else network.state
    spec = as_spiking(spec, config, read.thresholds) if config.spiking else spec
    spec = as_hardware(spec) if config.hw_friendly else spec
    made = replace(read, network=fill(spec, state, task), scratch=not state, new_outputs=changed and not read.scratch)
    if not config.act:
        return made
    rewritten = rewrite_activations(made.network, config.act)
    log.info("--act %s: %s; training adapts to it", config.act, rewritten.describe(config.act))
    return replace(made, network=rewritten.network)


def _other_classes(read: InitialNetwork, config: TrainConfig, manifest: Manifest) -> bool:
    """Whether the outputs are for as many classes as the data has, but for others.

    Raises:
        InputError: so it is, and -pt is not given.
    """
    if len(read.names) != manifest.classes or same_names(read.names, manifest.names):
        return False
    mine, own = ", ".join(read.names)[:80], ", ".join(manifest.names)[:80]
    if not config.pretrained:
        raise InputError(
            f"{read.files[0]}: knows {mine}, {manifest.path} has {own}, in this order; add -pt to give it fresh heads, "
            "or call and order the classes alike in its file of names"
        )
    log.info("%s: heads for %s replaced by fresh ones for %s (-pt)", read.files[0], mine, own)
    return True


def same_names(these: Sequence[str], those: Sequence[str]) -> bool:
    """Whether classes are the same and in one order, however people write blanks and capitals."""
    plain = [[name.casefold().replace("_", " ").replace("-", " ") for name in names] for names in (these, those)]
    return plain[0] == plain[1]


def fill(spec: ModelSpec, state: State, task: Task) -> Network:
    """The network with the given tensors, the others as torch starts them; fresh outputs start as the task says."""
    own = Darknet(spec).state_dict()
    fresh = {key: value for key, value in task.initial_state(spec).items() if key in own}
    return Network(spec, {**own, **fresh, **state})


def tell_unused_keys(spec: ModelSpec, task: Task) -> None:
    """Name, in one line each, the keys of [net] and the words of its layers that train.py does not follow."""
    layers = unused_words(spec, frozenset(USED_KEYS))
    if layers:
        log.info("cfg layers: %s steer Darknet's own training or display; kept, not followed", ", ".join(layers))
    unused = [key for key, _ in spec.net if key not in USED_KEYS | task.net_keys]
    if unused:
        log.info("cfg [net]: %s not used; train.py's own flags and defaults apply", ", ".join(unused))


def with_label_smoothing(network: Network, share: float) -> Network:
    """The network with ``label_smooth_eps`` in its [net], in place of what its cfg says."""
    net = tuple((key, value) for key, value in network.spec.net if key != "label_smooth_eps")
    spec = replace(network.spec, net=(*net, ("label_smooth_eps", f"{share:g}")))
    return Network(spec, network.state)


def with_length(config: TrainConfig, spec: ModelSpec) -> TrainConfig:
    """The config with the epochs that a cfg's ``max_epochs`` says, where --epochs does not."""
    length = epochs(spec)
    if not length or "epochs" in config.given:
        return config
    log.info("cfg [net]: max_epochs=%d; --epochs says otherwise", length)
    return replace(config, epochs=length)


def _own(checkpoint: Checkpoint, path: Path, cfg: str | None) -> Network:
    if checkpoint.kind not in ("float", KIND):
        raise InputError(
            f"{path}: a {checkpoint.kind} checkpoint can not be trained; give the float one it was made of"
        )
    if cfg and read_cfg(cfg) != checkpoint.network.spec:
        raise InputError(f"{path}: carries another structure than {cfg}; leave --cfg away, the checkpoint has its own")
    return checkpoint.network


def _without_outputs(network: Network) -> State:
    heads = {str(j) for j in head_convolutions(network.spec).values()}
    return {key: value for key, value in network.state.items() if key.split(".")[1] not in heads}


def training_batch(given: int | None, spec: ModelSpec, images: int) -> int:
    """Images at once in training: as given, or the network's; fewer where a small set would be over in two steps."""
    return given or min(batch_size(spec), max(1, images // STEPS))


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
    return TrainingBudget(images, how.schedule.steps, trained=bool(config.weights))


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
    """The config with the task's sample set as ``--data``, where nobody says another; so every stage is told it.

    Raises:
        InputError: as ``task_of_start``.
    """
    return data_of_task(config, task_of_start(config))


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


def fingerprint(files: Sequence[Path], words: Sequence[str]) -> str:
    """What a stage's outcome depends on: the bytes of its inputs and its flags.

    Raises:
        InputError: an input is missing.
    """
    message = json.dumps([*words, *(stamp["sha256"] for stamp in stamps(files))])
    return hashlib.sha256(message.encode()).hexdigest()
