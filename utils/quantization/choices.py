"""What quantize.py --budget may say. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass

BUDGETS = ("size", "bops")


@dataclass(frozen=True)
class Budget:
    """A share of what the 8-bit network costs, in packed bytes ("size") or bit operations ("bops")."""

    kind: str
    share: float

    def __str__(self) -> str:
        return f"{self.kind}={self.share:g}"
