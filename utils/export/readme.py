"""README.md of a hand-off: what lies where, what exactly is computed, and one output worked out in real numbers."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from torch import Tensor

from utils.darknet.spec import Conv
from utils.quantization.executor import IntegerExecutor, Trace
from utils.quantization.integer import IntConv, IntegerNetwork

TEMPLATE = Path(__file__).with_name("README.template.md")
SHOWN = 12  # products written out; the rest are summed up

TILES = """\
- **tiled** weights (`NNN_w_tiled.*`): tiles of $tm outputs x $tn inputs, output tiles outside, input tiles inside;
  within a tile [ky][kx][output][input]. The last tiles are as short as what is left: nothing is padded or left out.
  `starts` gives the first element of each tile.
"""

RESIZED = {
    "letterbox": "letterboxed: scaled with its aspect, put in the middle, the border filled with 114",
    "stretch": "stretched: each side scaled to the network's, its aspect is not kept",
}
SPIKES = """
## As spikes

Phase mode: a layer waits until its inputs' window of L = $window steps is over, then fires in its own. `neuron` of a
layer: threshold theta = 2^log2_theta; V = theta/2 + acc * m (m_neg where acc < 0), acc summed over all input spikes
and the bias. In each step +1 where V >= theta and fewer than hi were fired, -1 where V < 0 and more than lo; V falls
by theta times what was fired. The spikes of a window add up to the level. One frame leaves every $interval_steps
steps, a frame takes $latency_steps steps.

A neuron of level n fires in the first |n| steps of its window, so its train follows from `NNN_out`. For $trains of
$images golden images it is also written: `golden/K/NNN_spikes.*` is the train of layer NNN in its own window,
[step][channel][y][x], 1 where it fires; `NNN_sign.*`, where a layer fires negative spikes too, is 1 for the neurons
whose spikes are negative, [channel][y][x]. Both are packed in rows: a line of mem is one row of the map, the lowest
bit its column 0; npy is uint8, for `numpy.unpackbits(rows, axis=-1, count=width, bitorder="little")`; bin has no
gaps.
"""


def readme(manifest: dict[str, Any], network: IntegerNetwork, images: Tensor) -> str:
    """The text."""
    totals, tile, times, golden = (manifest[key] for key in ("totals", "tile", "spiking", "golden"))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=manifest["name"],
        layers=len(manifest["layers"]),
        resized=RESIZED[manifest["image"]["resize"]],
        image="x".join(map(str, manifest["image"]["shape"])),
        **{key: f"{totals[key]:,}" for key in ("macs", "bops", "weight_bytes")},
        tiles="" if tile is None else Template(TILES).substitute(tile),
        spikes="" if times is None else Template(SPIKES).substitute(times, trains=len(golden["spikes"]), **golden),
        example=worked_example(network, IntegerExecutor(network).trace(images[:1])),
    )


def worked_example(network: IntegerNetwork, trace: Trace) -> str:
    """One element of the first requantised convolution, near the middle of the map, in real numbers."""
    found = [i for i, op in network.ops.items() if isinstance(op, IntConv) and op.requantiser is not None]
    if not found:
        return "No convolution is requantised: every accumulator is read out as it is."
    i = found[0]
    layer, op = network.conv(i)
    by, out, grid = op.requantiser, trace.levels[i][0], network.grids[i]
    assert by is not None
    o, y, x = _interesting(out.numpy(), grid.qmin, grid.qmax)
    products = _products(layer, op.weight.numpy(), trace.levels[layer.sources[0]][0].numpy(), (o, y, x))
    bias = int(op.bias[o])
    acc = sum(w * n for w, n in products) + bias
    gain = int(by.multiplier_neg[o] if acc < 0 else by.multiplier[o])
    level = (acc * gain + (1 << (by.shift - 1))) >> by.shift if by.shift > 0 else acc * gain << -by.shift
    clipped, given = min(max(level, by.qmin), by.qmax), int(out[o, y, x])
    table = None if op.table is None else int(op.table[clipped - by.qmin])
    assert acc == int(trace.accumulators[i][0, o, y, x]) and given == (clipped if table is None else table)
    live = [(w, n) for w, n in products if w * n]
    terms = " + ".join(f"({w})*{n}" for w, n in live[:SHOWN])
    more = f" + {sum(w * n for w, n in live[SHOWN:])} (the other {len(live) - SHOWN})" if len(live) > SHOWN else ""
    shifted = (
        f"({acc} * {gain} + 2^{by.shift - 1}) >> {by.shift}" if by.shift > 0 else f"({acc} * {gain}) << {-by.shift}"
    )
    return (
        f"Layer {i}, golden image 0, output channel {o} at y = {y}, x = {x}; the products that are not 0, in the\n"
        "order [i][ky][kx]:\n\n"
        f"    acc   = {terms or 0}{more} + bias {bias}\n"
        f"          = {acc}\n"
        f"    m     = {gain}, f = {by.shift}\n"
        f"    level = {shifted} = {level}, clipped to {by.qmin}..{by.qmax}: {clipped}\n"
        + ("" if table is None else f"    table[{clipped} - ({by.qmin})] = {table}\n")
        + f"\n`golden/0/{i:03d}_out.npy`[{o}, {y}, {x}] is {given}."
    )


def _interesting(levels: np.ndarray, qmin: int, qmax: int) -> tuple[int, ...]:
    """An element that is neither 0 nor clipped, near the middle; the middle itself where there is none."""
    middle = np.array(levels.shape) // 2
    good = np.argwhere((levels > qmin) & (levels < qmax) & (levels != 0))
    chosen = good[np.abs((good - middle)[:, 1:]).sum(1).argmin()] if len(good) else middle
    return tuple(int(at) for at in chosen)


def _products(layer: Conv, weight: np.ndarray, n: np.ndarray, place: tuple[int, ...]) -> list[tuple[int, int]]:
    """(weight, input) of every tap on the map."""
    o, y, x = place
    first = o // (layer.filters // layer.groups) * weight.shape[1]
    found = []
    for (c, ky, kx), w in np.ndenumerate(weight[o]):
        row, column = (
            at * step - layer.pad + tap * layer.dilation
            for at, step, tap in ((y, layer.stride[0], ky), (x, layer.stride[1], kx))
        )
        if 0 <= row < n.shape[1] and 0 <= column < n.shape[2]:
            found.append((int(w), int(n[first + c, row, column])))
    return found
