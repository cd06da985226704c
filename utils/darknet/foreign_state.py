"""State dicts of torchvision's classifiers as networks of a cfg: resnet18, resnet34, alexnet, vgg16 and their like.

Tensors are found by their published names, never by their order in the file. Three things are carried over exactly:
torch adds 1e-5 to a variance, Darknet 1e-6, so the difference goes into the variance; a ``Linear`` over a flattened map
is a kernel as large as the map; and the pictures' mean and deviation go into the first convolution (see `normalised`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.darknet.fold import BN_EPS
from utils.darknet.integrity import check_state
from utils.darknet.network import Network, State, check_fit
from utils.darknet.ops import facts
from utils.darknet.shapes import channels
from utils.darknet.spec import ModelSpec
from utils.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures in 0..1, as torchvision shows them
TORCH_EPS = 1e-5
KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64}
LONGEST_HEADER = 100_000_000  # bytes, as the format says
NORM = ("weight", "bias", "running_mean", "running_var")
BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(conv(\d)|bn(\d)|downsample\.(\d))$")
PART = re.compile(r"(features|classifier)\.(\d+)$")


@dataclass(frozen=True)
class NamedKernel:
    """A layer with weights by the names of its modules: the convolution's (or matrix's), its batch norm's or None."""

    weights: str
    norm: str | None


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth`` file by name; nothing in it is executed.

    Raises:
        InputError: it is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a state dict, .pth or .safetensors")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes torch's reader raise whatever it meets first
        why = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]  # an empty file has no message
        raise InputError(
            f"{path}: no state dict that can be read without running it ({why}); save model.state_dict() alone"
        ) from None
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise InputError(f"{path}: holds no dict of tensors; save model.state_dict() alone")
    return {str(key).removeprefix("module."): value for key, value in held.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The format is a length, a JSON header of names, kinds, shapes and places, and the bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 or length > min(LONGEST_HEADER, len(data) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(data[8 : 8 + length])
        body = memoryview(bytearray(data[8 + length :]))
        return {name: _tensor(body, about) for name, about in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: a damaged .safetensors file ({str(error)[:80]}); fetch it again") from None


def _tensor(body: memoryview, about: dict[str, Any]) -> Tensor:
    begin, end = about["data_offsets"]
    if not 0 <= begin <= end <= len(body):
        raise ValueError("a tensor lies outside the file")
    flat = torch.frombuffer(body[begin:end], dtype=KINDS[about["dtype"]]) if end > begin else torch.empty(0)
    return flat.reshape(about["shape"]).clone()


def kernels_by_name(state: dict[str, Tensor], place: str) -> list[NamedKernel]:
    """The layers with weights that the names tell, in the order in which the network runs them.

    Raises:
        InputError: the names are of another family of networks.
    """
    modules = {key.rpartition(".")[0] for key in state}
    found = [name for name in modules if f"{name}.weight" in state and state[f"{name}.weight"].dim() in (2, 4)]
    if "fc" in modules:
        family, rank = "resnet", _resnet_rank
    elif any(PART.match(name) for name in modules):
        family, rank = "alexnet or vgg", _sequential_rank
    else:
        raise InputError(
            f"{place}: {min(modules)!r} is no name of torchvision's resnet, alexnet or vgg; known are these"
        )
    strange = [name for name in found if rank(name) is None]
    if strange:
        raise InputError(
            f"{place}: {min(strange)!r} is no layer of torchvision's {family}; known are resnet, alexnet, vgg"
        )
    ordered = sorted(found, key=lambda name: rank(name) or ())
    return [
        NamedKernel(name, norm if (norm := _norm_of(name)) and f"{norm}.running_mean" in state else None)
        for name in ordered
    ]


def _resnet_rank(name: str) -> tuple[int, ...] | None:
    if name in ("conv1", "fc"):
        return (0,) if name == "conv1" else (99,)
    match = BLOCK.match(name)
    if match is None:
        return None
    within = int(match[4]) if match[4] else 9 if match[6] == "0" else -1
    return (int(match[1]), int(match[2]), within) if within > 0 else None


def _sequential_rank(name: str) -> tuple[int, ...] | None:
    match = PART.match(name)
    return None if match is None else (("features", "classifier").index(match[1]), int(match[2]))


def _norm_of(name: str) -> str | None:
    """Where the batch norm behind a convolution is, if there is one."""
    if name == "fc" or name.startswith("classifier."):
        return None
    head, _, last = name.rpartition(".")
    if last.startswith("conv"):
        return f"{head}.bn{last[4:]}" if head else f"bn{last[4:]}"
    return f"{head}.{int(last) + 1}"


def as_network(
    state: dict[str, Tensor],
    spec: ModelSpec,
    place: str,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Network:
    """The state dict as the network of a cfg.

    Args:
        state: by torchvision's names.
        spec: of the cfg.
        place: the file, for messages.
        mean: of the pictures that the weights were trained on, in 0..1; they go into the first convolution.
        std: their deviation.

    Raises:
        InputError: the names or shapes are none of the cfg's, or a tensor is left over.
    """
    named = kernels_by_name(state, place)
    numbers = [*spec.kernels]
    if len(named) != len(numbers):
        raise InputError(
            f"{place}: has {len(named)} layers with weights, the cfg has {len(numbers)}; give the cfg of that network"
        )
    wide, made, used = channels(spec, place), State(), set[str]()
    for i, kernel in zip(numbers, named, strict=True):
        layer = spec.kernels[i]
        where = f"layer {i} (cfg line {layer.line})"
        if layer.bn != (kernel.norm is not None):
            have = "batch norm" if kernel.norm else "no batch norm"
            raise InputError(f"{place}: {kernel.weights} has {have}, {where} not so; give its own cfg")
        shapes = {held.key: held.shape for held in facts(layer).tensors(layer, wide[layer.sources[0]])}
        for ours, theirs, value in _tensors(state, kernel, place):
            made[f"layers.{i}.{ours}"] = _shaped(value, shapes[ours], f"{place}: {theirs}", where)
            used.add(theirs)
    over = [key for key in state if key not in used and not key.endswith("num_batches_tracked")]
    if over:
        raise InputError(f"{place}: {over[0]} has no place in the cfg; give the cfg of that network")
    network = normalised(Network(spec, made), mean, std)
    check_state(network.state, place)
    check_fit(network.state, spec, place)
    return network


def _shaped(value: Tensor, wanted: tuple[int, ...], place: str, where: str) -> Tensor:
    """A tensor as the layer holds it; a matrix over a flattened map is a kernel as large as that map.

    Raises:
        InputError: it is of another shape.
    """
    flat = value.dim() == 2 and len(wanted) == 4 and tuple(value.shape) == (wanted[0], math.prod(wanted[1:]))
    if tuple(value.shape) != wanted and not flat:
        raise InputError(f"{place} is {list(value.shape)}, {where} needs {list(wanted)}; give the cfg of that network")
    return value.float().reshape(wanted).clone()


def _tensors(state: dict[str, Tensor], kernel: NamedKernel, place: str) -> Iterator[tuple[str, str, Tensor]]:
    """Our name, theirs and the tensor, of each that a layer has.

    Raises:
        InputError: the state dict lacks one.
    """
    norms = [(f"bn.{name}", f"{kernel.norm}.{name}") for name in NORM] if kernel.norm else []
    names = [("conv.weight", f"{kernel.weights}.weight"), *(norms or [("conv.bias", f"{kernel.weights}.bias")])]
    for ours, theirs in names:
        if theirs not in state:
            raise InputError(f"{place}: has no {theirs}, beside {kernel.weights}.weight; save the whole state dict")
        yield ours, theirs, state[theirs] + (TORCH_EPS - BN_EPS if ours == "bn.running_var" else 0.0)


def normalised(network: Network, mean: Sequence[float], std: Sequence[float]) -> Network:
    """A network of pictures less ``mean`` over ``std`` as one of pictures in 0..1.

    The first convolution takes both in, w / std and a shift of -sum(w mean / std). It equals the other network wherever
    the kernel lies inside the picture; at the border the other one pads the mean's colour, this one black.
    """
    first = next(iter(network.spec.kernels))
    state, key = dict(network.state), f"layers.{first}.conv.weight"
    scale, offset = (torch.tensor(values, dtype=torch.float64)[None, :, None, None] for values in (std, mean))
    weight = state[key].double() / scale
    shift = (weight * offset).sum((1, 2, 3))
    state[key] = weight.float()
    if network.spec.kernels[first].bn:
        where = f"layers.{first}.bn.running_mean"
        state[where] = (state[where].double() + shift).float()
    else:
        where = f"layers.{first}.conv.bias"
        state[where] = (state[where].double() - shift).float()
    return Network(network.spec, state)
