"""Integers as the files that hardware tools read: npy, bin, mem ($readmemh) and coe, plain and tiled."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMS = ("npy", "bin", "mem", "coe")
COE_HEAD = "memory_initialization_radix=16;\nmemory_initialization_vector=\n"


@dataclass(frozen=True)
class Word:
    """How an integer is stored: two's complement of ``bits`` bits where it is ``signed``."""

    bits: int
    signed: bool

    @property
    def lowest(self) -> int:
        """The smallest value that fits."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The largest."""
        return (1 << (self.bits - self.signed)) - 1


INT32 = Word(32, True)
ACCUMULATOR = INT32


def word_of(qmin: int, qmax: int) -> Word:
    """The smallest word for the levels lo..hi."""
    if qmin >= 0:
        return Word(max(1, qmax.bit_length()), False)
    return Word(max(qmax.bit_length(), (-qmin - 1).bit_length()) + 1, True)


def encode(values: np.ndarray, word: Word, form: str) -> bytes:
    """The content of a file of that form.

    * npy: the smallest whole-byte type, in its shape, C order, little-endian.
    * bin: words of ``bits`` bits without gaps, least significant bit first, the last byte filled up with zeros; at 8,
      16 and 32 bits that is a plain little-endian array.
    * mem: one word a line, hexadecimal. coe: the same as a Xilinx memory initialisation.

    Raises:
        ValueError: a value does not fit its word, or the form is unknown.
    """
    if values.size and (values.min() < word.lowest or values.max() > word.highest):
        raise ValueError(f"{values.min()}..{values.max()} do not fit {word.bits} bits, signed={word.signed}")
    if form == "npy":
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(values, _whole_bytes(word)))
        return stream.getvalue()
    flat = values.ravel().astype(np.int64) & ((1 << word.bits) - 1)
    if form == "bin":
        return _pack(flat, word.bits)
    words = [f"{value:0{-(-word.bits // 4)}x}" for value in flat.tolist()]
    if form == "mem":
        return ("\n".join(words) + "\n").encode()
    if form == "coe":
        return (COE_HEAD + ",\n".join(words) + ";\n").encode()
    raise ValueError(f"unknown form {form!r}")


def tiles(shape: Sequence[int], tm: int, tn: int) -> Iterator[tuple[slice, slice]]:
    """The (outputs, inputs) of each tile in the order of the file: output tiles outside, input tiles inside.

    The last tile of a row or column is as short as what is left; nothing is padded and nothing is dropped.
    """
    for o in range(0, shape[0], tm):
        for i in range(0, shape[1], tn):
            yield slice(o, min(o + tm, shape[0])), slice(i, min(i + tn, shape[1]))


def tiled(weight: np.ndarray, tm: int, tn: int) -> tuple[np.ndarray, list[int]]:
    """Weights [O,I,k,k] flat, tile by tile, in each [ky][kx][o][i]; and where each tile starts."""
    parts = [weight[o, i].transpose(2, 3, 0, 1).ravel() for o, i in tiles(weight.shape, tm, tn)]
    starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]
    return np.concatenate(parts), starts.tolist()


def write_tensor(
    folder: Path, stem: str, values: np.ndarray, word: Word, forms: Sequence[str], tile: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Write ``stem``.<form> in every form, and tiled ones where there is a ``tile``; returns the manifest's entry."""
    ref: dict[str, Any] = {
        "shape": list(values.shape),
        "bits": word.bits,
        "signed": word.signed,
        "files": _write(folder, stem, values, word, forms),
    }
    if tile is not None:
        flat, starts = tiled(values, *tile)
        forms = [form for form in forms if form != "npy"]
        files = _write(folder, f"{stem}_tiled", flat, word, forms)
        ref["tiled"] = {"tm": tile[0], "tn": tile[1], "starts": starts, "files": files}
    return ref


def write_bits(folder: Path, stem: str, bits: np.ndarray, forms: Sequence[str]) -> dict[str, Any]:
    """Write 0s and 1s [...,X], a spike train or a plane of signs, packed; returns the manifest's entry.

    * bin: all bits without gaps, as any tensor of 1 bit. npy: uint8 [...,ceil(X / 8)], for ``numpy.unpackbits``.
    * mem: a row of the map is one word of X bits. Column 0 is the lowest bit everywhere.
    """
    word = Word(1, False)
    ref: dict[str, Any] = {
        "shape": list(bits.shape),
        "bits": word.bits,
        "signed": word.signed,
        "layout": "rows",
        "files": {},
    }
    for form in forms:
        path = folder / f"{stem}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_bits(bits, form))
        ref["files"][form] = f"{stem}.{form}"
    return ref


def encode_bits(bits: np.ndarray, form: str) -> bytes:
    """The content of a file of that form; see ``write_bits``.

    Raises:
        ValueError: the form is unknown.
    """
    rows = np.packbits(bits.astype(np.uint8), axis=-1, bitorder="little")
    if form == "npy":
        return encode(rows, Word(8, False), form)
    if form == "bin":
        return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    if form == "mem":
        digits, flat = -(-bits.shape[-1] // 4), rows.reshape(-1, rows.shape[-1])
        words = (row.tobytes()[::-1].hex()[-digits:] for row in flat)
        return ("\n".join(words) + "\n").encode()
    raise ValueError(f"unknown form {form!r}")


def _write(folder: Path, stem: str, values: np.ndarray, word: Word, forms: Sequence[str]) -> dict[str, str]:
    files = {}
    for form in forms:
        path = folder / f"{stem}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(values, word, form))
        files[form] = f"{stem}.{form}"
    return files


def _whole_bytes(word: Word) -> str:
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= word.bits)
    return f"<{'i' if word.signed else 'u'}{size}"


def _pack(words: np.ndarray, bits: int) -> bytes:
    if bits in (8, 16, 32):
        return words.astype(f"<u{bits // 8}").tobytes()
    stream = (words[:, None] >> np.arange(bits)) & 1
    return np.packbits(stream.astype(np.uint8).ravel(), bitorder="little").tobytes()
