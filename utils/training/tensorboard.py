"""``--tensorboard``: the rows of results.csv as scalars; the package is imported only where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import InputError

# column of results.csv -> the group it is drawn in; any other number is a loss, but what the task validates
GROUPS = {
    **dict.fromkeys(("near_zero", "safe_percent", "survivable_percent", "weakest_block"), "sparsity"),
    **dict.fromkeys(("lr", "images_per_second", "wait_share", "seconds"), "run"),
}


def check_installed(flag: str = "--tensorboard") -> None:
    """Say so before a training begins, not after its first epoch; ``flag`` is what asks for it.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError as error:
        raise InputError(f"{flag}: tensorboard is not installed; pip install tensorboard") from error


def write_scalars(folder: Path | str, row: Mapping[str, Any], scores: Sequence[str]) -> None:
    """Add an epoch to the folder's event files; a file of its own, closed, so that a cut run leaves whole ones.

    Args:
        folder: that ``tensorboard --logdir`` is pointed at, or one below.
        row: an epoch of results.csv; ``epoch`` is the step, what is None was not measured.
        scores: the columns that validation fills.

    Raises:
        InputError: the package is not installed.
    """
    check_installed()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, value in row.items():
            if name != "epoch" and isinstance(value, int | float):
                writer.add_scalar(f"{_group(name, scores)}/{name}", value, row["epoch"])


def _group(name: str, scores: Sequence[str]) -> str:
    if name in scores:
        return "validation"
    return "sparsity" if name.startswith("gamma_q") else GROUPS.get(name, "loss")
