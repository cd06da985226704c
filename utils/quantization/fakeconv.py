"""Convolutions in quantised training: weights on their grid, batch norm folded or beside it; weighted sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.modules import conv_and_bn, convolve
from utils.darknet.shortcuts import source_shares
from utils.quantization.observers import Scale
from utils.quantization.straight import learn_quantise, round_straight
from utils.quantization.weights import LARGEST_BIAS, best_power, weight_levels, weight_scales

SMALLEST_GAIN = 2.0**-40  # of batch norm; a channel under it is dead, and dividing by 0 would make it NaN


class FakeConv(nn.Module):
    """Convolution and batch norm, without activation.

    Three ways to the weights' grid: "google" has a scale for each output channel, "pow2" one for the layer that is a
    power of two; both follow the weights, or learn. "dorefa" sends the weights through tanh and spans the grid over the
    largest of them, without clipping. (Zhou et al., DoReFa-Net, 2016, arXiv 1606.06160, equation 9, on a symmetric grid
    that has a 0, and without the normalisation to 1, which would change what a layer without batch norm computes.)

    Folding: the weight that is quantised is w * gamma / sigma with the running sigma; the sum is divided by the same
    gain again so that batch norm can normalise by the batch; once the statistics are frozen it is a weight and a bias
    only. (Krishnamoorthi, Quantizing deep convolutional networks for efficient inference, 2018, section 3.2.2, arXiv
    1806.08342.)
    """

    def __init__(
        self, layer: s.Conv, in_channels: int, *, style: str, bits: int, fold: bool, learn: bool, share: float
    ) -> None:
        super().__init__()
        self.layer, self.bits, self.share = layer, bits, share
        self.dorefa, self.fold = style == "dorefa", fold and layer.bn
        self.conv, self.bn = conv_and_bn(layer, in_channels)
        count = layer.filters if style == "google" else 1
        fixed = self.dorefa and not learn  # then it is the largest weight's, computed each time
        self.steps = Scale(torch.ones(count), power=style == "pow2", learn=learn, fixed=fixed)

    def forward(self, x: Tensor, *, s_in: float, frozen: bool) -> Tensor:
        """One layer's sums.

        Args:
            x: [N,I,H,W] on a grid.
            s_in: the scale of that grid.
            frozen: normalise by the running statistics; a weight and a bias are then all that is left, and both are
                rounded as the integers will have them, the bias to the unit of the accumulator.

        Returns:
            [N,O,H',W'], normalised.
        """
        full = self._weight()
        step = self._step(full)
        weight = self._rounded(full, step)
        if self.bn is None:
            return convolve(self.layer, x, weight, _to_unit(self.conv.bias, s_in * step))
        if frozen and self.fold:
            return convolve(self.layer, x, weight, _to_unit(self._shift(), s_in * step))
        if frozen:
            gain = self._gain()
            unit = s_in * step * gain.detach().abs()
            return convolve(self.layer, x, weight * gain.view(-1, 1, 1, 1), _to_unit(self._shift(), unit))
        y = convolve(self.layer, x, weight)
        if self.fold:
            y = y / _away_from_zero(self._gain()).to(y.dtype).view(1, -1, 1, 1)
        return self.bn(y)

    @torch.no_grad()
    def search(self) -> None:
        """Set the scales where the present weights want them."""
        weight = self._weight()
        nothing = torch.zeros(len(weight), dtype=torch.float64)
        per = "google" if len(self.steps.scale) > 1 or len(weight) == 1 else "dorefa"
        found = weight_scales(weight.float(), nothing, 1.0, self.bits, per)[: len(self.steps.scale)]
        if self.steps.power and not self.steps.learn:
            found = found.new_tensor([best_power(weight, float(found), self.bits)])
        self.steps.scale.copy_(found)

    @torch.no_grad()
    def follow(self, pace: float) -> None:
        """Let the scales follow the present weights one step."""
        if self.steps.power and self.steps.follows:
            present = float(self.steps.step())
            self.steps.scale.fill_(best_power(self._weight(), present, self.bits, stay=present))
        elif self.steps.follows:
            top = weight_levels(self.bits)
            self.steps.look(self._weight().reshape(len(self.steps.scale), -1), -top, top)
            self.steps.move(pace)

    @torch.no_grad()
    def absorbed(self, s_in: float) -> tuple[Tensor, Tensor, Tensor]:
        """The layer as `lower` takes it: batch norm in weight, bias and scale, exactly.

        Args:
            s_in: scale of the edge it reads.

        Returns:
            Weights [O,I/groups,k,k] on their grid and biases [O], float32; scales [O], float64, > 0. A channel whose
            scale is tiny beside its bias takes a larger one, on which its weights are rounded again: its accumulator
            could not hold the bias.
        """
        weight = self._weight()
        top, step = weight_levels(self.bits), self._step(weight)
        level = (weight / step.view(-1, 1, 1, 1) + 0.5).floor_().clamp_(-top, top)  # in float32, as in training
        step = step.double().expand(len(weight))
        value = level.double() * step.view(-1, 1, 1, 1)
        if self.bn is None:
            assert self.conv.bias is not None
            bias = self.conv.bias.double()
        else:
            gain, bias = self._gain().double(), self._shift().double()
            if not self.fold:
                value, step = value * gain.view(-1, 1, 1, 1), step * gain.abs()
        least = bias.abs() / (s_in * LARGEST_BIAS)
        live = step > torch.finfo(torch.float32).tiny
        step = torch.where(live, step, step.max().clamp_min(torch.finfo(torch.float32).tiny))
        if not self.steps.power:
            step = torch.maximum(step, least)
        return value.float(), bias.float(), step.cpu()

    def _weight(self) -> Tensor:
        """The float weight that is quantised."""
        weight = self.conv.weight * self.share if self.share != 1 else self.conv.weight
        weight = weight.tanh() if self.dorefa else weight
        return weight * self._gain().view(-1, 1, 1, 1) if self.fold else weight

    def _gain(self) -> Tensor:
        """Batch norm's gain by the running statistics, [O]."""
        assert self.bn is not None and self.bn.running_var is not None
        return self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)

    def _shift(self) -> Tensor:
        """What batch norm adds by the running statistics, [O]."""
        assert self.bn is not None and self.bn.running_mean is not None
        return self.bn.bias - self.bn.running_mean * self._gain()

    def _step(self, weight: Tensor) -> Tensor:
        """The scales in use, [O] or [1]."""
        if self.steps.fixed:
            largest = weight.detach().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
            return (largest / weight_levels(self.bits)).view(1)
        return self.steps.step()

    def _rounded(self, weight: Tensor, step: Tensor) -> Tensor:
        top, step = weight_levels(self.bits), step.view(-1, 1, 1, 1)
        if self.steps.learn:
            return learn_quantise(weight, self.steps.scale.view(-1, 1, 1, 1), step, -top, top)
        return round_straight(weight, step, top)


def _to_unit(bias: Tensor | None, unit: Tensor) -> Tensor:
    """Biases [O] as whole numbers of accumulator units; those of a dead channel, without unit, stay."""
    assert bias is not None
    held = bias.detach()
    whole = torch.where(unit > 0, (held / unit + 0.5).floor() * unit, held)
    return bias + (whole - held)


def _away_from_zero(gain: Tensor) -> Tensor:
    return torch.where(gain.abs() < SMALLEST_GAIN, torch.full_like(gain, SMALLEST_GAIN), gain)


class FakeSum(nn.Module):
    """A weighted ``[shortcut]``: its weights stay floats in training; the integers take their shares as gains."""

    def __init__(self, layer: s.Shortcut, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(layer.weights_shape(width)))
        self.normalization = layer.weights_normalization

    def forward(self, given: list[Tensor]) -> Tensor:
        """[N,C,H,W] of every source -> their weighted sum."""
        shares = source_shares(self.weights, self.normalization).view(len(given), -1, 1, 1)
        return sum((x * share for x, share in zip(given[1:], shares[1:], strict=True)), start=given[0] * shares[0])
