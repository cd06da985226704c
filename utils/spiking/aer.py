"""Address events: the spikes of an image as a list of (t, x, y, c, sign), one row a spike."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.darknet.shapes import channels, sizes
from utils.files import write_text, writing
from utils.quantization.executor import image_levels
from utils.quantization.validate import readouts
from utils.spiking.spike_schedule import SpikingNetwork
from utils.spiking.stepwise import StepwiseExecutor

EVENT = np.dtype([("t", "<u2"), ("x", "<u2"), ("y", "<u2"), ("c", "<u2"), ("sign", "i1")])
Events = NDArray[np.void]


def events_of(train: Tensor, start: int = 0) -> Events:
    """Events of a train [T,C,H,W] of -1, 0, 1, in order of time, channel, row, column; ``start`` is step 0's."""
    found = train.nonzero()  # [n, 4] t, c, y, x
    events = np.empty(len(found), EVENT)
    for name, column, offset in (("t", 0, start), ("c", 1, 0), ("y", 2, 0), ("x", 3, 0)):
        events[name] = (found[:, column] + offset).cpu().numpy()
    events["sign"] = train[tuple(found.T)].cpu().numpy()
    return events


def image_events(x: Tensor) -> Events:
    """An image [C,H,W] of n / 255 as spikes: a pixel of level n fires in each of the first n of 255 steps.

    A layer that adds them up gets n, as it does from the direct current that our own executors use.
    """
    levels = image_levels(x[None])[0].to(torch.int16)
    c, y, x_ = levels.nonzero(as_tuple=True)
    counts = levels[c, y, x_].long()
    firsts = counts.cumsum(0) - counts
    steps = torch.arange(int(counts.sum())) - firsts.repeat_interleave(counts)
    order = steps.argsort(stable=True)
    events = np.empty(len(steps), EVENT)
    events["t"], events["sign"] = steps[order].numpy(), 1
    for name, values in (("x", x_), ("y", y), ("c", c)):
        events[name] = values.repeat_interleave(counts)[order].numpy()
    return events


def output_events(network: SpikingNetwork, x: Tensor) -> dict[int, Events]:
    """Layer -> events of what the read-outs read, for an image [C,H,W]; times count from the frame's first step."""
    read = {network.spec.layers[i].sources[0] for i in readouts(network.spec)}
    trains = StepwiseExecutor(network).simulate(x[None]).trains
    return {i: events_of(trains[i][:, 0], network.start[i] * network.window) for i in sorted(read)}


def counts_of(events: Events, shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """The inverse, as far as sums go: signed spikes of each neuron, [C,H,W]."""
    counts = np.zeros(shape, np.int32)
    np.add.at(counts, (events["c"], events["y"], events["x"]), events["sign"])
    return counts


def shape_of(network: SpikingNetwork, i: int, height: int, width: int) -> tuple[int, int, int]:
    """[C,H,W] of an edge."""
    return (channels(network.spec)[i], *sizes(network.spec, height, width)[i])


def write_events(path: str | Path, events: Events) -> Path:
    """A structured ``.npy``, or a ``.csv`` with a heading, by the path's suffix."""
    path = Path(path)
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(EVENT.names or ())
        writer.writerows(events.tolist())
        return write_text(path, text.getvalue())
    with writing(path) as temporary, temporary.open("wb") as file:
        np.save(file, events)
    return path
