"""Figures on disk: whole or not at all, and without a word of what matplotlib says of letters it cannot draw."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from utils.files import writing

log = logging.getLogger(__name__)

DPI = 120
NO_LETTER = "Glyph"  # how matplotlib's warning of a letter without a picture begins


def save_figure(figure: Any, path: Path | str, *, dpi: int = DPI, tight: bool = False) -> Path:
    """Write it; letters of names that no font here has are boxes in it, which is told once.

    Args:
        figure: of matplotlib.
        path: its ending is the format.
        dpi: pixels an inch.
        tight: without the margin around what is drawn.
    """
    path = Path(path)
    with warnings.catch_warnings(record=True) as found, writing(path) as temporary:
        warnings.simplefilter("always")
        kind = "jpeg" if path.suffix == ".jpg" else path.suffix[1:]
        figure.savefig(temporary, format=kind, dpi=dpi, bbox_inches="tight" if tight else None)
    for each in found:
        if str(each.message).startswith(NO_LETTER):
            _tell_letters()
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return path


@cache
def _tell_letters() -> None:
    log.info("names have letters that no font here has: pictures show boxes in their place")
