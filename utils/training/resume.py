"""Everything a run has to remember so that, continued, it gives the numbers of one that was never cut.

The learning rate is a function of the step and the order of the images one of (seed, epoch); neither is stored.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.errors import InputError
from utils.training.update import Update


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: epochs done, the best value of the metric so far, seconds spent."""

    epochs: int = 0
    best: float = -1.0
    seconds: float = 0.0


def capture(progress: Progress, model: nn.Module, update: Update) -> dict[str, Any]:
    """The state of a run, made of tensors and plain values only, so that ``torch.load(weights_only=True)`` takes it."""
    return {
        "progress": vars(progress).copy(),
        "model": model.state_dict(),
        "update": update.state_dict(),
        "random": random_state(),
    }


def restore(state: Mapping[str, Any], model: nn.Module, update: Update) -> Progress:
    """Put a captured state back; the opposite of ``capture``.

    Raises:
        InputError: the state is not one of a run, or belongs to another network or optimizer.
    """
    try:
        model.load_state_dict(state["model"])
        update.load_state_dict(state.get("update", state))  # before there were updates, its parts stood beside
        set_random_state(state["random"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        fact = " ".join(str(error).split())[:200]
        raise InputError(f"resume: the checkpoint is not of this run ({fact}); give the flags it began with") from error


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """State of the generators of Python, numpy and torch (each CUDA device too)."""
    version, words, python_gauss = random.getstate()
    words_of_numpy: Any = np.random.get_state()
    _, keys, position, has_gauss, gauss = words_of_numpy
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), python_gauss],
        "numpy": [torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back where ``random_state`` saw them."""
    version, words, python_gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), python_gauss))
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
