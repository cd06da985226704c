"""A step of a network of leaky neurons as an integer network: what a hand-off and the engine are written from."""

from __future__ import annotations

import torch

from utils.darknet.ops import facts
from utils.errors import InputError
from utils.quantization.activation_qparams import IMAGE_SCALE, QParams
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntNeuron, IntShortcut, Requantiser
from utils.quantization.scheme import Scheme
from utils.quantization.validate import readouts
from utils.spiking.lif_integers import LifLayer, LifNetwork, most_spikes, reach

WEIGHT_BITS = 8
WIDEST = 31  # bits beside the sign, of a sum over the steps


def one_step(network: LifNetwork) -> IntegerNetwork:
    """What a network computes in a step, as the rest of the export knows layers; spikes are levels of 0 and 1.

    Raises:
        InputError: an output reads something else than a convolution of its own; names the layer.
    """
    spec, ends = network.spec, set(readouts(network.spec))
    _check_ends(network, ends)
    most = most_spikes(spec)
    ops: dict[int, IntegerOp] = {}
    for i, layer in enumerate(spec.layers):
        if i in network.layers:
            ops[i] = _conv(network, i, most[layer.sources[0]])
        elif facts(layer).section == "shortcut":
            ops[i] = _sum(len(layer.sources), most[i])
    edges = (i for i in most if i not in spec.heads and i not in ends)
    grids = {i: QParams(IMAGE_SCALE if i in network.pixels else 1.0, 0, most[i]) for i in edges}
    return IntegerNetwork(spec, Scheme(style="pow2", w_bit=WEIGHT_BITS), ops, grids)


def _check_ends(network: LifNetwork, ends: set[int]) -> None:
    spec = network.spec
    for i in spec.heads:
        source = spec.layers[i].sources[0]
        readers = [j for j, layer in enumerate(spec.layers) if source in layer.sources and j not in spec.heads]
        made = network.layers.get(source)
        if made is None or made.leak is not None or readers:
            raise InputError(
                f"layer {i} (cfg line {spec.layers[i].line}): reads layer {source}, which is no linear convolution "
                "that it alone reads; put one before it"
            )
    if not spec.heads:
        raise InputError(f"layer {max(ends)}: the cfg has no output section; use one that ends in [yolo] or [softmax]")


def _conv(network: LifNetwork, i: int, most: int) -> IntConv:
    made, steps = network.layers[i], network.spec.timesteps
    bound = reach(made, most) * (1 if made.leak else steps)
    bits = int(bound).bit_length() + 1
    if bits > WIDEST + 1:
        place = f"layer {i} (cfg line {network.spec.layers[i].line})"
        raise InputError(f"{place}: its sum over {steps} steps needs {bits} bits; use fewer steps")
    neuron, scale = (_neuron(made), None) if made.leak else (None, torch.exp2(made.exponent.double()) / steps)
    return IntConv(weight=made.weight, bias=made.bias, w_bit=WEIGHT_BITS, acc_bits=bits, neuron=neuron, scale=scale)


def _neuron(made: LifLayer) -> IntNeuron:
    assert made.leak is not None and made.threshold is not None
    log2 = torch.tensor([int(each).bit_length() - 1 for each in made.threshold], dtype=torch.int32)
    return IntNeuron(log2_threshold=log2, shift=made.leak.shift, most=made.leak.most, soft=made.soft)


def _sum(sources: int, most: int) -> IntShortcut:
    """Spikes are added up and nothing else: m * 2^-f is 1, and no sum is above ``most``."""
    one = torch.ones(1, dtype=torch.int32)
    as_it_is = Requantiser(multiplier=2 * one, multiplier_neg=2 * one, shift=1, qmin=0, qmax=most)
    return IntShortcut(gains=torch.ones((sources, 1), dtype=torch.int32), requantiser=as_it_is)
