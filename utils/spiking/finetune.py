"""Layer-wise fine-tuning of a network whose spikes do not add up to its levels.

Layer after layer, on training images: what the neurons fire is compared with what the network that was converted says,
and weights and biases move so that it comes nearer, given the spikes that the layers before, tuned already, really
send. The error is that of the spikes; its gradient passes the neuron as if it were the staircase it should be. Layers
that read pixels are not tuned, nor are shortcuts, which have no weights; read-outs get another bias. Some of the images
only judge: a channel keeps the best of what was tried, the untouched one included.

Source: Hu et al., Fast-SNN: fast spiking neural network by converting quantized ANN, TPAMI 2023. There the steps are
those of plain SGD on float weights; here they are as long as a channel's inputs allow, and weights and biases of
integer networks stay integers on their own grid, of which floats remember the fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.modules import convolve
from utils.darknet.ops import facts
from utils.darknet.walk import run
from utils.quantization.exact_conv import ExactConv, accumulator_bits
from utils.quantization.executor import IntegerExecutor, Trace
from utils.quantization.gains import PRODUCT_BITS
from utils.quantization.integer import IntConv
from utils.quantization.lower import ACC_BITS
from utils.quantization.weights import round_half_up, weight_levels
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stream import State, StreamExecutor, arriving

STEP = 0.5  # of the way that takes the mean error away; weights and biases share it
JUDGES = 3  # of so many images one only judges
CLEARLY = 0.98  # of the squared error so far: what is kept was no luck with the images that judge
INT32 = 2**31 - 1

Train = list[Tensor | None]  # step by step [N,C,H,W]; None where nothing fires
Progress = Callable[[int], None]


@dataclass(frozen=True)
class TunedLayer:
    """A layer to tune.

    ``received``: what its inputs added up to, [N,I,H,W]; ``wanted``: what its neurons should add up to, between ``low``
    and ``high``; ``value``: accumulator -> the same, before it is rounded; ``fire``: weight, bias -> what the neurons
    do. ``snap`` puts both on their grid. ``unit``: what adds a level or spike to the accumulator, float64 [O]; a bias
    charges ``times`` times.
    """

    layer: s.Conv
    received: Tensor
    wanted: Tensor
    low: float
    high: float
    value: Callable[[Tensor], Tensor]
    fire: Callable[[Tensor, Tensor], Train]
    snap: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    unit: Tensor
    times: int = 1


@dataclass(frozen=True)
class Found:
    """What a layer keeps: weight, bias, and what its neurons fire then."""

    weight: Tensor
    bias: Tensor
    train: Train


@torch.no_grad()
def finetune_stream(
    executor: StreamExecutor, images: Tensor, *, iterations: int = 8, progress: Progress | None = None
) -> SpikingNetwork:
    """Integers that streaming neurons, read out after T steps, bring nearer to the levels of the executor's network.

    Args:
        executor: what was converted, its neurons, and T, which has to be limited.
        images: [N,C,H,W] of n / 255, of the training set, not augmented.
        iterations: of each layer.
        progress: is told each layer that is done.

    Returns:
        A network of the same layers, thresholds and bits.
    """
    assert executor.steps is not None, "settled streams are exact"
    network, spec = executor.spiking.integer, executor.spiking.spec
    golden, state = IntegerExecutor(network).to(images.device).trace(images), executor.begin(images)
    last, pixels, ops = spec.last_readers, pixel_edges(spec), dict(network.ops)
    trains: dict[int, Train] = {-1: [None] * executor.steps}
    for i, layer in enumerate(spec.layers):
        if i in spec.heads:
            continue
        op, given = ops.get(i), [trains[j] for j in layer.sources]
        if not isinstance(op, IntConv) or pixels.intersection(layer.sources):
            trains[i] = _carried(executor, i, given, state)
        elif op.requantiser is None:
            ops[i] = _read_out(executor, i, given[0], golden)
        else:
            ops[i], trains[i] = _tuned(executor, i, given[0], golden.levels, iterations)
        drop(trains, layer, last, i)
        if progress:
            progress(i)
    return encode(replace(network, ops=ops))


def pixel_edges(spec: s.ModelSpec) -> set[int]:
    """Edges that carry pixels, among them those that only move them."""
    heads = set(spec.heads)
    lit = run(spec, True, lambda i, layer, given: any(given) and not facts(layer).computes and i not in heads)
    return {i for i, pixels in lit.items() if pixels}


def drop(trains: dict[int, Train], layer: s.Layer, last: dict[int, int], i: int) -> None:
    """Let go of what nobody reads after layer ``i``."""
    for j in set(layer.sources):
        if last[j] == i:
            del trains[j]


def summed(train: Train, like: Tensor) -> Tensor:
    """Spikes of all steps, float32."""
    total = torch.zeros(like.shape, device=like.device)
    for spikes in train:
        if spikes is not None:
            total += spikes
    return total


@torch.no_grad()
def tune(task: TunedLayer, weight: Tensor, bias: Tensor, iterations: int) -> Found:
    """The best weights and bias of every output channel, by the images that judge."""
    fit, judge = _roles(task.wanted)
    w, b = weight.float(), bias.double()
    x, wanted = task.received[fit], task.wanted[fit]
    power = convolve(task.layer, x.square(), torch.ones_like(w))  # of what a channel reads, position by position
    best, kept = torch.full((len(bias),), torch.inf, dtype=torch.float64, device=bias.device), (weight, bias)
    for k in range(iterations + 1):
        now = task.snap(w, b) if k else (weight, bias)
        error = summed(task.fire(*now), task.wanted) - task.wanted
        score = error[judge].double().square().mean((0, 2, 3))
        better = score < CLEARLY * best
        rows = better.view(-1, 1, 1, 1)
        kept = (torch.where(rows, now[0], kept[0]), torch.where(better, now[1], kept[1]))
        best = torch.where(better, score, best)
        if k == iterations or not bool(error.any()):
            break
        back = _step(task, *now, error[fit], x, wanted, power)
        w, b = w - back[0], b - back[1]
    return Found(*kept, task.fire(*kept))


def _step(
    task: TunedLayer, weight: Tensor, bias: Tensor, error: Tensor, x: Tensor, wanted: Tensor, power: Tensor
) -> tuple[Tensor, Tensor]:
    """Down the slope of the squared error of the spikes, as far as a channel's inputs allow without overshooting.

    The slope is that of the staircase the neuron stands for. Where it is flat nothing passes, except where the neuron
    left it: there it fired too early, or too late.
    """
    with torch.enable_grad():
        w = weight.float().requires_grad_()
        acc = convolve(task.layer, x, w, bias.float() * task.times)
        value = task.value(acc.detach())
        level = (value + 0.5).floor().clamp(task.low, task.high)
        inside = (value > task.low - 0.5) & (value < task.high + 0.5)
        live = (inside | (error + wanted != level)).float()
        (slope,) = torch.autograd.grad(acc, w, error * live)
    reach = task.unit.to(slope) * STEP / (power * live).sum((0, 2, 3)).clamp_min(1.0)
    mean = (error * live).sum((0, 2, 3)).double() / live.sum((0, 2, 3)).clamp_min(1.0)
    return slope * reach.view(-1, 1, 1, 1), task.unit * mean * STEP / task.times


def _roles(like: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of the images that fit and of those that judge; few do both."""
    judge = torch.arange(len(like), device=like.device) % JUDGES == JUDGES - 1
    return (~judge, judge) if bool(judge.any()) else (~judge, ~judge)


def _carried(executor: StreamExecutor, i: int, given: list[Train], state: State) -> Train:
    """A layer that stays as it is."""
    train: Train = []
    for t, carried in enumerate(zip(*given, strict=True)):
        state.t = t
        spikes = executor.advance(i, [None if x is None else x.float() for x in carried], state)
        train.append(None if spikes is None else spikes.to(torch.int8))
    return train


def _tuned(
    executor: StreamExecutor, i: int, given: Train, levels: dict[int, Tensor], iterations: int
) -> tuple[IntConv, Train]:
    network = executor.spiking.integer
    layer, op = network.conv(i)
    by = op.requantiser
    assert by is not None
    top, unit = weight_levels(op.w_bit), 2.0**by.shift / by.multiplier.clamp_min(1).double()
    gains = [m.float().view(1, -1, 1, 1) * 2.0**-by.shift for m in (by.multiplier, by.multiplier_neg)]
    widest = min(network.scheme.acc_bits or ACC_BITS, PRODUCT_BITS - by.gain_bits)

    def snap(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        w = weight.add(0.5).floor_().clamp_(-top, top).to(op.weight.dtype)
        b = _whole(bias, op.bias)
        fits = accumulator_bits(w, b, network.reach_into(i)) <= widest
        return (w, b) if fits else (op.weight, op.bias)

    task = TunedLayer(
        layer=layer,
        received=summed(given, levels[layer.sources[0]]),
        wanted=levels[i].float(),
        low=by.qmin,
        high=by.qmax,
        value=lambda acc: acc * (torch.where(acc < 0, gains[1], gains[0]) if by.qmin < 0 else gains[0]),
        fire=lambda weight, bias: _fired(executor, i, given, weight, bias, levels[i]),
        snap=snap,
        unit=unit,
    )
    found = tune(task, op.weight, op.bias, iterations)
    bits = accumulator_bits(found.weight, found.bias, network.reach_into(i))
    return replace(op, weight=found.weight, bias=found.bias, acc_bits=bits), found.train


def _fired(executor: StreamExecutor, i: int, given: Train, weight: Tensor, bias: Tensor, like: Tensor) -> Train:
    """What the neurons of a layer fire with other weights, as ``StreamExecutor`` runs them."""
    layer, _ = executor.spiking.integer.conv(i)
    conv, neuron = ExactConv(layer, weight, torch.zeros_like(bias), 1), executor.neuron(i, like.device)
    charge = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
    count, constant = torch.zeros(like.shape, device=like.device), bias.double().view(1, -1, 1, 1)
    train: Train = []
    for t, spikes in enumerate(given):
        if t < executor.arrival:
            charge += arriving(constant, t, executor.arrival)
        if spikes is not None:
            charge += conv(spikes.float())
        fired = neuron.fire(charge, count)
        train.append(fired.to(torch.int8) if bool(fired.any()) else None)
    return train


def _read_out(executor: StreamExecutor, i: int, given: Train, golden: Trace) -> IntConv:
    """The bias that takes the mean error away."""
    network = executor.spiking.integer
    layer, op = network.conv(i)
    conv = ExactConv(layer, op.weight, op.bias, network.reach_into(i))
    received = summed(given, golden.levels[layer.sources[0]])
    error = conv(received).double() - golden.accumulators[i].double()
    bias = _whole(unbiased(op.bias.double(), error), op.bias)
    bits = accumulator_bits(op.weight, bias, network.reach_into(i))
    return replace(op, bias=bias, acc_bits=bits) if bits <= (network.scheme.acc_bits or ACC_BITS) else op


def _whole(bias: Tensor, like: Tensor) -> Tensor:
    return round_half_up(bias).clamp_(-INT32, INT32).to(like.dtype)


def unbiased(bias: Tensor, error: Tensor) -> Tensor:
    """``bias`` less the mean error [N,O,H,W] of the images that fit, where those that judge are the better for it."""
    fit, judge = _roles(error)
    mean = error[fit].mean((0, 2, 3))
    before, after = (each[judge].square().mean((0, 2, 3)) for each in (error, error - mean.view(1, -1, 1, 1)))
    return torch.where(after < before, bias - mean, bias)
