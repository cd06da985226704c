"""Whole numbers as files and flags write them."""

from __future__ import annotations

LONGEST = 18  # digits; Python itself refuses to read some thousands of them


def is_whole(text: str) -> bool:
    """Whether ``int`` reads a text as a number from 0 up: ``str.isdigit`` is true of "²" and of any length, too."""
    return text.isascii() and text.isdigit() and len(text) <= LONGEST
