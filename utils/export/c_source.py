"""net.c: a constant struct for every layer, and the calls one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.walk import rule
from utils.export.c_memory import ArenaPlan, storage, view
from utils.export.costs import Shape, table_of
from utils.export.layers import bent
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntGate, IntPool, IntShortcut, Requantiser
from utils.quantization.validate import readouts

TEMPLATE = """\
#include "net.h"

#include "layers.h"
#include "weights.h"

#define tell(layer, at, kind, count) \\
    do {{ if (hook) hook(context, layer, bytes + at, kind, count); }} while (0)

{structs}
int64_t net_number(const void *numbers, int kind, long at)
{{
    switch (kind) {{
    case STORED_U8: return ((const uint8_t *)numbers)[at];
    case STORED_S8: return ((const int8_t *)numbers)[at];
    case STORED_S16: return ((const int16_t *)numbers)[at];
    case STORED_S32: return ((const int32_t *)numbers)[at];
    default: return ((const acc_t *)numbers)[at];
    }}
}}

void net_run(const uint8_t *image, void *arena, const acc_t *heads[NET_HEADS], net_hook hook, void *context)
{{
    uint8_t *bytes = arena;
    if (image)
        for (long at = 0; at < NET_IMAGE; ++at)
            bytes[NET_IMAGE_AT + at] = image[at];
{run}{heads}}}
"""


TOLD = "    tell(-1, NET_IMAGE_AT, STORED_U8, NET_IMAGE);\n"
STEPS = """\
{rest}    for (int step = 0; step < NET_STEPS; ++step) {{
{frame}{calls}    }}
"""
FRAME = """\
        for (long at = 0; at < {size}; ++at)
            bytes[{to} + at] = bytes[NET_IMAGE_AT + step * {size}L + at];
"""


@dataclass(frozen=True)
class Writer:
    """What the text of a layer needs."""

    network: IntegerNetwork
    shape: dict[int, Shape]
    arena: ArenaPlan

    def kind(self, i: int) -> str:
        """What the numbers of layer ``i`` are stored as, in C's words."""
        return f"STORED_{storage(self.network, i) if i in self.network.grids else 'ACC'}"

    def at(self, what: str, i: int) -> int:
        """First byte of a block of the arena; 0 where there is none."""
        return self.arena.start.get((what, i), 0)

    def map(self, i: int) -> str:
        """`struct map`."""
        return "{" + ", ".join(map(str, (*self.shape[i], self.kind(i), self.at("map", i)))) + "}"

    def window(self, i: int) -> str:
        """`struct window`."""
        band, (size, (down, right), pad, _) = self.arena.bands[i], view(self.network, i)
        numbers = (size, down, right, pad, band.rows, *band.phases, band.high, band.wide, band.channel)
        return "{" + ", ".join(map(str, (*numbers, f"taps_{i:03d}", self.at("band", i)))) + "}"

    def taps(self, i: int) -> str:
        """The array that a window points to."""
        taps = self.arena.bands[i].taps
        return f"static const int taps_{i:03d}[{len(taps)}] = {{{', '.join(map(str, taps))}}};\n"

    def struct(self, kind: str, i: int, *fields: object) -> str:
        """A constant of ``struct kind``."""
        return f"static const struct {kind} layer_{i:03d} = {{{', '.join(map(str, fields))}}};\n"

    def requantiser(self, i: int, op: IntegerOp) -> str:
        """`struct requantiser`."""
        by, table, name = op.requantiser, "0" if table_of(op) is None else f"t_{i:03d}", f"{i:03d}"
        if by is None:
            return "{0, 0, 0, 0, 0, 0, 0}"
        negative = f"n_{name}" if bent(by) else f"m_{name}"
        return f"{{m_{name}, {negative}, {int(len(gains_of(by)[0]) > 1)}, {by.shift}, {by.qmin}, {by.qmax}, {table}}}"


def source(network: IntegerNetwork, shape: dict[int, Shape], arena: ArenaPlan) -> str:
    """The text of net.c."""
    writer, structs, calls = Writer(network, shape, arena), [], []
    for i in range(len(network.spec.layers)):
        if i in network.spec.heads:
            continue
        text, called = _layer(writer, i)
        structs.append(text)
        calls += [f"    {each};\n" for each in called]
        calls.append(f"    {_told(writer, i)}")
    heads = [
        f"    heads[{k}] = (const acc_t *)(const void *)(bytes + {writer.at('map', i)});\n"
        for k, i in enumerate(sorted(set(readouts(network.spec))))
    ]
    run = _steps(writer, calls) if network.timed else TOLD + "".join(calls)
    return TEMPLATE.format(structs="".join(structs), run=run, heads="".join(heads))


def _steps(writer: Writer, calls: Sequence[str]) -> str:
    """The calls in every step; read-outs are told behind them, when their sums are whole."""
    ends, size = sorted(set(readouts(writer.network.spec))), prod(writer.shape[-1])
    rest = [f"    rest(bytes, {at}, {prod(writer.shape[i])});\n" for i, at in writer.arena.kept(ends).items()]
    frames = writer.network.spec.input_frames
    frame = FRAME.format(size=size, to=writer.at("map", -1)) if frames else ""
    told = [f"    {_told(writer, i)}" for i in ends]
    inside = [f"    {each}" for each in (TOLD, *calls) if each not in told]
    return STEPS.format(rest="".join(rest), frame=frame, calls="".join(inside)) + "".join(told)


def _told(writer: Writer, i: int) -> str:
    return f"tell({i}, {writer.at('map', i)}, {writer.kind(i)}, {prod(writer.shape[i])});\n"


def gains_of(by: Requantiser) -> tuple[Tensor, Tensor]:
    """m and m_neg, one number each where all channels have the same."""
    same = all(bool((gain == gain[0]).all()) for gain in (by.multiplier, by.multiplier_neg))
    return (by.multiplier[:1], by.multiplier_neg[:1]) if same else (by.multiplier, by.multiplier_neg)


Text = tuple[str, list[str]]  # the structs of a layer, and its calls


def _layer(writer: Writer, i: int) -> Text:
    layer, op, name = writer.network.spec.layers[i], writer.network.ops.get(i), f"layer_{i:03d}"
    source, out = layer.sources[0], writer.map(i)
    match op:
        case IntConv():
            return _conv(writer, i, op)
        case IntShortcut():
            given = ", ".join(map(writer.map, layer.sources))
            numbers = (len(op.gains), int(op.gains.shape[1] > 1), f"in_{i:03d}", f"g_{i:03d}")
            sources = f"static const struct map in_{i:03d}[] = {{{given}}};\n"
            return sources + writer.struct("shortcut", i, out, *numbers, writer.requantiser(i, op)), [
                f"shortcut(&{name}, bytes)"
            ]
        case IntPool():
            text = writer.struct("pointwise", i, writer.map(source), out, out, writer.requantiser(i, op))
            return text, [f"average(&{name}, bytes)"]
        case IntGate():
            gates, features = map(writer.map, layer.sources)
            text = writer.struct("pointwise", i, features, out, gates, writer.requantiser(i, op))
            return text, [f"gate(&{name}, bytes)"]
    text, calls = rule(MOVES, layer, "form in C")(writer, i, layer)
    return text, calls


def _conv(writer: Writer, i: int, op: IntConv) -> Text:
    conv, _ = writer.network.conv(i)
    text = (
        writer.taps(i)
        + _neurons(writer, i, op)
        + writer.struct(
            "conv",
            i,
            writer.map(conv.sources[0]),
            writer.map(i),
            writer.window(i),
            conv.groups,
            f"w_{i:03d}",
            f"b_{i:03d}",
            writer.requantiser(i, op),
            writer.at("sums", i),
            writer.at("levels", i),
            f"&neurons_{i:03d}" if op.neuron else 0,
            int(writer.network.timed),
        )
    )
    return text, [f"conv(&layer_{i:03d}, bytes)"]


def _neurons(writer: Writer, i: int, op: IntConv) -> str:
    """`struct lif`, where the convolution has neurons."""
    if op.neuron is None:
        return ""
    fields = (f"k_{i:03d}", op.neuron.shift, int(op.neuron.most), int(op.neuron.soft), writer.at("membranes", i))
    return f"static const struct lif neurons_{i:03d} = {{{', '.join(map(str, fields))}}};\n"


def _pool(writer: Writer, i: int, layer: s.MaxPool) -> Text:
    lowest = writer.network.grids[i].qmin
    fields = (writer.map(layer.sources[0]), writer.map(i), writer.window(i), lowest, writer.at("levels", i))
    return writer.taps(i) + writer.struct("pool", i, *fields), [f"max_pool(&layer_{i:03d}, bytes)"]


def _move(function: str, stride: int = 1, spread: int = 1) -> Callable[[Writer, int, s.Layer], Text]:
    def text(writer: Writer, i: int, layer: s.Layer) -> Text:
        fields = (writer.map(layer.sources[0]), writer.map(i), stride, spread, 0, 0, 0)
        return writer.struct("move", i, *fields), [f"{function}(&layer_{i:03d}, bytes)"]

    return text


def _strided(function: str) -> Callable[[Writer, int, Any], Text]:
    return lambda writer, i, layer: _move(function, layer.stride)(writer, i, layer)


def _enlarge(writer: Writer, i: int, layer: s.Upsample) -> Text:
    move = _move("fit", spread=layer.stride) if layer.zeros else _move("upsample", layer.stride)
    return move(writer, i, layer)


def _route(writer: Writer, i: int, layer: s.Route) -> Text:
    """A copy of a slice of each source, one after the other."""
    return _copies(writer, i, layer, layer.groups, layer.group_id)


def _copies(writer: Writer, i: int, layer: s.Layer, groups: int = 1, group: int = 0) -> Text:
    rows, calls, done = [], [], 0
    for k, j in enumerate(layer.sources):
        c, h, w = writer.shape[j]
        count = c // groups * h * w
        rows.append(f"    {{{writer.map(j)}, {writer.map(i)}, 1, 1, {group * count}, {count}, {done}}},\n")
        calls.append(f"copy(&layer_{i:03d}[{k}], bytes)")
        done += count
    return f"static const struct move layer_{i:03d}[] = {{\n{''.join(rows)}}};\n", calls


MOVES: dict[type[s.Layer], Callable[[Writer, int, Any], Text]] = {  # of layers that only move levels
    s.MaxPool: _pool,
    s.Upsample: _enlarge,
    s.Fitted: lambda writer, i, layer: _move("fit", layer.stride, layer.spread)(writer, i, layer),
    s.Reorg: _strided("reorg"),
    s.Reorg3d: _strided("space_to_depth"),
    s.Route: _route,
    s.Dropout: _copies,
}
