"""The network as plain C99: integers only, no library, no heap, every buffer in an arena the caller provides."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.ops import rule
from utils.export.costs import Shape, table_of
from utils.export.layers import bent
from utils.export.make import run_make
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntGate, IntPool, IntShortcut, Requantiser
from utils.quantization.validate import readouts

FIXED = Path(__file__).with_name("c")
NUMBERS_A_LINE = 24
SIGNATURE = (
    "void net_run(const uint8_t *image, level_t *arena, acc_t *const heads[NET_HEADS], net_hook hook, void *context)"
)
TYPES = ((7, "int8_t"), (15, "int16_t"), (31, "int32_t"), (63, "int64_t"))  # bits beside the sign


def write_c(folder: Path, network: IntegerNetwork, shape: dict[int, Shape], golden: int) -> None:
    """Write c/: layers.c and check.c are the same for every network, types.h, weights.h and net.{h,c} are its own."""
    shutil.copytree(FIXED, folder)
    arena = plan_arena(network, shape)
    (folder / "types.h").write_text(_types(network))
    (folder / "net.h").write_text(_header(network, shape, arena, golden))
    (folder / "weights.h").write_text(_weights(network))
    (folder / "net.c").write_text(_source(network, shape, arena))


def compile_and_check(folder: Path) -> str:
    """``make check`` outside the folder, which stays clean; returns what it said.

    Raises:
        InputError: it does not compile, or a layer differs from the golden vectors.
    """
    if not (shutil.which("make") and shutil.which("cc")):
        return "C99: written but not compiled, there is no cc and make here; run make check in c/"
    return run_make(folder)


@dataclass(frozen=True)
class Arena:
    """Where each edge lives: ``start`` of its levels, while it is needed; ``size`` of the whole, in levels."""

    start: dict[int, int]
    size: int


def plan_arena(network: IntegerNetwork, shape: dict[int, Shape]) -> Arena:
    """First fit: an edge takes the lowest free stretch from the layer that makes it to the last that reads it."""
    last, top = network.spec.last_readers, 0
    start: dict[int, int] = {}
    live: dict[int, int] = {}  # edge -> its levels
    for i in range(-1, len(network.spec.layers)):
        if i in network.grids:
            count, at = int(np.prod(shape[i])), 0
            for other in sorted(live, key=start.__getitem__):
                if start[other] < at + count:
                    at = max(at, start[other] + live[other])
            start[i], live[i], top = at, count, max(top, at + count)
        live = {j: n for j, n in live.items() if last.get(j, j) > i}
    return Arena(start, top)


def _smallest(bits: int) -> str:
    return next(name for room, name in TYPES if bits <= room)


def _types(network: IntegerNetwork) -> str:
    convs = [op for op in network.ops.values() if isinstance(op, IntConv)]
    reach = max(grid.reach for grid in network.grids.values())
    names = {
        "level_t": _smallest(reach.bit_length()),
        "weight_t": _smallest(max(op.w_bit for op in convs) - 1),
        "acc_t": _smallest(max(31, *(op.acc_bits - 1 for op in convs))),
    }
    lines = "".join(f"typedef {kind} {name};\n" for name, kind in names.items())
    widest = max(op.acc_bits for op in convs)
    return (
        "/* As wide as the network's bounds demand: "
        f"levels reach {reach}, the widest accumulator needs {widest} bits. */\n"
        f"#ifndef TYPES_H\n#define TYPES_H\n\n#include <stdint.h>\n\n{lines}\n#endif\n"
    )


def _header(network: IntegerNetwork, shape: dict[int, Shape], arena: Arena, golden: int) -> str:
    ends = sorted(set(readouts(network.spec)))
    c, h, w = shape[-1]
    numbers = {
        "NET_IMAGE": c * h * w,
        "NET_ARENA": arena.size,
        "NET_HEADS": len(ends),
        "NET_LARGEST_HEAD": max(int(np.prod(shape[i])) for i in ends),
        "NET_GOLDEN": golden,
    }
    defines = "".join(f"#define {name} {value}\n" for name, value in numbers.items())
    heads = "".join(f"    heads[{k}]: layer {i}, {list(shape[i])}\n" for k, i in enumerate(ends))
    return f"""#ifndef NET_H
#define NET_H

#include "types.h"

{defines}
/* Told of every layer as soon as it is there; levels is null for a read-out, acc for every other layer. */
typedef void (*net_hook)(void *context, int layer, const level_t *levels, const acc_t *acc, long count);

/* Run the network.
    image: 8-bit pixels [{c}][{h}][{w}]
    arena: NET_ARENA levels of working memory, {arena.size:,} x sizeof(level_t) bytes
    heads: where the accumulators go
{heads}    hook: may be null */
{SIGNATURE};

#endif
"""


def _weights(network: IntegerNetwork) -> str:
    parts = ['#include "types.h"\n']
    for i, op in network.ops.items():
        if isinstance(op, IntConv):
            parts += [_array("weight_t", f"w_{i:03d}", op.weight), _array("int32_t", f"b_{i:03d}", op.bias)]
        elif isinstance(op, IntShortcut):
            parts.append(_array("int32_t", f"g_{i:03d}", op.gains))
        if op.requantiser is not None:
            m, m_neg = _gains(op.requantiser)
            parts.append(_array("int32_t", f"m_{i:03d}", m))
            if bent(op.requantiser):
                parts.append(_array("int32_t", f"n_{i:03d}", m_neg))
        table = table_of(op)
        if table is not None:
            parts.append(_array("level_t", f"t_{i:03d}", table))
    return "".join(parts)


def _array(kind: str, name: str, values: Tensor) -> str:
    numbers = [str(v) for v in values.flatten().tolist()]
    lines = [", ".join(numbers[at : at + NUMBERS_A_LINE]) for at in range(0, len(numbers), NUMBERS_A_LINE)]
    return f"static const {kind} {name}[{len(numbers)}] = {{\n" + ",\n".join(lines) + "};\n"


def _gains(by: Requantiser) -> tuple[Tensor, Tensor]:
    """m and m_neg, one number each where all channels have the same."""
    same = all(bool((gain == gain[0]).all()) for gain in (by.multiplier, by.multiplier_neg))
    return (by.multiplier[:1], by.multiplier_neg[:1]) if same else (by.multiplier, by.multiplier_neg)


def _map(shape: Shape) -> str:
    return "{" + ", ".join(map(str, shape)) + "}"


def _source(network: IntegerNetwork, shape: dict[int, Shape], arena: Arena) -> str:
    heads = {i: k for k, i in enumerate(sorted(set(readouts(network.spec))))}
    structs, steps = [], []
    for i, layer in enumerate(network.spec.layers):
        if i in network.spec.heads:
            continue
        structs.append(_struct(network, i, shape))
        to = f"heads[{heads[i]}]" if i in heads else f"arena + {arena.start[i]}"
        given = [f"arena + {arena.start[j]}" for j in layer.sources]
        steps.append(rule(CALLS, layer, "form in C")(layer, f"{i:03d}", given, to, [shape[j] for j in layer.sources]))
        message = f"0, {to}" if i in heads else f"{to}, 0"
        steps.append(f"    tell({i}, {message}, {int(np.prod(shape[i]))});\n")
    return (
        '#include "net.h"\n\n#include "layers.h"\n#include "weights.h"\n\n'
        "#define tell(layer, levels, acc, count) \\\n"
        "    do { if (hook) hook(context, layer, levels, acc, count); } while (0)\n\n"
        + "".join(structs)
        + f"\n{SIGNATURE}\n{{\n"
        + f"    for (long at = 0; at < NET_IMAGE; ++at)\n        arena[{arena.start[-1]} + at] = image[at];\n"
        + f"    tell(-1, arena + {arena.start[-1]}, 0, NET_IMAGE);\n"
        + "".join(steps)
        + "}\n"
    )


def _struct(network: IntegerNetwork, i: int, shape: dict[int, Shape]) -> str:
    """The constants of a layer, where it has any."""
    layer, op, name = network.spec.layers[i], network.ops.get(i), f"{i:03d}"
    source, out = _map(shape[layer.sources[0]]), _map(shape[i])
    match op:
        case IntConv():
            conv, _ = network.conv(i)
            down, right = conv.stride
            numbers = f"{conv.size}, {down}, {right}, {conv.pad}, {conv.dilation}, {conv.groups}"
            return (
                f"static const struct conv conv_{name} = {{{source}, {out}, {numbers}, w_{name}, b_{name}, "
                f"{_requantiser(name, op)}}};\n"
            )
        case IntShortcut():
            numbers = f"{len(op.gains)}, {int(op.gains.shape[1] > 1)}"
            return (
                f"static const struct shortcut sum_{name} = {{{out}, {numbers}, g_{name}, {_requantiser(name, op)}}};\n"
            )
        case IntPool():
            return f"static const struct pointwise mean_{name} = {{{source}, {_requantiser(name, op)}}};\n"
        case IntGate():
            return f"static const struct pointwise gate_{name} = {{{out}, {_requantiser(name, op)}}};\n"
    lowest = network.grids[i].qmin
    return rule(STRUCTS, layer, "form in C")(layer, name, source, out, lowest)


def _pool(layer: s.MaxPool, name: str, source: str, out: str, lowest: int) -> str:
    numbers = f"{layer.size}, {layer.stride}, {layer.pad // 2}, {lowest}"
    return f"static const struct pool pool_{name} = {{{source}, {out}, {numbers}}};\n"


def _moved(layer: s.Layer, name: str, source: str, out: str, lowest: int) -> str:
    return f"static const struct map map_{name} = {source};\n"


def _fit(layer: s.Fitted, name: str, source: str, out: str, lowest: int) -> str:
    return f"static const struct map map_{name} = {source}, out_{name} = {out};\n"


STRUCTS: dict[type[s.Layer], Callable[[Any, str, str, str, int], str]] = {  # of layers that only move levels
    s.MaxPool: _pool,
    s.Upsample: _moved,
    s.Reorg: _moved,
    s.Reorg3d: _moved,
    s.Fitted: _fit,
    s.Layer: lambda layer, name, source, out, lowest: "",
}


def _requantiser(name: str, op: IntegerOp) -> str:
    by, table = op.requantiser, "0" if table_of(op) is None else f"t_{name}"
    if by is None:
        return "{0, 0, 0, 0, 0, 0, 0}"
    negative = f"n_{name}" if bent(by) else f"m_{name}"
    return f"{{m_{name}, {negative}, {int(len(_gains(by)[0]) > 1)}, {by.shift}, {by.qmin}, {by.qmax}, {table}}}"


Call = Callable[[Any, str, list[str], str, list[Shape]], str]


def _conv_call(layer: s.Conv, name: str, given: list[str], to: str, shapes: list[Shape]) -> str:
    targets = f"0, {to}" if to.startswith("heads") else f"{to}, 0"
    return f"    conv(&conv_{name}, {given[0]}, {targets});\n"


def _sum_call(layer: s.Shortcut, name: str, given: list[str], to: str, shapes: list[Shape]) -> str:
    inputs = ", ".join(given)
    return f"    shortcut(&sum_{name}, (const level_t *const[]){{{inputs}}}, {to});\n"


def _enlarge_call(layer: s.Upsample, name: str, given: list[str], to: str, shapes: list[Shape]) -> str:
    kind = "spread" if layer.zeros else "upsample"
    return f"    {kind}(&map_{name}, {layer.stride}, {given[0]}, {to});\n"


def _fit_call(layer: s.Fitted, name: str, given: list[str], to: str, shapes: list[Shape]) -> str:
    return f"    fit(&map_{name}, &out_{name}, {layer.stride}, {layer.spread}, {given[0]}, {to});\n"


def _parted_call(layer: s.Reorg3d, name: str, given: list[str], to: str) -> str:
    return f"    space_to_depth(&map_{name}, {layer.stride}, {given[0]}, {to});\n"


def _route_call(layer: s.Route, name: str, given: list[str], to: str, shapes: list[Shape]) -> str:
    lines, done = [], 0
    for source, (c, h, w) in zip(given, shapes, strict=True):
        count = c // layer.groups * h * w
        lines.append(f"    copy({source} + {layer.group_id * count}, {count}, {to} + {done});\n")
        done += count
    return "".join(lines)


def _copy_call(layer: s.Layer, name: str, given: list[str], to: str, shapes: list[Shape]) -> str:
    return f"    copy({given[0]}, {int(np.prod(shapes[0]))}, {to});\n"


CALLS: dict[type[s.Layer], Call] = {
    # (layer, number, where its inputs are, where its output goes, shapes of the inputs) -> the call that computes it
    s.Conv: _conv_call,
    s.Shortcut: _sum_call,
    s.MaxPool: lambda layer, name, given, to, shapes: f"    max_pool(&pool_{name}, {given[0]}, {to});\n",
    s.AvgPool: lambda layer, name, given, to, shapes: f"    average(&mean_{name}, {given[0]}, {to});\n",
    s.ScaleChannels: lambda layer, name, given, to, shapes: f"    gate(&gate_{name}, {given[0]}, {given[1]}, {to});\n",
    s.Reorg: lambda layer, name, given, to, shapes: f"    reorg(&map_{name}, {layer.stride}, {given[0]}, {to});\n",
    s.Reorg3d: lambda layer, name, given, to, shapes: _parted_call(layer, name, given, to),
    s.Upsample: _enlarge_call,
    s.Fitted: _fit_call,
    s.Route: _route_call,
    s.Dropout: _copy_call,
}
