"""From which score on, and up to which overlap, an answer counts. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What counts as an answer: scores above ``confidence``; answers that overlap more than ``overlap`` are one."""

    confidence: float = 0.001
    overlap: float = 0.6
    agnostic: bool = False
    classes: tuple[int, ...] | None = None
