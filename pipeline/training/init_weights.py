"""What a training run starts from: a cfg, Darknet weights or a checkpoint of ours, fitted to the data's classes."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from models import Darknet
from utils.cli import CFG
from utils.darknet.cfg import read_cfg
from utils.darknet.heads import head_convolutions, rehead
from utils.darknet.network import Checkpoint, Network, State, load_checkpoint
from utils.darknet.replace_activation import rewrite_activations
from utils.darknet.spec import Detect, ModelSpec
from utils.darknet.weights import read_weights
from utils.data.manifest import Manifest
from utils.detection.loss import prior_biases
from utils.errors import InputError
from utils.quantization.qat_checkpoint import KIND

log = logging.getLogger(__name__)

FRESH_REACH = 2.0  # scale_x_y of fresh heads: three cells answer for an object instead of one
# Keys of [net] that shape the network or the batch; Darknet's other ones are train.py's flags.
USED_KEYS = {"width", "height", "channels", "batch", "subdivisions"}


@dataclass(frozen=True)
class InitialNetwork:
    """A network with every tensor filled, the files it came from, and whether nothing of it was learned before."""

    network: Network
    files: tuple[Path, ...]
    scratch: bool
    reheaded: bool = False
    grey: bool = False


def start_of(args: argparse.Namespace, manifest: Manifest) -> InitialNetwork:
    """Read ``--cfg`` and ``--weights``; what they do not fill starts fresh, heads at their priors.

    Raises:
        InputError: the two do not belong together, or the heads are for another number of classes than the data.
    """
    if not args.weights:
        cfg = Path(args.cfg or CFG)
        spec = _fit_classes(read_cfg(cfg), manifest, str(cfg), args.pretrained)
        return _other_activation(args, InitialNetwork(fill(spec, {}), (cfg,), scratch=True))
    weights, grey = Path(args.weights), False
    if weights.suffix == ".pt":
        checkpoint = load_checkpoint(weights)
        network, files = _own(checkpoint, weights, args.cfg), [weights]
        grey = bool(checkpoint.meta.get("gray_scale"))
    else:
        cfg = Path(args.cfg or CFG)
        spec = read_cfg(cfg)
        read = read_weights(weights, spec, partial=args.pretrained)
        for note in read.left_out:
            log.info("%s: %s", weights, note)
        network, files = Network(spec, read.state), [cfg, weights]
    spec = _fit_classes(network.spec, manifest, str(files[0]), args.pretrained)
    state = network.state if spec == network.spec else _without_heads(network)
    start = InitialNetwork(fill(spec, state), tuple(files), scratch=not state, reheaded=spec != network.spec, grey=grey)
    return _other_activation(args, start)


def fill(spec: ModelSpec, state: State) -> Network:
    """The network with the given tensors, the others as torch starts them; fresh heads start at their priors."""
    model = Darknet(spec)
    own = model.state_dict()
    for i, j in head_convolutions(spec).items():
        head, key = spec.layers[i], f"layers.{j}.conv.bias"
        if key in own and isinstance(head, Detect):
            own[key] = prior_biases(head)
    return Network(spec, {**own, **state})


def tell_unused_keys(spec: ModelSpec) -> None:
    """Name, in one line, the keys of [net] that train.py does not follow."""
    unused = [key for key, _ in spec.net if key not in USED_KEYS]
    if unused:
        log.info("cfg [net]: %s not used; train.py's own flags and defaults apply", ", ".join(unused))


def _other_activation(args: argparse.Namespace, start: InitialNetwork) -> InitialNetwork:
    """The start with --act in its cfg."""
    act = args.act
    if not act:
        return start
    spec, changed = rewrite_activations(start.network.spec, act)
    log.info("--act %s: %d leaky activations rewritten; training adapts to it", act, changed)
    return replace(start, network=Network(spec, start.network.state))


def _own(checkpoint: Checkpoint, path: Path, cfg: str | None) -> Network:
    if checkpoint.kind not in ("float", KIND):
        raise InputError(
            f"{path}: a {checkpoint.kind} checkpoint can not be trained; give the float one it was made of"
        )
    if cfg and read_cfg(cfg) != checkpoint.network.spec:
        raise InputError(f"{path}: carries another structure than {cfg}; leave --cfg away, the checkpoint has its own")
    return checkpoint.network


def _fit_classes(spec: ModelSpec, manifest: Manifest, place: str, pretrained: bool) -> ModelSpec:
    classes = {layer.classes for layer in spec.layers if isinstance(layer, Detect)}
    if not classes:
        raise InputError(f"{place}: no [yolo] or [region] layer; train.py trains detectors")
    if classes == {manifest.classes}:
        return spec
    message = " and ".join(str(number) for number in sorted(classes))
    if not pretrained:
        raise InputError(
            f"{place}: heads for {message} classes, {manifest.path.name} has {manifest.classes}; "
            f"add -pt to give it fresh heads for {manifest.classes}, or change the cfg's filters and classes"
        )
    log.info("%s: heads for %s classes replaced by fresh ones for %d (-pt)", place, message, manifest.classes)
    return rehead(spec, manifest.classes, scale_x_y=FRESH_REACH)


def _without_heads(network: Network) -> State:
    heads = {str(j) for j in head_convolutions(network.spec).values()}
    return {key: value for key, value in network.state.items() if key.split(".")[1] not in heads}
