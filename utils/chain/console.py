"""What a chain shows while it runs: its own lines, a few epochs of each training, and how long all of it will take."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

OWN = ("pipeline.pipeline", "pipeline.summary", "utils.chain")  # loggers of the chain itself
EPOCHS_SHOWN = 6  # of a training
UNITS: Mapping[str, float] = {"baseline": 1.0, "sparse": 1.0, "finetuned": 1.2}  # an epoch's cost, about
OTHERS = 4.0  # epochs' worth of a stage that trains nothing, and of the comparison at the end


class Remaining:
    """How long the rest of a chain takes, from the pace of what ran in this sitting.

    Args:
        epochs: expected of each training stage; the others cost `OTHERS`.
        stages: all of them, in order.
    """

    def __init__(self, epochs: Mapping[str, int], stages: tuple[str, ...]) -> None:
        self.units = {name: UNITS.get(name, 1.0) * epochs[name] if name in epochs else OTHERS for name in stages}
        self.order = stages
        self.began = time.monotonic()
        self.done = 0.0

    def ended(self, stage: str) -> None:
        """A stage that ran came to its end."""
        self.done += self.units[stage]

    def skip(self) -> None:
        """What was done before says nothing about the pace."""
        self.began = time.monotonic() if not self.done else self.began

    def seconds(self, stage: str, share: float) -> float | None:
        """Of the rest, when this share of a stage is done; None before anything is."""
        done = self.done + share * self.units[stage]
        later = self.order[self.order.index(stage) + 1 :]
        left = (1 - share) * self.units[stage] + sum(self.units[name] for name in later) + OTHERS
        return (time.monotonic() - self.began) / done * left if done > 0 else None


class Console(logging.Handler):
    """In place of another handler: what the chain says, warnings, and some of the lines of epochs."""

    def __init__(self, inner: logging.Handler, remaining: Remaining, *, verbose: bool) -> None:
        super().__init__(inner.level)
        self.inner, self.remaining, self.verbose = inner, remaining, verbose
        self.stage, self.place = "", ""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on what is to be seen."""
        epoch, epochs = getattr(record, "epoch", 0), getattr(record, "epochs", 0)
        if not self._shown(record, epoch, epochs):
            return
        if epoch:
            record = copy.copy(record)
            record.msg, record.args = self._line(record.getMessage(), epoch, epochs), None
        self.inner.emit(record)

    def _shown(self, record: logging.LogRecord, epoch: int, epochs: int) -> bool:
        always = record.levelno >= logging.WARNING or getattr(record, "always", False)
        if self.verbose or always or record.name.startswith(OWN):
            return True
        return epoch > 0 and (epoch in (1, epochs) or epoch % max(1, -(-epochs // EPOCHS_SHOWN)) == 0)

    def _line(self, message: str, epoch: int, epochs: int) -> str:
        left = self.remaining.seconds(self.stage, epoch / epochs)
        eta = f"; about {minutes(left)} for the rest of the chain" if left is not None else ""
        return f"[{self.place}] {message if self.verbose else message.splitlines()[0]}{eta}"


def minutes(seconds: float) -> str:
    """``40 seconds``, ``12 minutes``."""
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


@contextmanager
def console(kind: type[logging.Handler], remaining: Remaining, *, verbose: bool) -> Iterator[list[Console]]:
    """A `Console` in place of each handler of this kind that the root logger has."""
    root = logging.getLogger()
    found = [handler for handler in root.handlers if isinstance(handler, kind)]
    shown = [Console(handler, remaining, verbose=verbose) for handler in found]
    for old, new in zip(found, shown, strict=True):
        root.removeHandler(old)
        root.addHandler(new)
    try:
        yield shown
    finally:
        for old, new in zip(found, shown, strict=True):
            root.removeHandler(new)
            root.addHandler(old)
