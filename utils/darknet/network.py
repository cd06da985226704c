"""Network and Checkpoint: weights never part from their structure."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.integrity import SEALED, check_state, digest, is_whole, sealed
from utils.darknet.ops import facts
from utils.darknet.shapes import channels
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.files import no_file, writing

State = dict[str, Tensor]

FORMAT = "darkspike-3"
BEFORE = ("darkspike-1", "darkspike-2")  # the first had no digest, the second no seal
PARTS = {"kind": str, "cfg": str, "names": list, "state": dict, "training": dict, "meta": dict, "payload": dict}
KINDS = ("float", "trained", "quantised", "spiking")
WITH_STATE = KINDS[:2]


@dataclass(frozen=True)
class Network:
    """The one noun: a layer list and its tensors.

    Keys of ``state``: ``layers.{i}.conv.weight`` [out, in / groups, k, k], ``layers.{i}.conv.bias`` where there is no
    batch norm, ``layers.{i}.bn.{weight,bias,running_mean,running_var}``, ``layers.{i}.{fc1,fc2}.weight`` of [se],
    ``layers.{i}.weights`` [sources] or [sources, C] of a weighted [shortcut].
    """

    spec: ModelSpec
    state: State


@dataclass(frozen=True)
class Checkpoint:
    """What a ``.pt`` file holds: a network with its own cfg, and what its kind needs to run on.

    ``kind`` is ``float``, ``quantised``, ``spiking`` or ``trained``. A quantised or spiking one has an empty state and
    its packed integers in ``payload``; a trained one, of quantised training, has the float state and the integers.
    ``training`` is what ``--resume`` needs; ``meta`` tells how it was made. Only tensors, numbers, texts, lists and
    dicts may be inside, since it is read with ``weights_only=True``.
    """

    network: Network
    names: tuple[str, ...] = ()
    kind: str = "float"
    training: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    payload: dict[str, Any] = field(default_factory=dict)


def resize_of(checkpoint: Checkpoint) -> str:
    """How images were fitted into the network's: "letterbox" or "stretch"; before it was kept, all were letterboxed."""
    return str(checkpoint.meta.get("resize", "letterbox"))


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write the file whole or not at all: to a temporary name beside it, then renamed.

    Raises:
        InputError: the disk is full or the folder cannot be written; an earlier file of that name stays as it was.
    """
    content = _content_of(checkpoint)
    content["digest"] = digest({key: content[key] for key in PARTS})
    path, made = Path(path), sealed(_zipped(content))
    with writing(path) as temporary, temporary.open("wb") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    return path


def checkpoint_bytes(checkpoint: Checkpoint) -> int:
    """How long the file is that `save_checkpoint` writes."""
    return len(_zipped({**_content_of(checkpoint), "digest": digest({})})) + SEALED


def _content_of(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "cfg": write_cfg(checkpoint.network.spec),
        "names": list(checkpoint.names),
        "state": dict(checkpoint.network.state),
        "training": checkpoint.training,
        "meta": checkpoint.meta,
        "payload": checkpoint.payload,
    }


def _zipped(content: dict[str, Any]) -> bytes:
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote; nothing in the file is executed.

    Raises:
        InputError: no such file, a damaged one, or one that another program wrote.
    """
    content = _content(path)
    spec = parse_cfg(content["cfg"], f"{path}'s cfg")
    check_state(content["state"], str(path))
    if content["state"] or content["kind"] in WITH_STATE:
        check_fit(content["state"], spec, str(path))
    return Checkpoint(
        Network(spec, content["state"]),
        tuple(content["names"]),
        content["kind"],
        content["training"],
        content["meta"],
        content["payload"],
    )


def check_fit(state: State, spec: ModelSpec, name: str) -> None:
    """Refuse a state whose tensors are not those that the layers have.

    Raises:
        InputError: names the first tensor that is missing, unknown, no floats, or of another shape.
    """
    width = channels(spec, name)
    wanted = {
        f"layers.{i}.{held.key}": tuple(held.shape)
        for i, layer in enumerate(spec.layers)
        for held in facts(layer).tensors(layer, width[layer.sources[0]])
    }
    for key in (key for key in {**wanted, **state} if not key.endswith("num_batches_tracked")):
        have = tuple(state[key].shape) if key in state and state[key].is_floating_point() else None
        if have is None or have != wanted.get(key):
            fact = f"{key} is {have}" if have is not None else f"has no floats {key}"
            needed = f"its cfg needs {wanted[key]}" if key in wanted else "no layer of its cfg has it"
            raise InputError(
                f"{name}: {fact}, and {needed}; the file is damaged or another program's, use another copy"
            )


def _content(path: str | Path) -> dict[str, Any]:
    """What a file holds, proved to be what was written."""
    reason = no_file(path)
    if reason:
        raise InputError(f"{path}: {reason.replace('no such file', 'no such weights file')}; check --weights")
    try:
        stored = Path(path).read_bytes()
        content = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes torch's reader raise whatever it meets first
        raise InputError(f"{path}: cannot be read as a checkpoint; it is damaged or another program's") from error
    form = content.get("format") if isinstance(content, dict) else None
    if form not in (FORMAT, *BEFORE):
        newer = isinstance(form, str) and form.startswith("darkspike-")
        fact = f"is of a newer format, {form}; update Darkspike" if newer else "is not a Darkspike checkpoint"
        raise InputError(f"{path}: {fact}; give a .pt of ours, or Darknet .weights with --cfg")
    lacking = [key for key in PARTS if key not in content]
    if lacking:
        raise InputError(f"{path}: has no '{lacking[0]}'; the file is damaged, use another copy")
    proved = form != BEFORE[0] or "digest" in content
    parts = digest({key: content[key] for key in PARTS})
    if (proved and content.get("digest") != parts) or (form == FORMAT and not is_whole(stored)):
        raise InputError(f"{path}: its digest is another one than its content's; the file is damaged, use another copy")
    _check_parts(content, str(path))
    return content


def _check_parts(content: dict[str, Any], path: str) -> None:
    """Refuse parts of another type than they were written with."""
    tensors = content["state"]
    texts = content["names"] if isinstance(content["names"], list) else []
    wrong = [key for key, kind in PARTS.items() if not isinstance(content[key], kind)]
    wrong += ["names"] * (not all(isinstance(text, str) for text in texts))
    wrong += ["kind"] * (content["kind"] not in KINDS)
    if isinstance(tensors, dict):
        wrong += ["state"] * (not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()))
    size = content["meta"].get("size", [1, 1]) if isinstance(content["meta"], dict) else [1, 1]
    whole = isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    wrong += ["meta: size"] * (not whole)
    if wrong:
        raise InputError(
            f"{path}: its '{wrong[0]}' is none that can be used; the file is damaged or of a newer version"
        )
