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
from utils.errors import InputError
from utils.files import write_text, writing
from utils.quantization.executor import IntegerExecutor, image_levels
from utils.quantization.integer import IntegerNetwork
from utils.quantization.validate import readouts
from utils.spiking.choices import LAYERWISE
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stepwise import StepwiseExecutor

EVENT = np.dtype([("t", "<u2"), ("x", "<u2"), ("y", "<u2"), ("c", "<u2"), ("sign", "i1")])
Events = NDArray[np.void]
MOST_ROWS = 10**6  # of events in a csv; more are in the npy alone
AER_WORDS = """# Address events

Address events, one a spike, as (t, x, y, c, sign): npy is a structured array, csv has a heading.

<image>_in: the image's pixels; one of level n (0..255) fires in each of the first n of 255 steps. A layer that adds
them up gets n. <image>_layer_<i>: what the read-outs read, in {mode} mode; t counts steps from the frame's first, and a
layer fires in its own window of {window} steps. Signed spikes of a neuron add up to its integer level. Of more than
{most:,} events there is no csv.

| file | C x H x W | its window begins at step | a spike is worth |
|---|---|---|---|
{rows}

    counts = numpy.zeros((C, H, W), int); numpy.add.at(counts, (events["c"], events["y"], events["x"]), events["sign"])
"""


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


def write_image_events(folder: Path, integer: IntegerNetwork, images: Tensor) -> tuple[list[str], int]:
    """Files of each image's events, in and out, and a README.

    Args:
        folder: is there.
        integer: the network.
        images: [N,C,H,W] of n / 255.

    Returns:
        The files' names, and how many events there are.

    Raises:
        InputError: the events do not add up to the integer levels, which would be our mistake.
    """
    network, total = encode(integer), 0
    names: list[str] = []
    golden = IntegerExecutor(integer).levels(images)
    for k, x in enumerate(images):
        found = {-1: image_events(x)} | output_events(network, x)
        for i, events in found.items():
            name = "in" if i < 0 else f"layer_{i}"
            counts = counts_of(events, shape_of(network, i, *images.shape[2:]))
            if not np.array_equal(counts, golden[i][k].numpy()):
                raise InputError(f"image {k}, {name}: events do not add up to the levels; please report this network")
            total += len(events)
            forms = ("npy", "csv") if len(events) <= MOST_ROWS else ("npy",)
            names += [write_events(folder / f"{k}_{name}.{form}", events).name for form in forms]
    rows = []
    for i in sorted(found):
        size = " x ".join(map(str, shape_of(network, i, *images.shape[2:])))
        start = 0 if i < 0 else network.start[i] * network.window
        worth = 1 / 255 if i < 0 else integer.grids[i].scale
        rows.append(f"| `<image>_{'in' if i < 0 else f'layer_{i}'}` | {size} | {start} | {worth:.6g} |")
    words = AER_WORDS.format(mode=LAYERWISE, window=network.window, most=MOST_ROWS, rows="\n".join(rows))
    return [*names, write_text(folder / "README.md", words).name], total
