"""Embedded sample sets on disk: each is composed once, whole or not at all, and known again by its recipe."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from utils.data.lock import locked
from utils.errors import InputError

ROOT = Path(__file__).resolve().parents[2] / "data"  # where the sample sets' .data files are


def is_sample(place: Path | str, name: str) -> bool:
    """Whether ``place`` is the .data file of the sample set ``name``."""
    return Path(place).resolve() == (ROOT / name).resolve()


def prepare_set(
    name: str, root: Path, stamp: str, names: str, compose: Callable[[Path, Path], str], wheels: Path | None = None
) -> Path:
    """Compose a sample set unless it is complete, and say where its manifest is.

    Two processes may ask at once: one composes, the other waits. A cut-off composition leaves nothing that counts.

    Args:
        name: of its ``.data`` file, whose stem is its folder's name.
        root: the folder of both.
        stamp: all that it depends on.
        names: of its file of classes.
        compose: fills an empty folder, from the folder of wheels; what it returns is a digest of all it made.
        wheels: the folder of wheels; None: ``root/.wheels``.

    Raises:
        InputError: a wheel can not be fetched, or something else is in the folder's place.
    """
    folder, manifest = root / Path(name).stem, root / name
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".wheels" / "lock"):
        for source in (ROOT / name, ROOT / names):
            if not (root / source.name).exists():
                shutil.copyfile(source, root / source.name)
        if not _complete(folder, stamp):
            _replace(folder, stamp, lambda build: compose(build, wheels or root / ".wheels"))
    return manifest


def _replace(folder: Path, stamp: str, compose: Callable[[Path], str]) -> None:
    """Compose everything into a temporary folder, then give it the name."""
    if folder.exists() and not (folder / "stamp.json").exists():
        raise InputError(f"{folder}: something else is in the sample set's place; move it away")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".digits-") as temporary:
        build = Path(temporary) / folder.name
        build.mkdir()
        digest = compose(build)
        (build / "stamp.json").write_text(json.dumps({"recipe": stamp, "sha256": digest}) + "\n")
        if folder.exists():  # an older recipe's set: ours, and made again from its seed at any time
            folder.replace(Path(temporary) / "old")
        build.replace(folder)


def _complete(folder: Path, stamp: str) -> bool:
    path = folder / "stamp.json"
    return path.is_file() and json.loads(path.read_text())["recipe"] == stamp
