"""Small networks of sequences, and sets of sequences in files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from utils.darknet.cfg import parse_cfg
from utils.darknet.spec import ModelSpec

UNITS = {
    "ltc": "[ltc_rnn]\noutput={units}\n{keys}",
    "lif": "[lif_rnn]\noutput={units}\nmembrane_decay=0.9\nsurrogate=atan\n{keys}",
    "lstm": "[lstm]\noutput={units}\n{keys}",
}
ADDING = "predicts=value\ndata=adding\n"


def text(kind: str, *, keys: str = "", steps: int = 10, channels: int = 2, units: int = 6, end: str = ADDING) -> str:
    """A cfg of one recurrent layer and a read-out of one value, or of three classes."""
    outs = 1 if "value" in end else 3
    return (
        f"[net]\nbatch=4\nwidth=1\nheight=1\nchannels={channels}\ntimesteps={steps}\ninput=frames\n"
        f"{UNITS[kind].format(units=units, keys=keys)}"
        f"[convolutional]\nfilters={outs}\nsize=1\nactivation=linear\n[sequence]\n{end}"
    )


def net(kind: str, **options) -> ModelSpec:
    """`text`, read."""
    return parse_cfg(text(kind, **options))


def as_idx(values: np.ndarray) -> bytes:
    """Bytes of an IDX file, as its description has them."""
    return struct.pack(f">4B{values.ndim}i", 0, 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def write_idx_set(folder: Path, *, train: int = 12, valid: int = 6, side: int = 4) -> Path:
    """Pictures of three classes, told apart by which rows are bright; some of the files packed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", valid)):
        labels = np.arange(count) % 3
        images = rng.integers(0, 60, (count, side, side))
        for n, label in enumerate(labels):
            images[n, label] = 250
        pack = gzip.compress if part == "train" else bytes
        ending = ".gz" if part == "train" else ""
        (folder / f"{part}-images-idx3-ubyte{ending}").write_bytes(pack(as_idx(images)))
        (folder / f"{part}-labels-idx1-ubyte{ending}").write_bytes(pack(as_idx(labels)))
    return folder
