"""How long the spiking engine works on an image: its program, followed word by word on the golden levels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utils.export.engine.clocks import EventWork
from utils.export.engine.edges import Edge
from utils.export.engine.isa import Compute, Load, Op
from utils.export.engine.program import Program
from utils.quantization.integer import IntegerNetwork

UNKNOWN = 0xA5  # what the simulation's memory holds where nobody wrote


def work_of(network: IntegerNetwork, program: Program, *levels: Mapping[int, np.ndarray]) -> list[EventWork]:
    """Of every descriptor.

    Args:
        network: the program's.
        levels: int [C,H,W] of every edge, -1 the image; read-outs have none. In stream mode the spikes of every step,
            of which the first has the image too, and the counts.
    """
    lanes, plan = program.engine.lanes, program.plan
    memory = np.full((program.words, lanes), UNKNOWN, np.uint8)
    buffer = np.zeros((program.engine.input_words, lanes), np.uint8)
    put(memory, program, plan.edges[-1], levels[0][-1])
    found, layer, now = [], -1, levels[0]
    counts = program.phases or (len(program.descriptors),)
    begins = dict(zip(np.cumsum((0, *counts[:-1])).tolist(), levels, strict=True))
    for k, one in enumerate(program.descriptors):
        layer, now = (-1, begins[k]) if k in begins else (layer, now)
        if one.layer > layer and isinstance(one, Load | Compute):
            layer = one.layer
            for (i, j), edge in plan.reordered.items():
                if i == layer:
                    put(memory, program, edge, now[j], holes=0)
            owns = all(block.buffer == layer for block in plan.edges[layer].blocks)
            if owns and layer in now:
                put(memory, program, plan.edges[layer], now[layer], holes=0)
        if isinstance(one, Load) and one.op is Op.LOAD_INPUT:
            starts = one.address + one.stride * np.arange(one.rows)
            buffer[one.into : one.into + one.words] = memory[(starts[:, None] + np.arange(one.length)).ravel()]
        work = EventWork()
        if isinstance(one, Compute) and one.events is not None:
            work = of_events(one, buffer) if one.raw else of_neurons(one, buffer, memory)
        found.append(work)
    return found


def put(memory: np.ndarray, program: Program, edge: Edge, values: np.ndarray, holes: int | None = None) -> None:
    """A map into memory; ``holes``: what lanes without a channel hold then."""
    for block in edge.blocks:
        at = program.address(block)
        for k, c in enumerate(block.lanes):
            if c >= 0:
                memory[at : at + edge.pixels, k] = values[c].ravel() & 0xFF
            elif holes is not None:
                memory[at : at + edge.pixels, k] = holes


def of_neurons(one: Compute, buffer: np.ndarray, memory: np.ndarray) -> EventWork:
    """Events, then a clock more a word than its busiest neuron has spikes; one where levels only move."""
    made, found = memory[one.address : one.address + one.words], of_events(one, buffer)
    fired = 0 if one.plain or one.stream else int(magnitudes(made, one.lo < 0).max(1).sum())
    return EventWork(found.clocks + one.outputs + fired, found.accumulates)


def of_events(one: Compute, buffer: np.ndarray) -> EventWork:
    """Every word of the buffer takes a clock, or those of its events; accumulators four clocks more a word."""
    events = one.events
    assert events is not None
    words = buffer[: one.blocks * one.high * one.wide].reshape(one.blocks, one.high, one.wide, -1)
    signs = np.array([one.signed >> b % 64 & 1 for b in range(one.blocks)], bool)[:, None, None, None]
    used = np.array([events.used >> k & 1 for k in range(words.shape[-1])])
    size = np.where(signs, np.abs(words.view(np.int8).astype(np.int64)), words) * used
    if events.diagonal:
        size = (np.bitwise_or.reduce(size, -1) if events.bits else size.max(-1))[..., None]
    spikes = np.array([bin(n).count("1") for n in range(256)])[size] if events.bits else size
    (from_x, phase_x), (from_y, phase_y) = one.origin
    on_x, off_x = reached(one, 1, one.wide, from_x, phase_x)
    on_y, off_y = (each[:, None] for each in reached(one, 0, one.high, from_y, phase_y))
    some = ((on_x + off_x > 0) & (on_y + off_y > 0))[..., None] * (spikes > 0)  # events
    of_event = off_y[..., None] + on_y[..., None] * (off_x[..., None] + on_x[..., None] * spikes)
    clocks = np.maximum(1, (some * of_event).sum(-1)).sum()
    accumulates = (some * on_y[..., None] * on_x[..., None] * spikes).sum()
    return EventWork(int(clocks) + (4 * one.outputs if one.raw else 0), int(accumulates))


def reached(one: Compute, axis: int, count: int, start: int, phase: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every row or column of the input: taps that reach an output, and those that are tried in vain, int [count]."""
    step, kernel, size = one.step[axis], one.kernel[axis], one.size[axis]
    on, off = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for k in range(count):
        (out, tap) = divmod(start * step + phase + k, step) if one.up == 1 else (start + k * one.up, 0)
        while tap < kernel and out >= 0:
            (on if out < size else off)[k] += 1
            out, tap = out - one.dilation, tap + step
    return on, off


def magnitudes(words: np.ndarray, signed: bool) -> np.ndarray:
    """Spikes of levels held in bytes, int [words, L]."""
    return np.abs((words.view(np.int8) if signed else words).astype(np.int64))
