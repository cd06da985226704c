"""FakeQuantised: a network that trains as the integers will compute, and that is the integers when it is measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.fold import fold_bn
from utils.darknet.forward import without_tensors
from utils.darknet.network import Network, State
from utils.darknet.ops import activation_of, facts
from utils.darknet.shapes import channels
from utils.darknet.walk import rule, run
from utils.errors import InputError
from utils.quantization.activation_qparams import (
    IMAGE_SCALE,
    Edges,
    QParams,
    edge_bits,
    image_scale,
    level_bounds,
    make_grids,
    trace_edges,
)
from utils.quantization.executor import IntegerExecutor
from utils.quantization.fakeconv import FakeConv, FakeSum
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import QuantisedNetwork, additive_bits, lower, weight_bits
from utils.quantization.observers import EDGE_PACE, WEIGHT_PACE, EdgeScale
from utils.quantization.scheme import Scheme
from utils.quantization.ste import level_sum
from utils.quantization.tables import CHARGE_BITS, tabled_layers
from utils.quantization.validate import check_supported

# Shares of a run. Ranges freeze at half time, when the rate of a cosine is half and the network has found its place.
# Statistics freeze late, only for what is left to settle: a network without the noise of its batches' statistics learns
# its training images by heart (at 0.7 it fitted them better and lost half a point of mAP@.5).
FREEZE_RANGES = 0.5
FREEZE_STATISTICS = 0.95
OBSERVED = 4  # of so many batches one moves the scales


@dataclass(frozen=True)
class StartRanges:
    """Scales to begin with: of every group of edges, and before the activation of every layer with a table.

    ``counts``: H * W of the map that each global average reads.
    """

    edges: dict[int, float]
    charges: dict[int, float] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)


class FakeQuantised(nn.Module):
    """A float network whose forward pass rounds as its integers do.

    In training it takes [N,C,H,W] of n / 255 and returns the heads' raw maps, with gradients straight through the
    rounding. In eval mode it returns what the integers return, nothing else: its state is lowered and run by the
    integer executor, which is kept until a tensor changes. Parameters are named as in ``models.Darknet``, so that
    optimizers, penalties and teachers find them; the scales are beside them, in ``edges`` and ``layers.{i}.steps``.

    Args:
        network: float, without [se] (`expand`); with batch norm where the cfg has it.
        scheme: bits and style. In style google the scales of edges follow the ranges, unless they are wider or
            narrower on purpose; in dorefa and pow2, where a small drift would double a scale, edges keep those they
            start with, and the network adapts.
        start: scales to begin with.
        fold: quantise the weights with batch norm's gain in them; without, the gain joins the scales at the end.
            Powers of two can not take a gain, so there it is always on.
        learn: scales of weights and edges are parameters.

    Raises:
        InputError: a layer has no integer form.
    """

    def __init__(
        self, network: Network, scheme: Scheme, start: StartRanges, *, fold: bool = False, learn: bool = False
    ) -> None:
        super().__init__()
        folded = fold_bn(network).spec
        check_supported(folded)
        self.spec, self.scheme, self.learn = network.spec, scheme, learn
        self.fold = fold or scheme.style == "pow2"
        self.traced: Edges = trace_edges(folded)
        self._folded, self._bits = folded, edge_bits(self.traced, scheme)
        # A caller's bf16 moves an 8-bit level by half a level at most, which training stands (0.1 points of mAP@.5
        # under the float twin); of 16 bits it would leave eight.
        self._wide = max((*self._bits.values(), scheme.w_bit, *(w for _, w, _ in scheme.layer_bits))) > 8
        self.register_buffer("frozen", torch.zeros(2, dtype=torch.int64))  # ranges, statistics
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # training batches
        self.frozen: Tensor
        self.seen: Tensor
        self.counts = dict(start.counts)
        power = scheme.style == "pow2"
        keeps = (scheme.style not in ("google", "apot") or scheme.range_scale != 1) and not learn
        self.edges, self.charges, self.layers = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for group in self.traced.members():
            given = group == self.traced.group[-1] or group in self.traced.gates
            at = torch.tensor([start.edges[group]])
            self.edges[f"group{group}"] = EdgeScale(at, power=power, learn=learn, fixed=given or keeps)
        for i in tabled_layers(folded):
            at = torch.tensor([start.charges[i]])
            self.charges[f"layer{i}"] = EdgeScale(at, power=power, learn=learn, fixed=keeps)
        width = channels(network.spec)
        for i, layer in enumerate(network.spec.layers):
            module = rule(MODULES, layer, "module that trains quantised")(self, i, layer, width[layer.sources[0]])
            if module is not None:
                self.layers[str(i)] = module
        self._load(network.state)
        self._kept: tuple[tuple[int, ...], IntegerExecutor] | None = None
        self.counting = False  # whether a training pass adds its levels up; scales of edges keep still then
        self._counted: list[tuple[Tensor, int]] = []  # of every edge: sum of |n| / hi, neurons

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images -> raw head maps, in cfg order."""
        if not self.training:
            return self.executor().to(x.device)(x)
        ranges, statistics = (bool(flag) for flag in self.frozen.tolist())
        observe = not ranges and int(self.seen) % OBSERVED == 0
        self.seen += 1
        self._counted = []
        if observe:
            self._follow_weights()
        with torch.autocast(x.device.type, enabled=False) if self._wide else nullcontext():
            heads = self._walk(x * (image_scale(self.scheme) / IMAGE_SCALE), observe, statistics)
        if observe:
            for edge in (*self.edges.values(), *self.charges.values()):
                edge.move(EDGE_PACE)  # type: ignore[operator]
        return heads

    def at(self, progress: float) -> None:
        """Tell how much of the run is over, 0..1; freezes what is due and never thaws."""
        due = torch.tensor([progress >= FREEZE_RANGES, progress >= FREEZE_STATISTICS], device=self.frozen.device)
        self.frozen.copy_(torch.maximum(self.frozen, due.long()))

    def mean_level(self) -> Tensor:
        """Mean |n| / hi over all neurons of the training pass just made, with gradients; ``counting`` must be on.

        In rate and stream coding a level is the number of its neuron's spikes, so this is the share of all possible
        spikes that are fired. Image and read-outs are not among them.
        """
        sums, neurons = zip(*self._counted, strict=True)
        self._counted = []
        return torch.stack(sums).sum() / sum(neurons)

    def integer(self) -> IntegerNetwork:
        """The golden model of the present state.

        Raises:
            InputError: an accumulator needs more than 32 bits.
        """
        return lower(self.quantised())

    def check_accumulators(self) -> None:
        """See that the accumulators the scheme declares leave enough of every layer.

        Raises:
            InputError: half of what rounding alone leaves of a layer's weights would be lost; names it.
        """
        grids = self._grids()
        for i, layer in self._folded.kernels.items() if self.scheme.acc_bits else ():
            before, after = self._conv(i).kept(grids[layer.sources[0]])
            if 2 * after < before:
                raise InputError(
                    f"layer {i} (cfg line {layer.line}): accumulators of {self.scheme.acc_bits} bits leave only "
                    f"{after:.0%} of its weights' power; use more --acc-bits or fewer --a-bit"
                )

    @torch.no_grad()
    def quantised(self) -> QuantisedNetwork:
        """The present state with its grids: folded weights that lie on them, and the scales."""
        grids, charges = self._grids(), {}
        state: State = {}
        steps = {}
        for i in tabled_layers(self._folded):
            step = self.charges[f"layer{i}"].step()  # type: ignore[operator]
            charges[i] = QParams(float(step), *level_bounds(CHARGE_BITS, signed=True))
        for key, module in self.layers.items():
            if isinstance(module, FakeConv):
                source = grids[self._folded.layers[int(key)].sources[0]]
                weight, bias, steps[int(key)] = module.absorbed(source)
                state[f"layers.{key}.conv.weight"], state[f"layers.{key}.conv.bias"] = weight.cpu(), bias.cpu()
            elif isinstance(module, FakeSum):
                state[f"layers.{key}.weights"] = module.weights.detach().cpu()
        return QuantisedNetwork(Network(self._folded, state), self.scheme, grids, steps, charges, self.counts)

    def executor(self) -> IntegerExecutor:
        """The integers of the present state at work; made again when any tensor was written or replaced."""
        tensors = self.state_dict(keep_vars=True).values()
        mark = tuple(number for tensor in tensors for number in (tensor.data_ptr(), tensor._version))
        if self._kept is None or self._kept[0] != mark:
            self._kept = mark, IntegerExecutor(self.integer())
        return self._kept[1]

    def float_network(self) -> Network:
        """Structure and a copy of the float tensors alone, as ``models.network_of`` gives those of a Darknet."""
        plain = torch.contiguous_format
        own = {key: value for key, value in self.state_dict().items() if not is_observer(key)}
        return Network(self.spec, {k: v.detach().cpu().clone(memory_format=plain) for k, v in own.items()})

    def observers(self) -> State:
        """A copy of the rest of the state: scales, flags, counters."""
        return {key: value.detach().cpu().clone() for key, value in self.state_dict().items() if is_observer(key)}

    def _walk(self, x: Tensor, observe: bool, frozen: bool) -> list[Tensor]:
        grids = self._grids()

        def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
            if str(i) not in self.layers:
                y = without_tensors(layer, given)
            elif isinstance(module := self.layers[str(i)], FakeConv):
                y = module(given[0], source=grids[layer.sources[0]], frozen=frozen)
            else:
                y = module(*given)
            if not facts(layer).computes or i not in grids:
                return y
            return self._rounded(i, activation_of(layer), y, grids[i], observe)

        out = run(self.spec, x, step, keep=self.spec.heads)
        return [out[i] for i in self.spec.heads]

    def _grids(self) -> dict[int, QParams]:
        """The grids by the present scales."""
        groups = list(self.traced.members())
        scales = dict(zip(groups, torch.cat([self._edge(group).step() for group in groups]).tolist(), strict=True))
        return make_grids(self._folded, self.traced, scales, self._bits, even=self.scheme.sign_bit)

    def _rounded(self, i: int, activation: str, y: Tensor, grid: QParams, observe: bool) -> Tensor:
        """Activation and grid of an edge; a grid that starts at level 0 is a ReLU already."""
        if f"layer{i}" in self.charges:
            y = self.charges[f"layer{i}"](y, *level_bounds(CHARGE_BITS, signed=True), observe=observe)
        if activation not in ("relu", "relu6", "linear"):
            y = ACTIVATIONS[activation](y)
        follow = observe and not self.counting  # smaller levels on a smaller grid would be as large as before
        rounded = self._edge(self.traced.group[i])(y, grid.qmin, grid.qmax, observe=follow)
        if self.counting:
            self._counted.append((level_sum(y, rounded, grid.scale * grid.qmax), rounded.numel()))
        return rounded

    def _follow_weights(self) -> None:
        for layer in self._convs():
            layer.follow(WEIGHT_PACE)

    def _fake_conv(self, i: int, layer: s.Conv, in_channels: int) -> FakeConv:
        bits, additive = weight_bits(self._folded, i, self.scheme), additive_bits(self._folded, i, self.scheme)
        more = additive is None and bits > (self.scheme.own_bits(i) or (self.scheme.w_bit,))[0]
        return FakeConv(
            layer,
            in_channels,
            style=self.scheme.style,
            bits=bits,
            fold=self.fold,
            learn=self.learn and not more,  # outer layers with bits to spare follow their weights
            share=self._share(layer),
            acc_bits=self.scheme.acc_bits,
            additive=additive,
        )

    def _share(self, layer: s.Conv) -> float:
        """What the weights that read the image take of its scale."""
        image = self.traced.group[layer.sources[0]] == self.traced.group[-1]
        return IMAGE_SCALE / image_scale(self.scheme) if image else 1.0

    def _load(self, state: State) -> None:
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [key for key in missing if not is_observer(key) and not key.endswith("num_batches_tracked")]
        if missing or unexpected:
            raise ValueError(f"the state does not fit the spec: missing {missing[:3]}, unexpected {unexpected[:3]}")
        for layer in self._convs():
            layer.search()

    def _convs(self) -> list[FakeConv]:
        return [layer for layer in self.layers.values() if isinstance(layer, FakeConv)]

    def _conv(self, i: int) -> FakeConv:
        return self.layers[str(i)]  # type: ignore[return-value]

    def _edge(self, group: int) -> EdgeScale:
        return self.edges[f"group{group}"]  # type: ignore[return-value]


def is_observer(key: str) -> bool:
    """Whether a tensor of the state is a scale, a flag or a counter, and not one of the float network's."""
    return key.startswith(("edges.", "charges.")) or ".steps." in key or key in ("frozen", "seen")


MODULES: dict[type[s.Layer], Callable[[FakeQuantised, int, Any, int], nn.Module | None]] = {
    s.Conv: FakeQuantised._fake_conv,
    s.Shortcut: lambda model, i, layer, width: FakeSum(layer, width) if layer.weighted else None,
    s.Dropout: lambda model, i, layer, width: nn.Dropout(layer.probability),
    s.Layer: lambda model, i, layer, width: None,
}
