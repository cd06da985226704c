"""Everything a run has to remember so that, continued, it gives the numbers of one that was never cut.

The learning rate is a function of the step and the order of the images one of (seed, epoch); neither is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from utils.errors import InputError
from utils.training.random_state import random_state, set_random_state
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
