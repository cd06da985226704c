"""Layer-wise fine-tuning of rates, which stand for the activations of a float network; see ``finetune``."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from utils.darknet.activations import SLOPES
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.modules import convolve
from utils.darknet.network import Network
from utils.quantization.histogram import float_edges
from utils.quantization.validate import readouts
from utils.spiking.finetune import Progress, Train, TunedLayer, drop, pixel_edges, summed, tune, unbiased
from utils.spiking.rate import RateNetwork
from utils.spiking.rate_executor import RateState


@torch.no_grad()
def finetune_rate(
    rate: RateNetwork, network: Network, images: Tensor, *, iterations: int = 8, progress: Progress | None = None
) -> RateNetwork:
    """Weights and biases of ``rate`` that bring its rates nearer to the activations of the float ``network``.

    Args:
        rate: ``network`` normalised.
        network: what was converted.
        images: [N,C,H,W] of n / 255, of the training set, not augmented.
        iterations: of each layer.
        progress: is told each layer that is done.
    """
    spec, made, state = rate.spec, dict(rate.network.state), RateState(rate, images)
    last, pixels, read, convs = spec.last_readers, pixel_edges(spec), set(readouts(spec)), spec.convs
    trains: dict[int, Train] = {-1: [state.x] * rate.timesteps}
    for i, exact in float_edges(expand(fold_bn(network))[0], images):
        if i < 0 or i in spec.heads:
            continue
        layer = spec.layers[i]
        given = [trains[j] for j in layer.sources]
        if i not in convs or pixels.intersection(layer.sources):
            trains[i] = _relayed(state, i, given, exact=i in pixels)
        elif i in read:
            made[_name(i, "bias")] = _rate_read_out(rate, i, given[0], exact)
        else:
            found = tune(_rate_task(rate, i, given[0], exact, images), *_weights(rate, i), iterations)
            made |= {_name(i, "weight"): found.weight, _name(i, "bias"): found.bias}
            trains[i] = found.train
        drop(trains, layer, last, i)
        if progress:
            progress(i)
    return replace(rate, network=Network(spec, made))


def _relayed(state: RateState, i: int, given: list[Train], *, exact: bool) -> Train:
    train: Train = []
    for carried in zip(*given, strict=True):
        spikes = state.advance(i, [x.float() for x in carried if x is not None])
        train.append(spikes if exact or spikes is None else spikes.to(torch.int8))
    return train


def _name(i: int, part: str) -> str:
    return f"layers.{i}.conv.{part}"


def _weights(rate: RateNetwork, i: int) -> tuple[Tensor, Tensor]:
    return rate.network.state[_name(i, "weight")], rate.network.state[_name(i, "bias")]


def _rate_task(rate: RateNetwork, i: int, given: Train, exact: Tensor, images: Tensor) -> TunedLayer:
    layer, steps, scale = rate.spec.convs[i], rate.timesteps, rate.scales[i].view(1, -1, 1, 1)
    slope = SLOPES.get(layer.activation, 1.0)
    low = -torch.inf if layer.activation in ("linear", *SLOPES) else 0.0

    def fire(weight: Tensor, bias: Tensor) -> Train:
        made = rate.network.state | {_name(i, "weight"): weight, _name(i, "bias"): bias}
        state = RateState(replace(rate, network=Network(rate.spec, made)), images)
        return _relayed(state, i, [given], exact=False)

    bias = _weights(rate, i)[1]
    return TunedLayer(
        layer=layer,
        received=summed(given, next(x for x in given if x is not None)),
        wanted=(exact / scale.to(exact.device) * steps).clamp_(low, steps),
        low=low,
        high=steps,
        value=lambda acc: torch.where(acc < 0, acc * slope, acc),
        fire=fire,
        snap=lambda weight, bias: (weight, bias.float()),
        unit=torch.ones(len(bias), dtype=torch.float64),
        times=steps,
    )


def _rate_read_out(rate: RateNetwork, i: int, given: Train, exact: Tensor) -> Tensor:
    layer, (weight, bias) = rate.spec.convs[i], _weights(rate, i)
    received = summed(given, next(x for x in given if x is not None)) / rate.timesteps
    wanted = exact.logit(1e-6) if layer.activation == "logistic" else exact
    return unbiased(bias, convolve(layer, received, weight, bias) - wanted)
