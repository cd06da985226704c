"""Earlier names of what a session and its task do; gone as soon as nothing imports them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.session import Session
from utils.reporting.record import Record


def begin(session: Session[Any], script: str) -> Record:
    """A new run folder and the record of a run that begins."""
    return session.begin(script)


def compare(session: Session[Any], measured: dict[str, Any], path: Path) -> None:
    """A sheet of validation images: the truth, then each network's answers."""
    session.task.comparison(path, session.valid.dataset, measured, session.manifest.names)
