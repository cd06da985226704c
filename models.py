"""Darknet: a ModelSpec as torch modules, and the one door through which every script loads a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS, linear
from utils.darknet.cfg import read_cfg
from utils.darknet.forward import without_tensors
from utils.darknet.implicit import fold_implicit
from utils.darknet.modules import ImplicitValues, Stateless, WeightedSum, conv_and_bn, convolve
from utils.darknet.network import Checkpoint, Network, load_checkpoint, resize_of
from utils.darknet.onnx_model import open_onnx
from utils.darknet.ops import activation_of
from utils.darknet.shapes import channels
from utils.darknet.sharing import tell_untied, untied
from utils.darknet.walk import rule, run
from utils.darknet.weights import read_weights
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int_checkpoint import integer_of
from utils.quantization.integer import IntegerNetwork
from utils.quantization.qat_checkpoint import as_integers
from utils.spiking.snn_checkpoint import open_spiking
from utils.temporal.execution import Clock, Memories, Passage, clock_of, initial_beta, initial_gamma
from utils.temporal.hardware import INT8, check_hardware, count_levels, on_its_grid
from utils.temporal.neurons import make_neuron
from utils.temporal.recurrence import make_recurrence
from utils.temporal.straight_through import binary_weight, sharpness_at


class ConvBlock(nn.Module):
    """Convolution or transposed one, batch norm where the cfg asks for it, activation unless it keeps state."""

    def __init__(self, layer: s.Kernel, in_channels: int) -> None:
        super().__init__()
        self.layer = layer
        self.conv, self.bn = conv_and_bn(layer, in_channels)
        self.activation = ACTIVATIONS.get(layer.activation, linear)
        self.sharpness = sharpness_at(0.0)  # of binary weights' gradient; a function of the training's progress
        self.levels = 1  # of what it reads, where weights are rounded to whole numbers: 255 of an image

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H', W']."""
        if self.layer.weight_quant == INT8:
            return on_its_grid(self.layer, self, x)
        if self.layer.weight_quant == "binary":
            x = convolve(self.layer, x, binary_weight(self.conv.weight, self.sharpness), self.conv.bias)
        else:
            x = self.conv(x)
        return self.activation(x if self.bn is None else self.bn(x))


class SqueezeExcite(nn.Module):
    """The reference's ``[se]``: two matrices without bias, hard sigmoid."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, squeeze, bias=False)
        self.fc2 = nn.Linear(squeeze, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same, every channel scaled by 0..1."""
        gate = F.hardsigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Darknet(nn.Module):
    """The network a cfg describes.

    ``forward`` takes [N, C, H, W] in 0..1 and returns each head's raw map [N, masks * (5 + classes), h, w], in cfg
    order; decoding is utils/detection's. ``activations`` returns the output of every layer instead.

    With neurons that keep state it runs ``timesteps`` steps from rest, over one image or over frames [N, T, C, H, W],
    and a head's map is the mean over them, that of [sequence] all of them; ``advance`` goes on from a state. Its
    activations are [T * N, C, H, W] from the first neuron on.
    """

    def __init__(self, spec: s.ModelSpec) -> None:
        super().__init__()
        check_hardware(spec)
        self.spec = spec
        width = channels(spec)
        self.layers = nn.ModuleDict()
        for i, layer in enumerate(spec.layers):
            module = rule(MODULES, layer, "module")(layer, width[layer.sources[0]])
            if i in spec.neurons:
                module = module or Stateless(layer)
                module.add_module("neuron", make_neuron(spec.neurons[i], width[i]))
            if i in spec.recurrent:
                module = nn.Identity()
                module.add_module("neuron", make_recurrence(spec, i, width[layer.sources[0]]))
            if module is not None:
                self.layers[str(i)] = module
        count_levels(spec, self.layers)
        for i in spec.normed:
            gamma = initial_gamma(spec, i)
            if gamma is not None:
                nn.init.constant_(self.layers[str(i)].bn.weight, gamma)  # type: ignore[union-attr, arg-type]
                nn.init.constant_(self.layers[str(i)].bn.bias, initial_beta(spec, i))  # type: ignore[union-attr, arg-type]
        self.timesteps = spec.timesteps
        self.clocks: Mapping[bool, Clock] = {
            frames: clock_of(spec, frames=frames) for frames in (False, True) if spec.stateful
        }

    def forward(self, x: Tensor, memory: Memories | None = None, steps: int = 0) -> Any:
        """[N, C, H, W] in 0..1, or frames -> raw head maps; with ``steps`` as `advance`, for wrappers of a module."""
        if steps:
            return self.advance(x, memory or {}, steps)
        if self.spec.stateful:
            return self.advance(x, {}, 1 if self._alike() else self.timesteps)[0]
        out = run(self.spec, x, self._step, keep=self.spec.heads)
        return [out[i] for i in self.spec.heads]

    def _alike(self) -> bool:
        """Whether every step would be the first again: a still image, and neurons that send rates (`let_round`)."""
        neurons = [module.neuron for module in self.layers.values() if hasattr(module, "neuron")]
        return not self.spec.input_frames and all(getattr(each, "sends_rates", False) for each in neurons)

    def advance(self, x: Tensor, memory: Memories, steps: int) -> tuple[list[Tensor], Memories]:
        """So many steps on: the means of the raw head maps over them, and the state behind them.

        Args:
            x: [N, C, H, W] in 0..1, shown at every step, or [N, steps, C, H, W].
            memory: the state before, empty at rest.
            steps: how many; those of x, where it has some.
        """
        passage = Passage(self.clocks, x, steps, memory, frames=self.spec.input_frames)
        out = self._through_time(passage, self.spec.heads)
        return [passage.read(i, out[i]) for i in self.spec.heads], passage.after

    def watch(
        self, x: Tensor, memory: Memories, steps: int, still: dict[int, Tensor] | None = None
    ) -> tuple[list[Tensor], Memories, dict[int, Tensor]]:
        """As `advance`, and what every layer of neurons sends, [steps, N, C, H, W] by its number.

        ``still`` takes what is the same at every step, by layer, and spares the call of a later step to compute it.
        """
        passage = Passage(self.clocks, x, steps, memory, frames=self.spec.input_frames, still=still)
        out = self._through_time(passage, (*self.spec.heads, *self.spec.neurons))
        sent = {i: out[i].unflatten(0, (passage.steps, -1)) for i in self.spec.neurons}
        return [out[i] for i in self.spec.heads], passage.after, sent

    def activations(self, x: Tensor) -> dict[int, Tensor]:
        """[N, C, H, W] in 0..1 -> the output of every layer by number, the image itself as -1."""
        if self.spec.stateful:
            passage = Passage(self.clocks, x, self.timesteps, {}, frames=self.spec.input_frames)
            return self._through_time(passage, None)
        return run(self.spec, x, self._step)

    def _through_time(self, passage: Passage, keep: Collection[int] | None) -> dict[int, Tensor]:
        def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
            value = passage.once(i, layer, given, self._step)
            neuron = getattr(self.layers[str(i)], "neuron", None) if str(i) in self.layers else None
            return value if neuron is None else passage.fire(i, layer, neuron, value)

        return run(self.spec, passage.image, step, keep=keep)

    def _step(self, i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        if str(i) in self.layers:
            return self.layers[str(i)](*given)
        return ACTIVATIONS[activation_of(layer)](without_tensors(layer, given))


MODULES: dict[type[s.Layer], Callable[[Any, int], nn.Module | None]] = {  # (layer, channels in) -> what has tensors
    s.Kernel: ConvBlock,
    s.SqueezeExcite: lambda layer, width: SqueezeExcite(width, layer.squeeze),
    s.Implicit: lambda layer, width: ImplicitValues(layer),
    s.Shortcut: lambda layer, width: WeightedSum(layer, width) if layer.weighted else None,
    s.Dropout: lambda layer, width: nn.Dropout(layer.probability),
    s.Layer: lambda layer, width: None,
}


def build(network: Network) -> Darknet:
    """The network as a module in eval mode, its tensors loaded.

    Raises:
        ValueError: the state lacks or adds tensors, or a shape differs.
    """
    model = Darknet(network.spec)
    missing, unexpected = model.load_state_dict(network.state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"the state does not fit the spec: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return model.eval()


def network_of(model: Darknet) -> Network:
    """The module's structure and a copy of its tensors, laid out as torch does by default."""
    plain = torch.contiguous_format
    return Network(model.spec, {k: v.detach().cpu().clone(memory_format=plain) for k, v in model.state_dict().items()})


@dataclass(frozen=True)
class Loaded:
    """What a weights file holds, ready to run.

    ``predictor`` takes [N, C, H, W] in 0..1 and returns raw head maps, whatever its kind: ``float`` (trained or
    pruned), ``quantised`` (integers) or ``spiking`` (in the mode it was made in). ``network`` is the float network and
    None for the other two, which hold ``integer`` instead; spikes in rate mode have neither. ``size`` is the (height,
    width) in px it was made for; ``grey`` says that it was trained on grey images in three channels; ``resize``, how
    images were fitted into its own: "letterbox" or "stretch"; ``jpeg``, how JPEGs
    were decoded: "full" or "reduced"; ``data``, what ``--data`` was, "" where nobody knows.
    """

    predictor: nn.Module
    spec: s.ModelSpec
    kind: str
    names: tuple[str, ...]
    size: tuple[int, int]
    path: Path
    network: Network | None = None
    integer: IntegerNetwork | None = None
    grey: bool = False
    resize: str = "letterbox"
    jpeg: str = "full"
    data: str = ""
    cfg: Path | None = None  # the file of its structure, where that is another one


def load_model(weights: str | Path, cfg: str | Path | None = None) -> Loaded:
    """The one door: ``.weights`` (with its cfg), or any checkpoint or ``.onnx`` of ours, which carry their own.

    Raises:
        InputError: the file is missing, damaged or does not fit the cfg, or the kind of the checkpoint is unknown.
    """
    path = Path(weights)
    if path.suffix == ".onnx":
        return _open_onnx(path, cfg)
    checkpoint = _open(path, cfg)
    spec = checkpoint.network.spec
    height, width = checkpoint.meta.get("size", (spec.height, spec.width))
    common: dict[str, Any] = {"names": checkpoint.names, "size": (height, width), "path": path}
    common["cfg"] = None if cfg is None else Path(cfg)
    common["resize"] = resize_of(checkpoint) if path.suffix == ".pt" else spec.resize
    common["jpeg"] = str(checkpoint.meta.get("jpeg", "full"))
    common["data"] = str(checkpoint.meta.get("data", ""))
    common["grey"] = bool(checkpoint.meta.get("gray_scale"))
    if checkpoint.kind == "float":
        tell_untied(spec, str(cfg or path))
        network = fold_implicit(untied(checkpoint.network))
        model: nn.Module = build(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Loaded(model, network.spec, "float", network=network, **common)
    if checkpoint.kind == "spiking":
        model, spiking = open_spiking(checkpoint, str(path))
        return Loaded(model, spec, "spiking", integer=spiking, **common)
    checkpoint = as_integers(checkpoint, str(path))
    spec, integer = checkpoint.network.spec, integer_of(checkpoint, str(path))
    model = IntegerExecutor(integer)
    return Loaded(model, spec, checkpoint.kind, integer=integer, **common)


def _open_onnx(path: Path, cfg: str | Path | None) -> Loaded:
    found = open_onnx(path, None if cfg is None else read_cfg(cfg))
    return Loaded(
        found.predictor,
        found.spec,
        "onnx",
        names=found.names,
        size=found.size,
        path=path,
        grey=found.grey,
        resize=found.resize,
    )


def _open(path: Path, cfg: str | Path | None) -> Checkpoint:
    if path.suffix != ".pt":
        if cfg is None:
            raise InputError(f"{path}: Darknet weights need their structure; add --cfg")
        spec = read_cfg(cfg)
        return Checkpoint(Network(spec, read_weights(path, spec).state))
    checkpoint = load_checkpoint(path)
    if cfg is not None and read_cfg(cfg) != checkpoint.network.spec:
        raise InputError(f"{path}: carries another structure than {cfg}; leave --cfg away")
    return checkpoint


def anneal(model: nn.Module, progress: float) -> None:
    """Tell binary weights how far the training is, 0 to 1: their gradient gets sharper from epoch to epoch."""
    for module in model.modules():
        if isinstance(module, ConvBlock):
            module.sharpness = sharpness_at(progress)
