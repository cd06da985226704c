"""Running a folder's ``make check`` without leaving anything in it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from utils.errors import InputError


def run_make(folder: Path) -> str:
    """What ``make check`` said.

    Raises:
        InputError: it failed; with its first line.
    """
    with tempfile.TemporaryDirectory() as build:
        command = ["make", "-s", "-C", str(folder), "check", f"BUILD={build}"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line and not line.startswith("make:")]
        raise InputError(f"{folder}: make check failed: {lines[0] if lines else 'no message'}; please report this")
    return done.stdout.strip()
