"""The whole house as functions: what each script does, on a network, with its flags as keyword arguments.

    import darkspike as ds

    dense = ds.train(data="mine.data", epochs=50)
    sparse = ds.train(dense.network, data="mine.data", sparse=True, prune=1, epochs=20, name="sparse")
    small = ds.prune(sparse.network, "slim", percent=0.8, data="mine.data")
    tuned = ds.train(small.network, data="mine.data", kd="objectness", t_weights=dense.path, name="tuned")
    integers = ds.quantize(tuned.network, w_bit=8, a_bit=4, data="mine.data")
    spikes = ds.convert(tuned.network, mode="stream", a_bit=4, data="mine.data")
    ds.export(integers.network, "fpga", out="hand-off", data="mine.data")
    print(ds.detect(spikes.network, "photo.jpg").boxes)

A network is a file, or what `load` made of one; it stands for its file, so that a script can go on from every result
too. Keywords are the flags of the script of that name (``--a-bit`` is ``a_bit``), with their defaults; one that is
unknown, or whose value the flag would not take, is refused by name. Files go where the scripts put them, ``weights/``,
``cfg/pruned/`` and ``runs/``, counted from the current folder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from utils.errors import InputError

if TYPE_CHECKING:
    from darkspike.functions import convert, detect, export, load, prune, quantize, train
    from darkspike.results import Converted, Detections, Exported, Made, Pruned, Quantised, Trained
    from models import Loaded

__all__ = [
    "Converted",
    "Detections",
    "Exported",
    "InputError",
    "Loaded",
    "Made",
    "Pruned",
    "Quantised",
    "Trained",
    "convert",
    "detect",
    "export",
    "load",
    "prune",
    "quantize",
    "train",
]

ROOMS = ("darkspike.functions", "darkspike.results", "models")  # opened when something of theirs is first asked for


def __getattr__(name: str) -> object:
    """What the library offers, imported when it is first used: torch takes seconds."""
    if name in __all__:
        for room in map(import_module, ROOMS):
            if hasattr(room, name):
                return globals().setdefault(name, getattr(room, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of the library, imported or not."""
    return sorted({*globals(), *__all__})
