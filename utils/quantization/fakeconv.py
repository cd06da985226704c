"""Convolutions in quantised training: weights on their grid, batch norm folded or beside it; weighted sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.modules import conv_and_bn, convolve
from utils.darknet.shortcuts import source_shares
from utils.quantization.activation_qparams import QParams
from utils.quantization.apot import magnitudes, nearest_level, rounded_weight
from utils.quantization.observers import FACTORS, Scale
from utils.quantization.ste import learn_quantise, next_power, round_straight
from utils.quantization.weights import (
    LARGEST_BIAS,
    LEAST_RAISE,
    SHARES,
    SMALLEST_SHARE,
    best_power,
    weight_levels,
    weight_scales,
)

SMALLEST_UNIT = 1e-30  # of an accumulator over its input's; a channel under it is dead
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

    In style apot the levels of ``additive`` bits are sums of two powers of two, on one scale for the layer (`apot`).

    With ``acc_bits`` the scales in use are raised, in training and after it, until no input whatever can overflow an
    accumulator of so many bits: the bound of `weights.fit_accumulator`, on what batch norm makes of the layer now. What
    follows the weights or learns is the scale before that.
    """

    def __init__(
        self,
        layer: s.Conv,
        in_channels: int,
        *,
        style: str,
        bits: int,
        fold: bool,
        learn: bool,
        share: float,
        acc_bits: int | None = None,
        additive: int | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.bits, self.share, self.additive = layer, bits, share, additive
        self.room = None if acc_bits is None else 2 ** (acc_bits - 1) - 1
        self.dorefa, self.fold = style == "dorefa", fold and layer.bn
        self.conv, self.bn = conv_and_bn(layer, in_channels)
        count = layer.filters if style == "google" else 1
        fixed = self.dorefa and not learn  # then it is the largest weight's, computed each time
        self.steps = Scale(torch.ones(count), power=style == "pow2", learn=learn, fixed=fixed)

    def forward(self, x: Tensor, *, source: QParams, frozen: bool) -> Tensor:
        """One layer's sums.

        Args:
            x: [N,I,H,W] on a grid.
            source: that grid.
            frozen: normalise by the running statistics; a weight and a bias are then all that is left, and both are
                rounded as the integers will have them, the bias to the unit of the accumulator.

        Returns:
            [N,O,H',W'], normalised.
        """
        full, s_in = self._weight(), source.scale
        step = self._step(full, source)
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
        if self.additive:
            self.steps.scale.copy_(self._searched(weight.float()))
            return
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
        elif self.steps.follows and self.additive:
            weight = self._weight()
            factors = torch.tensor(FACTORS, device=weight.device)
            errors = [self._error(weight, self.steps.scale * factor) for factor in factors]
            self.steps.scale.mul_(factors[int(torch.stack(errors).argmin())].pow(pace))
        elif self.steps.follows:
            top = weight_levels(self.bits)
            self.steps.look(self._weight().reshape(len(self.steps.scale), -1), -top, top)
            self.steps.move(pace)

    @torch.no_grad()
    def kept(self, source: QParams) -> tuple[float, float]:
        """Share of the weights' power that rounding leaves, before and after scales are raised for the accumulator.

        In the unit of the output, so that a channel that batch norm has almost switched off hardly counts.
        """
        weight = self._weight()
        gain = self._gain().abs() if self.bn is not None and not self.fold else torch.ones_like(weight[:, 0, 0, 0])
        gain = gain.view(-1, 1, 1, 1)
        power = (weight * gain).square().sum().clamp_min(torch.finfo(torch.float32).tiny)
        steps = (self._own_step(weight), self._step(weight, source))
        off = [(self._levels(weight, step) * step.view(-1, 1, 1, 1) - weight) * gain for step in steps]
        before, after = (1 - float(each.square().sum() / power) for each in off)
        return before, after

    @torch.no_grad()
    def absorbed(self, source: QParams) -> tuple[Tensor, Tensor, Tensor]:
        """The layer as `lower` takes it: batch norm in weight, bias and scale, exactly.

        Args:
            source: grid of the edge it reads.

        Returns:
            Weights [O,I/groups,k,k] on their grid and biases [O], float32; scales [O], float64, > 0. A channel whose
            scale is tiny beside its bias takes a larger one, on which its weights are rounded again: its accumulator
            could not hold the bias.
        """
        weight = self._weight()
        step = self._step(weight, source)
        level = self._levels(weight, step)
        step = step.double().expand(len(weight))
        value = level.double() * step.view(-1, 1, 1, 1)
        bias = self._bias().double()
        if self.bn is not None and not self.fold:
            gain = self._gain().double()
            value, step = value * gain.view(-1, 1, 1, 1), step * gain.abs()
        largest = LARGEST_BIAS if self.room is None else min(LARGEST_BIAS, self.room - 1)
        least = bias.abs() / (source.scale * largest)
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

    def _bias(self) -> Tensor:
        """What the integers add, in the value's unit, [O]."""
        if self.bn is not None:
            return self._shift()
        assert self.conv.bias is not None
        return self.conv.bias

    def _levels(self, weight: Tensor, step: Tensor) -> Tensor:
        """Integers in the weight's own float32, as in training; not for gradients."""
        if self.additive:
            return nearest_level(weight / step.view(-1, 1, 1, 1), self.additive)
        top = weight_levels(self.bits)
        return (weight / step.view(-1, 1, 1, 1) + 0.5).floor_().clamp_(-top, top)

    def _step(self, weight: Tensor, source: QParams) -> Tensor:
        """The scales in use, [O] or [1]."""
        step = self._own_step(weight)
        return step if self.room is None else self._fitted(weight.detach(), step, source)

    @torch.no_grad()
    def _fitted(self, weight: Tensor, step: Tensor, source: QParams) -> Tensor:
        """Scales raised until the accumulators fit: each channel's own where the integers have one for each.

        What batch norm adds to a channel that it has switched off has no say; `absorbed` takes care of it.
        """
        assert self.room is not None
        bias, gain = self._bias().double().abs(), torch.ones(len(weight), device=weight.device)
        if self.bn is not None and not self.fold:
            step, gain = step.expand(len(weight)), self._gain().abs()
        while True:
            unit = gain * step.double()
            held = torch.where(unit > SMALLEST_UNIT, bias / (source.scale * unit) + 1, 0.0)  # 1: however it is rounded
            sums = self._levels(weight, step).abs().flatten(1).sum(1, dtype=torch.float64)
            over = (sums * source.reach + held) / self.room
            if not bool((over > 1).any()):
                return step
            over = over if len(step) > 1 else over.amax(0, keepdim=True)
            raised = torch.where(over > 1, step * over.clamp_min(LEAST_RAISE), step).float()
            step = next_power(raised) if self.steps.power else raised

    def _searched(self, weight: Tensor) -> Tensor:
        """The scale of least squared error on additive levels, [1]."""
        assert self.additive is not None
        largest = weight.abs().max().clamp_min(torch.finfo(torch.float32).tiny) / magnitudes(self.additive)[-1]
        scales = largest * torch.linspace(1, SMALLEST_SHARE, SHARES, device=weight.device)
        return scales[torch.stack([self._error(weight, scale.view(1)) for scale in scales]).argmin()].view(1)

    def _error(self, weight: Tensor, scale: Tensor) -> Tensor:
        return (self._levels(weight, scale) * scale.view(-1, 1, 1, 1) - weight).square().sum()

    def _own_step(self, weight: Tensor) -> Tensor:
        """The scales by the weights alone."""
        if self.steps.fixed:
            largest = weight.detach().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
            return (largest / weight_levels(self.bits)).view(1)
        return self.steps.step()

    def _rounded(self, weight: Tensor, step: Tensor) -> Tensor:
        top, step = weight_levels(self.bits), step.view(-1, 1, 1, 1)
        if self.additive:
            scale = self.steps.scale.view(-1, 1, 1, 1)
            return rounded_weight(weight, scale, step, self.additive, learn=self.steps.learn)
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

    def forward(self, *given: Tensor) -> Tensor:
        """[N,C,H,W] of every source -> their weighted sum."""
        shares = source_shares(self.weights, self.normalization).view(len(given), -1, 1, 1)
        return sum((x * share for x, share in zip(given[1:], shares[1:], strict=True)), start=given[0] * shares[0])
