"""Network and Checkpoint: weights never part from their structure."""

from __future__ import annotations

import errno
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.files import writing

State = dict[str, Tensor]

FORMAT = "darkspike-1"


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


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write the file whole or not at all: to a temporary name beside it, then renamed.

    Raises:
        InputError: the disk is full or the folder cannot be written; an earlier file of that name stays as it was.
    """
    content = {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "cfg": write_cfg(checkpoint.network.spec),
        "names": list(checkpoint.names),
        "state": dict(checkpoint.network.state),
        "training": checkpoint.training,
        "meta": checkpoint.meta,
        "payload": checkpoint.payload,
    }
    path = Path(path)
    with writing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch's own writer makes of a write that failed
            raise OSError(errno.EIO, f"cannot write this checkpoint ({str(error).splitlines()[0]})") from error
        file.flush()
        os.fsync(file.fileno())
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote; nothing in the file is executed.

    Raises:
        InputError: no such file, a damaged one, or one that another program wrote.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such weights file; check --weights") from error
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: cannot be read as a checkpoint; it is damaged or another program's") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: is not a Darkspike checkpoint; give a .pt of ours, or Darknet .weights with --cfg")
    spec = parse_cfg(content["cfg"], f"{path}'s cfg")
    return Checkpoint(
        Network(spec, content["state"]),
        tuple(content["names"]),
        content["kind"],
        content["training"],
        content["meta"],
        content["payload"],
    )
