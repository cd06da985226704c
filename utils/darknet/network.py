"""Network and Checkpoint: weights never part from their structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.darknet.spec import ModelSpec

State = dict[str, Tensor]


@dataclass(frozen=True)
class Network:
    """The one noun: a layer list and its tensors.

    Keys of ``state``: ``layers.{i}.conv.weight`` [out, in / groups, k, k], ``layers.{i}.conv.bias`` where there is no
    batch norm, ``layers.{i}.bn.{weight,bias,running_mean,running_var}``, ``layers.{i}.{fc1,fc2}.weight`` of [se].
    """

    spec: ModelSpec
    state: State
