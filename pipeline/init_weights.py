"""What a training starts from: cfg, Darknet weights, a checkpoint, a run that was cut; fitted to the data's classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models import Darknet
from pipeline.images import Setting, check_resize, check_room
from utils.config.as_trained import as_trained, data_of_task
from utils.config.begun import check_training
from utils.config.run import CFG
from utils.config.train import TrainConfig
from utils.darknet.cfg import read_cfg
from utils.darknet.cfg_schema import SHAPING
from utils.darknet.heads import head_convolutions
from utils.darknet.network import Checkpoint, Network, State, load_checkpoint, resize_of
from utils.darknet.neuron_cfg import HALF, with_neurons, with_rates, with_reach
from utils.darknet.neuron_spec import reach
from utils.darknet.replace_activation import rewrite_activations
from utils.darknet.shapes import image_size
from utils.darknet.sharing import tell_untied, tied, untied
from utils.darknet.spec import ModelSpec
from utils.darknet.training_words import epochs
from utils.darknet.weights import read_weights
from utils.darknet.words import FOLLOWED, unused_words
from utils.data.manifest import Manifest
from utils.data.text import same_names
from utils.errors import InputError
from utils.files import hold, holder
from utils.pruning.penalty import initial_gammas
from utils.quantization.activation_qparams import QParams
from utils.quantization.dequantise import as_floats
from utils.quantization.neuron_start import fitted as fitted_neurons
from utils.quantization.qat_checkpoint import KIND
from utils.reporting.runs import WEIGHTS
from utils.spiking.snn_checkpoint import converted
from utils.task import Task
from utils.tasks import check_idle, task_of
from utils.temporal.hardware import for_hardware
from utils.temporal.neurons import check_rounding
from utils.training.device import select_device, select_precision
from utils.training.distributed import Group, main_first
from utils.training.random_state import seed_all

log = logging.getLogger(__name__)

# Keys of [net] that shape the network or the batch, and those that are followed; the other ones are train.py's flags.
USED_KEYS = SHAPING["net"] | frozenset(FOLLOWED)
QUANTISED = "quantised"


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
    jpeg: str = "full"
    grids: Mapping[int, QParams] | None = None  # of a quantised network: its levels by layer
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
        told["jpeg"] = str(checkpoint.meta.get("jpeg", "full"))
        if config.spiking and (checkpoint.kind in (KIND, QUANTISED) or converted(checkpoint, str(weights))):
            made = as_floats(checkpoint, str(weights))
            network = checkpoint.network if checkpoint.kind == KIND else made.network
            return InitialNetwork(network, (weights,), grids=made.grids, **told)
        return InitialNetwork(_own(checkpoint, weights, config.cfg), (weights,), **told)
    cfg = Path(config.cfg or CFG)
    spec = read_cfg(cfg)
    read = read_weights(weights, spec, partial=config.pretrained)
    for note in read.left_out:
        log.info("%s: %s", weights, note)
    return InitialNetwork(Network(spec, read.state), (cfg, weights), scratch=False, resize=spec.resize)


def fitted(read: InitialNetwork, config: TrainConfig, task: Task, manifest: Manifest) -> InitialNetwork:
    """The network for the data's classes, every tensor filled; what the files do not fill starts fresh.

    Raises:
        InputError: the outputs are for other classes than the data, and -pt is not given.
    """
    network = read.network
    spec = task.adapt(network.spec, manifest, str(read.files[0]), fresh=config.pretrained)
    changed = spec != network.spec or _other_classes(read, config, manifest)
    state = _without_outputs(network) if changed and not read.scratch else network.state
    spec = as_spiking(spec, config, read.grids, fresh=read.scratch) if config.spiking else spec
    spec = as_hardware(spec) if config.hw_friendly else spec
    made = replace(read, network=fill(spec, state, task), scratch=not state, new_outputs=changed and not read.scratch)
    if not config.act:
        return made
    rewritten = rewrite_activations(made.network, config.act)
    log.info("--act %s: %s; training adapts to it", config.act, rewritten.describe(config.act))
    return replace(made, network=rewritten.network)


def start_of(read: InitialNetwork, config: TrainConfig, task: Task, manifest: Manifest) -> InitialNetwork:
    """The network fitted and made ready as the flags say; what of its cfg is not followed is told."""
    start = fitted(read, config, task, manifest)
    tell_unused_keys(start.network.spec, task)
    if config.sparse or config.quantized:
        tell_untied(start.network.spec, str(start.files[0]))
        start = replace(start, network=untied(start.network))
    if config.label_smoothing is not None:  # as a cfg would say it, so that the network remembers
        start = replace(start, network=with_label_smoothing(start.network, config.label_smoothing))
    halved = config.sparse and start.scratch and not start.network.spec.neurons  # theirs start at the threshold
    return replace(start, network=initial_gammas(start.network)) if halved else start


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


def fill(spec: ModelSpec, state: State, task: Task) -> Network:
    """The network with the given tensors, the others as torch starts them; fresh outputs start as the task says."""
    own = Darknet(spec).state_dict()
    fresh = {key: value for key, value in task.initial_state(spec).items() if key in own}
    return tied(Network(spec, {**own, **fresh, **state}))


def tell_unused_keys(spec: ModelSpec, task: Task) -> None:
    """Name, in one line each, the keys of [net] and the words of its layers that train.py does not follow."""
    layers = unused_words(spec, USED_KEYS)
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


LEVELS = 4  # of an ilif where nobody says: NeuronSpec.levels


def as_spiking(spec: ModelSpec, config: TrainConfig, grids: Mapping[int, QParams] | None, *, fresh: bool) -> ModelSpec:
    """The network with --spiking's neurons; with as many levels as a quantised one has, its steps are theirs.

    A lif forgets little, so that its rates stand for floats; of a ``fresh`` network it fires at every step where its
    current is as high as T levels should reach.

    Raises:
        InputError: the network is quantised, and the neurons are of a kind that has no levels.
    """
    kind, levels = config.spiking or "", config.levels or LEVELS
    if grids is not None and kind != "ilif":
        raise InputError(
            f"--spiking {kind}: the thresholds of a quantised network are those of an ilif; use --spiking ilif, or the "
            "float network it was made of"
        )
    same = {i: grid.scale for i, grid in (grids or {}).items() if levels >= grid.qmax}
    signed = config.signed or None
    made = with_neurons(spec, kind, config.steps, levels=config.levels, signed=signed, thresholds=same)
    if kind == "lif" and not signed:
        made = with_rates(made, start=0.0 if config.at_rest or config.hw_friendly else HALF)
        made = with_reach(made, dict.fromkeys(made.neurons, reach(config.steps))) if fresh else made
    converted = ", thresholds those of the quantised network" if same else ""
    log.info("--spiking %s: %d layers of neurons, T = %d%s", kind, len(made.neurons), config.steps, converted)
    return made


def with_fitted_neurons(start: InitialNetwork, setting: Setting) -> InitialNetwork:
    """The network that --spiking starts from, its neurons fitted to what it knows, so that little is lost at once."""
    if not setting.config.spiking or start.scratch:
        return start
    network, words = fitted_neurons(start.network, setting.calibration)
    if words:
        log.info("--spiking %s: %s", setting.config.spiking, words)
    return replace(start, network=network)


def as_hardware(spec: ModelSpec) -> ModelSpec:
    """The network with weights of 8 bits, for --hw-friendly.

    Raises:
        InputError: it has no neurons, or something that takes more than shifts, sums and comparisons.
    """
    if not spec.neurons:
        raise InputError(
            "--hw-friendly: the network has no neurons; add --spiking lif, or --quantized pow2 for integers"
        )
    made = for_hardware(spec)
    log.info("--hw-friendly: %d layers with weights of 8 bits; decays and thresholds are shifts", len(made.kernels))
    return made


def cut_run(config: TrainConfig) -> Path:
    """The checkpoint to go on from, ours alone now: the one named, or the newest last*.pt of a run that was cut.

    Raises:
        InputError: there is none, the run came to its end, or another process is at it.
    """
    newest = sorted(WEIGHTS.glob("last*.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest if config.resume == "newest" else [Path(config.resume or "")]:
        checkpoint = load_checkpoint(path)
        if checkpoint.training:
            check_training(checkpoint.training, path)
        if checkpoint.training and hold(path):
            after = checkpoint.training["progress"]["epochs"]
            log.info("resume: %s, after epoch %d", path, after, extra={"always": True})
            return path
        if checkpoint.training and config.resume != "newest":
            raise InputError(f"{path}: {holder(path)} is training it; wait for its end, or end it")
        if config.resume != "newest":
            raise InputError(f"{path}: this run came to its end; train on with --weights {path}")
    raise InputError(f"--resume: no run in {WEIGHTS}/ was cut; start one without --resume")


def begin(config: TrainConfig, saved: Checkpoint | None, group: Group) -> tuple[InitialNetwork, Setting]:
    """The network that a run starts or goes on from, and where it is trained."""
    read = InitialNetwork(saved.network, (), scratch=False) if saved else read_initial(config)
    task = task_of(read.network.spec, str(read.files[0]) if read.files else "cfg")
    check_idle(task, config.given)
    config = data_of_task(config, task)
    main_first(group, lambda: task.open_data(config.data))
    manifest = task.open_data(config.data)
    check_room(config, read.network.spec, task, manifest, group.size, group.device)
    check_resize(config, manifest, image_size(config.size_asked, read.network.spec))
    seed_all(config.seed)
    start = read if saved else start_of(read, config, task, manifest)
    check_rounding(start.network.spec, config.round_from)
    task.loss(start.network.spec)  # what cannot be trained is refused before there is a folder
    if start.network.spec.timesteps > read.network.spec.timesteps:  # --spiking: each step is kept
        check_room(config, start.network.spec, task, manifest, group.size, group.device)
    config = config if saved else with_length(config, start.network.spec)
    config = as_trained(config, grey=start.grey, resize=start.resize, jpeg=start.jpeg)
    size = image_size(config.size_asked, start.network.spec)
    precision = select_precision(select_device(config.device or group.device), config.precision)
    setting = Setting(config=config, task=task, manifest=manifest, size=size, precision=precision, group=group)
    return (start if saved else with_fitted_neurons(start, setting)), setting
