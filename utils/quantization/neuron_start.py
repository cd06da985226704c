"""Neurons in a network that knows something already: thresholds and weights so that little of it is lost at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.channel_groups import UnionFind
from utils.darknet.fold import BN_EPS, fold_bn
from utils.darknet.implicit import fold_implicit
from utils.darknet.network import Network, State
from utils.darknet.neuron_cfg import with_reach, with_thresholds, without_neurons
from utils.darknet.sharing import owners
from utils.quantization.histogram import Histogram, collect
from utils.quantization.ranges import mse
from utils.quantization.scheme import Scheme

Images = Callable[[Network], Sequence[Tensor]]  # batches [N,C,H,W] in 0..1 for a network, as inference will see them


def fitted(network: Network, images: Images) -> tuple[Network, str]:
    """The network with its ilif's thresholds fitted, or its lif's currents and what reads their spikes.

    Args:
        network: with the neurons that `with_neurons` put in, its state that of the float network.
        images: what it is fitted on.

    Returns:
        It, and what was done, in words; "" where nothing was: other neurons, or thresholds that are known.
    """
    spec = network.spec
    if spec.recurrent or any(layer.weight_quant == "binary" for layer in spec.kernels.values()):
        return network, ""  # signs of weights are no scale's
    twin = float_twin(network)
    levels = {
        i: n.levels for i, n in spec.neurons.items() if n.kind == "ilif" and spec.activated[i].neuron.v_th is None
    }
    if levels:
        batches = images(twin)
        if not (steps := fitted_steps(twin, batches, levels)):
            return network, ""
        words = f"thresholds of least squared error, {min(steps.values()):.3g} to {max(steps.values()):.3g}"
        return Network(with_thresholds(spec, steps), network.state), _told(batches, words)
    groups = rated(spec)
    if not groups or owners(spec.layers):  # kernels that are one cannot be scaled by what each reads
        return network, ""
    batches = images(twin)
    reach = fitted_rates(twin, batches, groups, spec.timesteps)
    words = f"a spike at every step stands for {min(reach.values()):.3g} to {max(reach.values()):.3g} of the floats"
    return as_rates(network, reach), _told(batches, words)


def _told(batches: Sequence[Tensor], words: str) -> str:
    return f"fitted to {sum(len(x) for x in batches)} training images: {words}"


def float_twin(network: Network) -> Network:
    """The network without its neurons, its weights as they are stored, not rounded."""
    spec = without_neurons(network.spec)
    plain = {i: replace(kernel, weight_quant="none") for i, kernel in spec.kernels.items()}
    layers = tuple(plain.get(i, layer) for i, layer in enumerate(spec.layers))
    return fold_implicit(Network(replace(spec, layers=layers), network.state))


def fitted_steps(network: Network, batches: Sequence[Tensor], levels: Mapping[int, int]) -> dict[int, float]:
    """The step of least squared error of some layers' values, by layer; those that never send more than 0 are left out.

    The highest value a layer ever sends, in as many equal parts, would do for eight bits; of four levels it leaves the
    upper two next to unused.

    Args:
        network: in floats, its batch norm folded or not.
        batches: images [N,C,H,W] in 0..1.
        levels: the highest level of each layer, D: what is sent is 0, 1 ... D steps.

    Source: `utils.quantization.ranges.mse`.
    """
    found = collect(fold_bn(network), batches, levels)
    return {i: _step([h], levels[i]) for i, h in found.items() if float(h.high.max()) > 0}


def fitted_rates(
    network: Network, batches: Sequence[Tensor], groups: Sequence[Sequence[int]], timesteps: int
) -> dict[int, float]:
    """What a spike at each of T steps stands for, by layer: T steps of least squared error, one value a group."""
    found = collect(fold_bn(network), batches, [i for group in groups for i in group])
    reach: dict[int, float] = {}
    for group in groups:
        if max(float(found[i].high.max()) for i in group) > 0:
            reach |= dict.fromkeys(group, timesteps * _step([found[i] for i in group], timesteps))
    return reach


def _step(histograms: Iterable[Histogram], levels: int) -> float:
    return mse([(*each.merged(), 0, levels) for each in histograms], Scheme())


def rated(spec: s.ModelSpec) -> list[list[int]]:
    """Kernels with a lif of soft reset whose rates can stand for floats; those that are added up in one group.

    Left out is what meets a value that is no rate, the image or a linear kernel's, or a neuron without a kernel.
    """
    found: UnionFind[int] = UnionFind()
    found.add([-1])
    for i, layer in enumerate(spec.layers):
        found.add([i])
        if i not in spec.kernels and i not in spec.heads:
            for j in layer.sources:
                found.tie(i, j)
    makers = {-1, *spec.kernels, *spec.neurons}
    fit = {i for i in spec.kernels if i in spec.neurons and spec.neurons[i].rate_codes}
    groups = [[i for i in edges if i in makers] for edges in found.sets().values()]
    return [group for group in groups if group and set(group) <= fit]


@torch.no_grad()
def as_rates(network: Network, reach: Mapping[int, float]) -> Network:
    """The network whose neurons fire at every step where its float twin sends ``reach`` or more.

    A lif of soft reset that charges x a step fires T x / v_th times in T steps, rounded down. So a layer's current is
    scaled by v_th / reach, and what reads its spikes by reach: in the statistics of its batch norm, where it has one,
    so that its kernel learns at the rate of the float one's. The threshold is a power of two next to reach, for the
    same reason. On top comes half of what a spike takes, so that rounding down rounds to the nearest. What leaks is
    not made good, and a maximum of spikes is above that of rates.

    Source: Bu et al., Optimal ANN-SNN conversion, ICLR 2022 (arXiv 2303.04347), who start at half the threshold.
    """
    spec, state = with_reach(network.spec, reach), dict(network.state)
    moved = {
        i: layer.sources[0] for i, layer in enumerate(spec.layers) if i not in spec.kernels and i not in spec.neurons
    }
    for i, layer in spec.kernels.items():
        source = layer.sources[0]
        while source in moved and source not in reach:
            source = moved[source]
        state |= _reading(state, f"layers.{i}", layer, reach.get(source, 1.0))
        if i in reach:
            neuron = spec.neurons[i]
            gain = neuron.v_th / reach[i]
            scaled = ("bn.weight", "bn.bias") if layer.bn else ("conv.weight", "conv.bias")
            for name in scaled:
                state[f"layers.{i}.{name}"] = state[f"layers.{i}.{name}"] * gain
            state[f"layers.{i}.{scaled[1]}"] = state[f"layers.{i}.{scaled[1]}"] + neuron.to_nearest
    return Network(spec, state)


def _reading(state: State, name: str, layer: s.Kernel, unit: float) -> State:
    """The tensors of a kernel that reads ones where it has read ``unit``, and makes the same of them."""
    if not layer.bn:
        return {f"{name}.conv.weight": state[f"{name}.conv.weight"] * unit}
    mean, var = f"{name}.bn.running_mean", f"{name}.bn.running_var"
    return {mean: state[mean] / unit, var: ((state[var] + BN_EPS) / unit**2 - BN_EPS).clamp_min(0)}
