"""YOLOR's implicit values written into the convolutions beside them: the same function without them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, ones_like, zeros_like

from utils.darknet import spec as s
from utils.darknet.network import Network, State
from utils.darknet.shapes import channels


def fold_implicit(network: Network) -> Network:
    """The same function without ``[implicit_*]``, ``[shift_channels]`` and ``[control_channels]``.

    What multiplies a linear convolution that nothing else reads goes into its weights; what is added to a map that only
    convolutions without padding read goes into their biases, or means. Elsewhere a depthwise 1x1 convolution takes the
    section's place. Exact but for the rounding of floats.
    """
    spec = network.spec
    implicit = {int(key.split(".")[1]) for key in network.state if key.endswith(".implicit")}
    if not implicit:
        return network
    state = dict(network.state)
    informed = {i: layer for i, layer in enumerate(spec.layers) if isinstance(layer, s.Informed)}
    folded = {i for i, layer in informed.items() if _folded(spec, i, layer, state)}
    width, number, layers, made = channels(spec), {-1: -1}, list[s.Layer](), State()
    for i, layer in enumerate(spec.layers):
        if i in implicit or i in folded:
            number[i] = number[layer.sources[0]]
            continue
        number[i] = len(layers)
        if i in informed:
            made |= _depthwise(informed[i], number[i], state[f"layers.{layer.sources[1]}.implicit"])
            layer = s.Conv(sources=layer.sources[:1], line=layer.line, filters=width[i], groups=width[i])
        layers.append(replace(layer, sources=tuple(number[j] for j in layer.sources)))
    for key, value in state.items():
        _, number_before, rest = key.split(".", 2)
        if int(number_before) not in implicit:
            made[f"layers.{number[int(number_before)]}.{rest}"] = value
    return Network(replace(spec, layers=tuple(layers)), made)


def _folded(spec: s.ModelSpec, i: int, layer: s.Informed, state: State) -> bool:
    """Whether the values of layer ``i`` could be written into the convolutions beside it; ``state`` has them then."""
    values = state[f"layers.{layer.sources[1]}.implicit"]
    if layer.multiplies:
        return _multiplied(spec, layer.sources[0], i, values, state)
    readers = [j for j, other in enumerate(spec.layers) if i in other.sources]
    if not readers or not all(_sees_all(spec.layers[j]) for j in readers):
        return False
    for j in readers:
        more = state[f"layers.{j}.conv.weight"].sum((2, 3)) @ values
        key, sign = (f"layers.{j}.bn.running_mean", -1) if spec.kernels[j].bn else (f"layers.{j}.conv.bias", 1)
        state[key] = state[key] + sign * more
    return True


def _sees_all(layer: s.Layer) -> bool:
    """Whether a convolution sees the map, and nothing else, under each of its weights."""
    return type(layer) is s.Conv and layer.pad == 0 and layer.groups == 1 and layer.weight_quant == "none"


def _multiplied(spec: s.ModelSpec, source: int, i: int, values: Tensor, state: State) -> bool:
    before = spec.layers[source] if source >= 0 else None
    alone = [j for j, other in enumerate(spec.layers) if source in other.sources] == [i]
    if type(before) is not s.Conv or before.activation != "linear" or not alone or before.weight_quant != "none":
        return False
    for name in ("bn.weight", "bn.bias") if before.bn else ("conv.weight", "conv.bias"):
        key = f"layers.{source}.{name}"
        state[key] = state[key] * values.view(-1, *[1] * (state[key].dim() - 1))
    return True


def _depthwise(layer: s.Informed, number: int, values: Tensor) -> State:
    """Tensors of the depthwise 1x1 convolution that adds the values, or multiplies by them."""
    weight, bias = (values, zeros_like(values)) if layer.multiplies else (ones_like(values), values)
    return {f"layers.{number}.conv.weight": weight[:, None, None, None], f"layers.{number}.conv.bias": bias}
