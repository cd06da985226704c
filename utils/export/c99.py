"""The network as plain C99: integers only, no library, no heap, every buffer in one arena that the caller provides."""

from __future__ import annotations

import shutil
from math import prod
from pathlib import Path

from torch import Tensor

from utils.export.c_memory import ArenaPlan, CTypes, plan_arena
from utils.export.c_source import gains_of, source
from utils.export.costs import Shape, table_of
from utils.export.layers import bent
from utils.export.make import run_make
from utils.quantization.integer import IntConv, IntegerNetwork, IntShortcut
from utils.quantization.validate import readouts

FIXED = Path(__file__).with_name("c")
NUMBERS_A_LINE = 24


def write_c(folder: Path, network: IntegerNetwork, shape: dict[int, Shape], golden: int) -> None:
    """Write c/: most files are the same for every network, types.h, weights.h and net.{h,c} are its own."""
    shutil.copytree(FIXED, folder)
    arena = plan_arena(network, shape)
    (folder / "types.h").write_text(_types(network))
    (folder / "net.h").write_text(_header(network, shape, arena, golden))
    (folder / "net.rs").write_text(_rust(network, shape, arena))
    (folder / "weights.h").write_text(_weights(network))
    (folder / "net.c").write_text(source(network, shape, arena))


def compile_and_check(folder: Path) -> str:
    """``make check`` outside the folder, which stays clean; returns what it said.

    Raises:
        InputError: it does not compile, or a layer differs from the golden vectors.
    """
    if not (shutil.which("make") and shutil.which("cc")):
        return "C99: written but not compiled, there is no cc and make here; run make check in c/"
    return run_make(folder)


TYPES = """\
/* As wide as the network's bounds demand: levels reach {reach}, the widest accumulator needs {widest} bits. */
#ifndef TYPES_H
#define TYPES_H

#include <stdint.h>

typedef {types.work.name} work_t; /* a level that is worked on */
typedef {types.weight.name} weight_t;
typedef {types.acc.name} acc_t;

/* What a map's numbers are stored as. */
enum storage {{ STORED_U8, STORED_S8, STORED_S16, STORED_S32, STORED_ACC }};

#endif
"""


def _types(network: IntegerNetwork) -> str:
    reach = max(grid.reach for grid in network.grids.values())
    widest = max(op.acc_bits for op in network.ops.values() if isinstance(op, IntConv))
    return TYPES.format(reach=reach, widest=widest, types=CTypes.of(network))


HEADER = """\
#ifndef NET_H
#define NET_H

#include "types.h"

{defines}
/* Told of every layer as soon as it is there: its numbers, stored as ``kind`` says; -1 is the image. Of NET_STEPS steps
   in each, the image first; of read-outs once, behind them. */
typedef void (*net_hook)(void *context, int layer, const void *numbers, int kind, long count);

/* Number ``at`` of them. */
int64_t net_number(const void *numbers, int kind, long at);

/* Run the network.
    image: 8-bit pixels [{image}]; null where they are at arena + NET_IMAGE_AT already
    arena: NET_ARENA bytes, aligned as an int64_t; all that is needed beside the image and some stack (make size)
    heads: set to where the accumulators are in the arena, until the next run
{heads}    hook: may be null */
void net_run(const uint8_t *image, void *arena, const acc_t *heads[NET_HEADS], net_hook hook, void *context);

#endif
"""


def _header(network: IntegerNetwork, shape: dict[int, Shape], arena: ArenaPlan, golden: int) -> str:
    ends = sorted(set(readouts(network.spec)))
    frames = network.timed and network.spec.input_frames
    numbers = {
        "STEPS": network.spec.timesteps if network.timed else 1,
        "IMAGE": prod(shape[-1]) * (network.spec.timesteps if frames else 1),
        "IMAGE_AT": arena.start["frames" if frames else "map", -1],
        "ARENA": arena.size,
        "LIVE_LEVELS": arena.maps,
        "HEADS": len(ends),
        "HEAD_SIZES": "{" + ", ".join(str(prod(shape[i])) for i in ends) + "}",
        "GOLDEN": golden,
    }
    return HEADER.format(
        defines="".join(f"#define NET_{name} {value}\n" for name, value in numbers.items()),
        heads="".join(f"    heads[{k}]: layer {i}, {list(shape[i])}\n" for k, i in enumerate(ends)),
        image="][".join(map(str, (network.spec.timesteps, *shape[-1]) if frames else shape[-1])),
    )


RUST = """\
// net.h for Rust; generated.
use std::os::raw::{{c_int, c_long, c_void}};

pub const IMAGE: usize = {image};
pub const ARENA: usize = {arena};
pub const HEADS: usize = {heads};
pub const HEAD_SIZES: [usize; HEADS] = {sizes};
pub type Acc = i{bits};
pub type Hook = Option<
    extern "C" fn(context: *mut c_void, layer: c_int, numbers: *const c_void, kind: c_int, count: c_long),
>;

extern "C" {{
    pub fn net_run(image: *const u8, arena: *mut c_void, heads: *mut *const Acc, hook: Hook, context: *mut c_void);
}}
"""


def _rust(network: IntegerNetwork, shape: dict[int, Shape], arena: ArenaPlan) -> str:
    sizes = [prod(shape[i]) for i in sorted(set(readouts(network.spec)))]
    bits = 8 * CTypes.of(network).acc.bytes
    shown = network.spec.timesteps if network.timed and network.spec.input_frames else 1
    return RUST.format(image=prod(shape[-1]) * shown, arena=arena.size, heads=len(sizes), sizes=sizes, bits=bits)


def _weights(network: IntegerNetwork) -> str:
    parts = ['#include "types.h"\n']
    for i, op in network.ops.items():
        if isinstance(op, IntConv):
            parts += [_array("weight_t", f"w_{i:03d}", op.weight), _array("int32_t", f"b_{i:03d}", op.bias)]
            if op.neuron is not None:
                parts.append(_array("uint8_t", f"k_{i:03d}", op.neuron.log2_threshold))
        elif isinstance(op, IntShortcut):
            parts.append(_array("int32_t", f"g_{i:03d}", op.gains))
        if op.requantiser is not None:
            m, m_neg = gains_of(op.requantiser)
            parts.append(_array("int32_t", f"m_{i:03d}", m))
            if bent(op.requantiser):
                parts.append(_array("int32_t", f"n_{i:03d}", m_neg))
        table = table_of(op)
        if table is not None:
            parts.append(_array("work_t", f"t_{i:03d}", table))
    return "".join(parts)


def _array(kind: str, name: str, values: Tensor) -> str:
    numbers = [str(v) for v in values.flatten().tolist()]
    lines = [", ".join(numbers[at : at + NUMBERS_A_LINE]) for at in range(0, len(numbers), NUMBERS_A_LINE)]
    return f"static const {kind} {name}[{len(numbers)}] = {{\n" + ",\n".join(lines) + "};\n"
