"""Rows of the files that a chain leaves: the epochs of its trainings, how gammas lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from utils.reporting.record import Record
from utils.reporting.results import read_rows

BINS = np.geomspace(1e-6, 10.0, 85)  # of |gamma|: twelve a decade


def epochs(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The epochs of all trainings, counted through, with the stage they belong to."""
    rows = [
        {"stage": name, **row}
        for name, record in records.items()
        if record.script == "train"
        for row in read_rows(record.folder / "results.csv")
    ]
    keys = {key: None for row in rows for key in row}
    return [{**keys, **row, "epoch": number} for number, row in enumerate(rows, 1)]


def histogram(sets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """How many |gamma| of each network lie between two edges; what lies outside is in the outermost."""
    counts = {}
    for name, values in sets.items():
        inside = np.abs(values.detach().float().numpy()).clip(BINS[0], BINS[-1] * (1 - 1e-6))
        counts[name] = np.histogram(inside, BINS)[0].tolist()
    last = max(i for each in counts.values() for i, count in enumerate(each) if count)
    edges = [float(f"{edge:.6g}") for edge in BINS]
    return [
        {"from": edges[i], "to": edges[i + 1], **{name: each[i] for name, each in counts.items()}}
        for i in range(last + 1)
    ]
