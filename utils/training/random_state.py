"""The generators of random numbers that a training draws from: seeded, seen, put back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


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
