"""What a structure would cost on an engine, before there are weights: clocks follow from shapes alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from utils.darknet import spec as s
from utils.darknet.expand import expand
from utils.darknet.network import Network
from utils.darknet.shapes import sizes
from utils.darknet.weights import tensors
from utils.export.costs import cost_of, shapes
from utils.export.engine.clocks import clocks
from utils.export.engine.compiler import compile_network
from utils.export.engine.fit import EngineChoice, choose_engine
from utils.export.engine.program import Program
from utils.export.engine.report import report
from utils.export.engine.roofline import with_roofline
from utils.export.engine.target import Engine, read_part
from utils.quantization.activation_qparams import IMAGE_SCALE, QParams, level_bounds, trace_edges
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import QuantisedNetwork, lower
from utils.quantization.scheme import Scheme
from utils.quantization.tables import tabled_layers
from utils.quantization.validate import check_supported

BITS = 8


def clocks_of_spec(spec: s.ModelSpec, size: tuple[int, int], engine: Engine) -> int:
    """Predicted clocks of a frame.

    Args:
        spec: a float network's; batch norm counts as folded.
        size: (height, width) px.
        engine: lanes and buffers.

    Raises:
        InputError: a layer has no integer form, is not in the engine, or does not fit it.
    """
    network = silent(spec, size)
    return clocks_of_program(compile_network(network, shapes(network, size), engine))


def clocks_of_program(program: Program) -> int:
    """Predicted clocks of a frame."""
    return clocks(program.descriptors, program.engine.lanes)


def engine_for_spec(target: str, spec: s.ModelSpec, size: tuple[int, int], fps: float | None = None) -> EngineChoice:
    """The engine on ``--target`` that a structure runs best on; or the smallest that makes so many frames a second.

    Raises:
        InputError: the target cannot be read, or the network cannot run on any engine there, or not so fast.
    """
    network = silent(spec, size)
    shape = shapes(network, size)
    return choose_engine(
        lambda engine: clocks_of_program(compile_network(network, shape, engine)), read_part(target), fps=fps
    )


def on_part(network: IntegerNetwork, size: tuple[int, int], target: str) -> tuple[EngineChoice, dict[str, Any]]:
    """The engine on ``--target`` that a quantised network runs best on, and its report with every layer's roofline.

    Raises:
        InputError: the target cannot be read, or the network cannot run on any engine there.
    """
    shape = shapes(network, size)
    choice = choose_engine(lambda engine: clocks_of_program(compile_network(network, shape, engine)), read_part(target))
    macs = {i: cost_of(network, i, shape).macs for i in range(len(network.spec.layers))}
    return choice, with_roofline(report(compile_network(network, shape, choice.best.engine)), macs)


def silent(spec: s.ModelSpec, size: tuple[int, int]) -> IntegerNetwork:
    """An integer network of the structure, in bytes, whose weights are 0 and whose scales mean nothing."""
    folded = replace(
        spec, layers=tuple(replace(each, bn=False) if isinstance(each, s.Kernel) else each for each in spec.layers)
    )
    check_supported(folded)
    state = {key: torch.zeros(shape) for _, key, shape in tensors(folded)}
    network, _ = expand(Network(folded, state))
    made = network.spec
    edges = trace_edges(made)
    grids = {
        i: QParams(IMAGE_SCALE if edges.group[i] == edges.group[-1] else 1.0, *level_bounds(BITS, signed))
        for i, signed in edges.signed.items()
    }
    maps = sizes(made, *size)
    pools = {i: layer.sources[0] for i, layer in enumerate(made.layers) if isinstance(layer, s.AvgPool)}
    return lower(
        QuantisedNetwork(
            network,
            Scheme(w_bit=BITS, a_bit=BITS),
            grids,
            {i: torch.ones(conv.filters, dtype=torch.float64) for i, conv in made.convs.items()},
            {i: QParams(1.0, *level_bounds(BITS, True)) for i in tabled_layers(made)},
            {i: maps[j][0] * maps[j][1] for i, j in pools.items()},
        )
    )
