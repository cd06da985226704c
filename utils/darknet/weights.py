"""Darknet's binary ``.weights``: a header, then every convolution's float32 in cfg order.

Per convolution: with batch norm beta, gamma, mean, variance, else the bias; then the weight [out, in / groups, k, k],
of a transposed one [in, out / groups, k, k]. Per ``[connected]``: beta or the bias, the weights [out, in], and with
batch norm gamma, mean, variance.
``[se]``: its two matrices. A weighted ``[shortcut]``: its weights, source by source. The header is major, minor,
revision (int32) and the number of images seen, int64 from version 0.2 on and int32 before (parser.c,
load_weights_upto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.heads import class_count, head_convolutions, rehead
from utils.darknet.integrity import check_state
from utils.darknet.network import Network, State
from utils.darknet.ops import facts
from utils.darknet.shapes import channels
from utils.darknet.sharing import owners, tied
from utils.errors import InputError
from utils.files import no_file, writing


@dataclass(frozen=True)
class Header:
    """Version and how many images the network has seen in training."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def layout(self) -> str:
        """The struct format of this version's header."""
        wide = self.major * 10 + self.minor >= 2 and self.major < 1000 and self.minor < 1000
        return "<3iq" if wide else "<4i"

    def pack(self) -> bytes:
        """The bytes Darknet writes: 20, or 16 before version 0.2."""
        return struct.pack(self.layout, self.major, self.minor, self.revision, self.seen)


@dataclass(frozen=True)
class Weights:
    """A file's content: the tensors it filled, its header, and in plain words what was left out."""

    state: State
    header: Header
    left_out: tuple[str, ...] = ()


def tensors(spec: s.ModelSpec) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """Layer number, state key and shape of every tensor, in the order of the file; one that is shared stands once."""
    width, taken = channels(spec), owners(spec.layers)
    for i, layer in enumerate(spec.layers):
        if i in taken:
            continue
        for held in facts(layer).tensors(layer, width[layer.sources[0]]):
            yield i, f"layers.{i}.{held.key}", held.shape


def read_weights(path: str | Path, spec: s.ModelSpec, *, partial: bool = False) -> Weights:
    """Fill the spec's tensors from a file.

    Args:
        path: the ``.weights`` file.
        spec: the network it belongs to.
        partial: take what fits in order and report the rest: a backbone alone (``darknet53.conv.74``), or a file
            whose heads are for another number of classes.

    Raises:
        InputError: no such file; or, unless ``partial``, one that is too short or too long, with layer, line and bytes;
            or numbers that nothing can be computed with, with tensor and channel.
    """
    header, floats = _read(Path(path))
    found = _partial(Path(path), spec, header, floats) if partial else _whole(Path(path), spec, header, floats)
    check_state(found.state, str(path))
    return replace(found, state=tied(Network(spec, found.state)).state)


def _whole(path: Path, spec: s.ModelSpec, header: Header, floats: np.ndarray) -> Weights:
    """Every tensor, and nothing left over."""
    state, end = _fill(spec, floats)
    expected = sum(int(np.prod(shape)) for _, _, shape in tensors(spec))
    if end is not None:
        layer = spec.layers[end]
        short = (expected - len(floats)) * 4
        raise InputError(
            f"{path}: too short by {short:,} bytes, ends inside layer {end} (cfg line {layer.line}); "
            f"use the cfg these weights were made with, or -pt to take what fits"
        )
    if len(floats) > expected:
        last = max(i for i, _, _ in tensors(spec))
        raise InputError(
            f"{path}: {(len(floats) - expected) * 4:,} bytes are left after the last layer with weights, {last} "
            f"(cfg line {spec.layers[last].line}); use the cfg these weights were made with, or -pt to take what fits"
        )
    return Weights(state, header)


def write_weights(path: str | Path, network: Network, header: Header | None = None) -> Path:
    """Write the network's tensors as a ``.weights`` file, whole or not at all.

    Raises:
        ValueError: layers that share tensors have others; whoever changed them had to begin with `untied`.
    """
    alike = ((network.state[key], value) for key, value in tied(network).state.items())
    if any(own is not value and not torch.equal(own, value) for own, value in alike):
        raise ValueError("layers that share their weights have different ones: untie the network first")
    with writing(path) as temporary, temporary.open("wb") as file:
        file.write((header or Header()).pack())
        for _, key, _ in tensors(network.spec):
            file.write(network.state[key].detach().cpu().float().contiguous().numpy().tobytes())
    return Path(path)


def _read(path: Path) -> tuple[Header, np.ndarray]:
    reason = no_file(path)
    if reason:
        raise InputError(f"{path}: cannot read these weights ({reason}); check --weights")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read these weights ({error.strerror}); check --weights") from error
    if len(content) < 16:
        raise InputError(f"{path}: {len(content)} bytes are no .weights file; its header alone has 16 or 20")
    header = Header(*struct.unpack_from("<3i", content))
    size = struct.calcsize(header.layout)
    if len(content) < size or (len(content) - size) % 4:
        raise InputError(f"{path}: {len(content):,} bytes are not a header and whole float32 numbers; it is cut off")
    header = replace(header, seen=struct.unpack_from(header.layout, content)[3])
    return header, np.frombuffer(content, "<f4", offset=size)


def _fill(spec: s.ModelSpec, floats: np.ndarray) -> tuple[State, int | None]:
    """The tensors of the layers that fit whole, and the first layer that does not (None: all fit)."""
    state: State = {}
    at = 0
    for i, key, shape in tensors(spec):
        count = int(np.prod(shape))
        if at + count > len(floats):
            return {k: v for k, v in state.items() if not k.startswith(f"layers.{i}.")}, i
        state[key] = _tensor(floats[at : at + count], shape)
        at += count
    return state, None


def _tensor(values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def _partial(path: Path, spec: s.ModelSpec, header: Header, floats: np.ndarray) -> Weights:
    classes = _classes_of(spec, len(floats))
    if classes is not None:
        state, _ = _fill(rehead(spec, classes), floats)
        if classes == class_count(spec):
            return Weights(state, header)
        heads = set(head_convolutions(spec).values())
        kept = {key: value for key, value in state.items() if int(key.split(".")[1]) not in heads}
        return Weights(kept, header, (f"{path.name} has heads for {classes} classes: left out",))
    state, end = _fill(spec, floats)
    if not state:
        raise InputError(f"{path}: not even the first layer of this cfg fits into it; use the cfg it was made with")
    used = sum(value.numel() for value in state.values())
    filled = {int(key.split(".")[1]) for key in state}
    empty = [i for i, _, _ in tensors(spec) if i not in filled]
    notes = []
    if end is not None:
        notes.append(f"layers from {end} (cfg line {spec.layers[end].line}) on, {len(set(empty))} of them, start fresh")
    if used < len(floats):
        notes.append(f"the last {(len(floats) - used) * 4:,} bytes of {path.name} fit no layer: left out")
    return Weights(state, header, tuple(notes))


def _classes_of(spec: s.ModelSpec, floats: int) -> int | None:
    """The number of classes for which the file has exactly the right length: linear, so it can be solved for."""
    if not spec.heads:
        return None

    def length(classes: int) -> int:
        return sum(int(np.prod(shape)) for _, _, shape in tensors(rehead(spec, classes)))

    one, two = length(1), length(2)
    classes, rest = divmod(floats - one, two - one)
    return classes + 1 if rest == 0 and classes >= 0 else None
