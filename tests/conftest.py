"""Fixtures every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: the tests run in as many processes as there are cores, and threads on top only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and photographs; tests that need it skip where it is absent."""
    path = Path(os.environ.get("DARKSPIKE_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set DARKSPIKE_DATA")
    return path.resolve()
