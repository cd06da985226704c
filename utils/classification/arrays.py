"""Sets of classes that are published as arrays: CIFAR-10 and -100 (python and binary files), and IDX (MNIST).

A set is recognised by its files' names, and each is read as its makers say; pictures are handed on one by one.
Source: https://www.cs.toronto.edu/~kriz/cifar.html (both layouts); IDX is read in ``utils/data/idx.py``.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.idx import FASHION, read_idx
from utils.data.manifest import read_names
from utils.data.text import read_bytes
from utils.errors import InputError

CIFAR = (3, 32, 32)
BINARY_10 = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
PYTHON_10 = tuple(f"data_batch_{n}" for n in range(1, 6))
NAMES = ("names.txt", "classes.txt")
SAFE = {  # what a pickle of arrays is made of; any other name in one could run a program
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


@dataclass(frozen=True)
class ImageArrays:
    """A set in memory: ``train`` and ``valid`` are (uint8 [N, H, W, C], int [N]) each; ``kind`` is its name in words.

    ``mirrored``: whether an image seen in a mirror is still one of its class.
    """

    kind: str
    names: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]
    mirrored: bool


@dataclass(frozen=True)
class ArrayFiles:
    """A set that was recognised: what it is, its files, and how it is read."""

    kind: str
    files: tuple[Path, ...]
    read: Callable[[], ImageArrays]


def recognise(folder: Path) -> ArrayFiles | None:
    """What array files a folder, or the one folder in it, holds; None where it holds none of these sets."""
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for place in (folder, *(inner if len(inner) == 1 else [])):
        found = _cifar(place) or _idx(place)
        if found is not None:
            return found
    return None


def _cifar(place: Path) -> ArrayFiles | None:
    """CIFAR in its four forms."""
    forms: Sequence[tuple[str, Sequence[str], str, str, Any]] = (
        ("CIFAR-10, binary", BINARY_10, "test_batch.bin", "batches.meta.txt", _binary),
        ("CIFAR-10, python", PYTHON_10, "test_batch", "batches.meta", _python),
        ("CIFAR-100, binary", ("train.bin",), "test.bin", "fine_label_names.txt", _binary),
        ("CIFAR-100, python", ("train",), "test", "meta", _python),
    )
    for kind, train, valid, meta, read in forms:
        there = [place / name for name in train if (place / name).is_file()]
        if not there:
            continue
        needed = [place / name for name in (*train, valid, meta)]
        lacking = next((path for path in needed if not path.is_file()), None)
        if lacking is not None:
            raise InputError(f"{lacking}: no such file, which {kind} has; unpack the whole archive there")
        return ArrayFiles(kind, tuple(needed), functools.partial(read, kind, needed[:-2], needed[-2], needed[-1]))
    return None


def _binary(kind: str, train: Sequence[Path], valid: Path, meta: Path) -> ImageArrays:
    """Rows of 1 (CIFAR-100: 2, the second is the fine class) bytes of labels and 3072 of pixels, plane by plane."""
    names, head = read_names(meta), 2 if "100" in kind else 1

    def rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
        data = np.frombuffer(read_bytes(path), np.uint8)
        width = head + int(np.prod(CIFAR))
        if not len(data) or len(data) % width:
            raise InputError(f"{path}: {len(data)} bytes are no rows of {width}, those of {kind}; fetch it again")
        table = data.reshape(-1, width)
        return table[:, head:], table[:, head - 1]

    return _made(kind, names, [rows(path) for path in train], rows(valid), [*train, valid])


def _python(kind: str, train: Sequence[Path], valid: Path, meta: Path) -> ImageArrays:
    """Pickled dicts of data [N, 3072] and labels (CIFAR-100: fine_labels)."""
    word = "fine_label" if "100" in kind else "label"
    names = _unpickled(meta)
    listed = names.get("fine_label_names" if "100" in kind else "label_names")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{meta}: no {word}_names in it; fetch {kind} again")

    def rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
        held = _unpickled(path)
        pixels, labels = held.get("data"), held.get(f"{word}s")
        if not isinstance(pixels, np.ndarray) or labels is None or len(labels) != len(pixels):
            raise InputError(f"{path}: no data and {word}s of one length in it; fetch {kind} again")
        return pixels, np.asarray(labels)

    return _made(kind, [_text(name) for name in listed], [rows(path) for path in train], rows(valid), [*train, valid])


def _made(
    kind: str,
    names: Sequence[str],
    train: Sequence[tuple[np.ndarray, np.ndarray]],
    valid: tuple[np.ndarray, np.ndarray],
    places: Sequence[Path],
) -> ImageArrays:
    for (pixels, labels), place in zip([*train, valid], places, strict=True):
        if pixels.ndim != 2 or pixels.shape[1] != int(np.prod(CIFAR)) or pixels.dtype != np.uint8:
            raise InputError(
                f"{place}: pixels of {pixels.dtype} {list(pixels.shape)}, not bytes [N, 3072]; fetch it again"
            )
        _check_labels(labels, len(names), place)

    def images(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = (np.concatenate([each[k] for each in rows]) for k in (0, 1))
        return pixels.reshape(-1, *CIFAR).transpose(0, 2, 3, 1), labels.astype(np.int64)

    return ImageArrays(kind, tuple(names), images(train), images([valid]), mirrored=True)


def _idx(place: Path) -> ArrayFiles | None:
    """MNIST's layout: four files of images and labels, to train and to test."""
    files_there = [path for path in sorted(place.iterdir()) if path.is_file() and "idx" in path.name]
    parts = {}
    for part, words in (("train", ("train",)), ("valid", ("t10k", "test"))):
        for what in ("images", "labels"):
            found = [path for path in files_there if what in path.name and any(word in path.name for word in words)]
            parts[part, what] = found[:1]
    if not any(parts.values()):
        return None
    for (part, what), found in parts.items():
        if not found:
            name = f"{'train' if part == 'train' else 't10k'}-{what}-idx{3 if what == 'images' else 1}-ubyte"
            raise InputError(f"{place}: no {name} (or .gz) beside the other files; fetch it")
    files = [found[0] for found in parts.values()]
    names = next((place / name for name in NAMES if (place / name).is_file()), None)
    fashion = any("fashion" in name.lower() for name in place.absolute().parts[-2:])
    kind = "IDX (Fashion-MNIST, by the folder's name)" if fashion else "IDX (MNIST's layout)"

    def read() -> ImageArrays:
        train, valid = ((read_idx(files[k], 3), read_idx(files[k + 1], 1)) for k in (0, 2))
        most = int(max(train[1].max(), valid[1].max())) + 1
        told = read_names(names) if names else FASHION if fashion else tuple(str(n) for n in range(max(10, most)))
        for (pixels, labels), path in ((train, files[0]), (valid, files[2])):
            if len(pixels) != len(labels):
                raise InputError(f"{path}: {len(pixels)} images and {len(labels)} labels; fetch both again")
            _check_labels(labels, len(told), path)
        grey = [(pixels[..., None], labels.astype(np.int64)) for pixels, labels in (train, valid)]
        return ImageArrays(kind, told, grey[0], grey[1], mirrored=fashion)

    return ArrayFiles(kind, (*files, *([names] if names else [])), read)


def _check_labels(labels: np.ndarray, classes: int, place: Path) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        worst = int(labels.max() if labels.max() >= classes else labels.min())
        raise InputError(f"{place}: class {worst}, but only {classes} have names; fetch it again, or name all of them")


class _ForeignError(Exception):
    """A pickle asks for something that is no part of an array."""


class _ArraysAlone(pickle.Unpickler):
    """Reads arrays, lists, dicts and texts; anything else is refused, since loading it could run a program."""

    def find_class(self, module: str, name: str) -> Any:
        """A function that a pickle of arrays needs."""
        if (module, name) in SAFE:
            return super().find_class(module, name)
        raise _ForeignError(f"asks for {module}.{name}")


def _unpickled(path: Path) -> dict[str, Any]:
    """A pickled dict with texts as keys."""
    try:
        held = _ArraysAlone(io.BytesIO(read_bytes(path)), encoding="bytes").load()
    except _ForeignError as error:
        raise InputError(f"{path}: no plain pickle of arrays ({error}); fetch it again from its makers") from None
    except Exception:  # a damaged pickle trips over anything
        raise InputError(f"{path}: a damaged pickle; fetch it again from its makers") from None
    if not isinstance(held, dict):
        raise InputError(f"{path}: holds a {type(held).__name__}, not a dict; fetch it again from its makers")
    return {_text(key): value for key, value in held.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
