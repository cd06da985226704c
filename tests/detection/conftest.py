"""The tiny set of boxes that the loader is tested with."""

from __future__ import annotations

from tests.data.conftest import tiny

__all__ = ["tiny"]
