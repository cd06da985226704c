"""Darknet: a ModelSpec as torch modules, and the one door through which every script loads a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.cfg import read_cfg
from utils.darknet.modules import conv_and_bn
from utils.darknet.network import Checkpoint, Network, load_checkpoint
from utils.darknet.reorder import insert_zeros, reorg
from utils.darknet.shapes import channels
from utils.darknet.shortcuts import source_shares
from utils.darknet.weights import read_weights
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int_checkpoint import integer_of
from utils.quantization.integer import IntegerNetwork
from utils.quantization.qat_checkpoint import as_integers
from utils.spiking.snn_checkpoint import open_spiking


class ConvBlock(nn.Module):
    """Convolution or transposed one, batch norm where the cfg asks for it, activation."""

    def __init__(self, layer: s.Kernel, in_channels: int) -> None:
        super().__init__()
        self.conv, self.bn = conv_and_bn(layer, in_channels)
        self.activation = ACTIVATIONS[layer.activation]

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H', W']."""
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


class WeightedSum(nn.Module):
    """A weighted ``[shortcut]``, as Darknet's shortcut_multilayer_cpu computes it (blas.c)."""

    def __init__(self, layer: s.Shortcut, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(layer.weights_shape(width)))
        self.normalization = layer.weights_normalization

    def forward(self, given: list[Tensor]) -> Tensor:
        """[N, C, H, W] of every source -> their weighted sum; the activation is the caller's."""
        shares = source_shares(self.weights, self.normalization).view(len(given), -1, 1, 1)
        return sum(x * share for x, share in zip(given, shares, strict=True))


class Darknet(nn.Module):
    """The network a cfg describes.

    ``forward`` takes [N, C, H, W] in 0..1 and returns each head's raw map [N, masks * (5 + classes), h, w], in cfg
    order; decoding is utils/detection's. ``activations`` returns the output of every layer instead.
    """

    def __init__(self, spec: s.ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        width = channels(spec)
        self.layers = nn.ModuleDict()
        for i, layer in enumerate(spec.layers):
            match layer:
                case s.Kernel():
                    self.layers[str(i)] = ConvBlock(layer, width[layer.sources[0]])
                case s.SqueezeExcite():
                    self.layers[str(i)] = SqueezeExcite(width[i], layer.squeeze)
                case s.Shortcut() if layer.weighted:
                    self.layers[str(i)] = WeightedSum(layer, width[i])
        self._last_reader = {j: i for i, layer in enumerate(spec.layers) for j in layer.sources}

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, C, H, W] in 0..1 -> raw head maps."""
        out, heads = {-1: x}, []
        for i, layer in enumerate(self.spec.layers):
            out[i] = self._step(i, layer, [out[j] for j in layer.sources])
            if isinstance(layer, s.Output):
                heads.append(out[i])
            for j in set(layer.sources):
                if self._last_reader[j] == i:
                    del out[j]
        return heads

    def activations(self, x: Tensor) -> dict[int, Tensor]:
        """[N, C, H, W] in 0..1 -> the output of every layer by number, the image itself as -1."""
        out = {-1: x}
        for i, layer in enumerate(self.spec.layers):
            out[i] = self._step(i, layer, [out[j] for j in layer.sources])
        return out

    def _step(self, i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        match layer:
            case s.Kernel() | s.SqueezeExcite():
                return self.layers[str(i)](given[0])
            case s.Shortcut() if layer.weighted:
                return ACTIVATIONS[layer.activation](self.layers[str(i)](given))
            case s.Reorg():
                return reorg(given[0], layer.stride)
            case s.Shortcut():
                total = given[0]
                for other in given[1:]:
                    total = total + other
                return ACTIVATIONS[layer.activation](total)
            case s.Route():
                parts = [x.chunk(layer.groups, 1)[layer.group_id] for x in given] if layer.groups > 1 else given
                return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
            case s.MaxPool():
                return max_pool(given[0], layer)
            case s.AvgPool():
                return given[0].mean((2, 3), keepdim=True)
            case s.ScaleChannels():
                return ACTIVATIONS[layer.activation](given[1] * given[0])
            case s.Upsample() if layer.zeros:
                return insert_zeros(given[0], layer.stride)
            case s.Upsample():
                return F.interpolate(given[0], scale_factor=layer.stride)
            case s.Dropout():
                return F.dropout(given[0], layer.probability, self.training)
        return given[0]


def max_pool(x: Tensor, layer: s.MaxPool) -> Tensor:
    """Darknet's max pool: the padding, never a maximum, may be one px longer at the right and bottom."""
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    if before == after:
        return F.max_pool2d(x, layer.size, layer.stride, before)
    # an even map halved by a 2/2 pool never reaches its one px of padding
    if before == 0 and all((side + after - layer.size) % layer.stride >= after for side in x.shape[2:]):
        return F.max_pool2d(x, layer.size, layer.stride)
    padded = F.pad(x, (before, after, before, after), value=float("-inf"))
    return F.max_pool2d(padded, layer.size, layer.stride)


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
    width) in px it was made for; ``grey`` says that it was trained on grey images in three channels.
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
    cfg: Path | None = None  # the file of its structure, where that is another one


def load_model(weights: str | Path, cfg: str | Path | None = None) -> Loaded:
    """The one door: ``.weights`` (with its cfg), or any checkpoint of ours, which carries its own.

    Raises:
        InputError: the file is missing, damaged or does not fit the cfg, or the kind of the checkpoint is unknown.
    """
    path = Path(weights)
    checkpoint = _open(path, cfg)
    spec = checkpoint.network.spec
    height, width = checkpoint.meta.get("size", (spec.height, spec.width))
    common: dict[str, Any] = {"names": checkpoint.names, "size": (height, width), "path": path}
    common["cfg"] = None if cfg is None else Path(cfg)
    common["grey"] = bool(checkpoint.meta.get("gray_scale"))
    if checkpoint.kind == "float":
        model: nn.Module = build(checkpoint.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Loaded(model, spec, "float", network=checkpoint.network, **common)
    if checkpoint.kind == "spiking":
        model, spiking = open_spiking(checkpoint, str(path))
        return Loaded(model, spec, "spiking", integer=spiking, **common)
    checkpoint = as_integers(checkpoint, str(path))
    spec, integer = checkpoint.network.spec, integer_of(checkpoint, str(path))
    model = IntegerExecutor(integer)
    return Loaded(model, spec, checkpoint.kind, integer=integer, **common)


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
