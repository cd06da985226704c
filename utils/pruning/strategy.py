"""What a prune script cuts by: its rules, its share of a cut that is made in steps, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the flags' rules name a strategy, and --help needs no torch
    from utils.darknet.network import Network
    from utils.pruning.choices import Beta
    from utils.pruning.layer_plan import LayerPlan
    from utils.pruning.plan import Plan, ShortcutRule


@dataclass(frozen=True)
class Strategy:
    """What becomes of a shortcut's wires (None: no channel goes), the least kept, the rounding, how many blocks go."""

    script: str
    tie: ShortcutRule | None
    floor: float = 0.0
    multiple: int = 1
    blocks: int = 0


@dataclass(frozen=True)
class CutStep:
    """One of the ``total`` cuts of ``--iterative``, counted from 1, which together cut what the flags ask for."""

    number: int = 1
    total: int = 1

    def percent(self, whole: float) -> float:
        """What each cut takes of what the last one left."""
        return 1 - (1 - whole) ** (1 / self.total)

    def budget(self, asked: float | None, first: int) -> float | None:
        """What this cut has to leave of ``first``, the count before all of them; ``asked`` up to 1 is a share."""
        if asked is None or self.total == 1:
            return asked
        return first * (asked if asked <= 1 else asked / first) ** (self.number / self.total)

    def blocks(self, whole: int) -> int:
        """How many residual blocks this cut takes."""
        return whole * self.number // self.total - whole * (self.number - 1) // self.total


@dataclass(frozen=True)
class CutDecision:
    """A strategy with all found and checked that its flags leave open: what a network is cut by.

    ``channels`` says which wires stay, ``blocks`` which residual blocks go of what these leave; None: none do. ``beta``
    is for the constants that cut channels send.
    """

    channels: Callable[[Network], Plan] | None
    blocks: Callable[[Network], LayerPlan] | None
    beta: Beta
