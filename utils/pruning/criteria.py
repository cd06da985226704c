"""Other judges of a channel than |gamma|: each is a `Score`, and goes through the same plan and the same cut.

A plan has one threshold for the whole network, and along a wire the weakest layer counts (`scores.strengths`), so the
scores of two layers must mean the same. |gamma| and Taylor do so by themselves. The L1 norm and the geometric median
were published as rankings *within* a layer: there each score is divided by its layer's mean, so that 1 is an average
channel of any layer, and again by the mean of what depthwise layers behind it leave, since the smaller of two numbers
is small more often. Layers then give up channels by how unequal these are, not by how large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from utils.darknet.channel_groups import trace
from utils.darknet.kernels import out_first
from utils.darknet.network import Network
from utils.errors import InputError
from utils.pruning.penalty import GAMMA
from utils.pruning.scores import Score, Scores, gammas, strengths


def l1(net: Network) -> Scores:
    """Sum of |weights| of each filter, in units of its layer's mean (see above): float32 [C] by layer number.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1 (arXiv 1608.08710).
    """
    return _fair(net, {i: kernel.abs().sum(1) for i, kernel, _ in _filters(net)})


def fpgm(net: Network) -> Scores:
    """Sum of each filter's distances to its layer's other filters, in units of the layer's mean: float32 [C] by layer.

    What lies near the geometric median is what the others can stand in for. Filters of different groups read different
    channels: they are compared as filters of the whole input that are 0 outside their group, so two equal kernels of a
    depthwise convolution do not count as one.

    Source: He et al., Filter Pruning via Geometric Median, CVPR 2019, equations 4 to 7 (arXiv 1811.00250).
    """
    return _fair(net, {i: _distances(kernel, groups).sum(1) for i, kernel, groups in _filters(net)})


def random(seed: int) -> Score:
    """Uniform in 0..1 and the same for the same seed and network: the baseline that a judge has to beat.

    Depthwise convolutions get 1, they have no say: a wire must not be drawn twice.
    """

    def score(net: Network) -> Scores:
        make, depthwise = torch.Generator().manual_seed(seed), trace(net.spec).depthwise
        drawn = {i: torch.rand(len(g), generator=make) for i, g in gammas(net).items()}
        return {i: torch.ones_like(r) if i in depthwise else r for i, r in drawn.items()}

    return score


def taylor(net: Network, gradients: Mapping[str, Sequence[Tensor]]) -> Scores:
    """How much the loss changes, to first order, when a channel's batch norm gives 0: float32 [C] by layer number.

    sqrt(mean over batches of (gamma·dL/dgamma + beta·dL/dbeta)²), which is the gradient of a gate of 1 behind the batch
    norm. The root ranks as the paper's square does and adds up along groups as that does, and it has the loss's unit in
    every layer: nothing is normalised.

    Args:
        net: the network that the gradients were taken of.
        gradients: ``layers.{i}.bn.weight`` and ``.bias`` -> one gradient [C] a batch. A mean over batches, as a list of
            one, loses what cancels between them.

    Raises:
        InputError: a batch norm has no gradients, or another number or shape of them.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, equations 8 and 9
    (arXiv 1906.10771).
    """
    return {i: _taylor(net, i, len(gamma), gradients) for i, gamma in gammas(net).items()}


class TaylorScore:
    """`taylor` of a model while it is trained or run: collect after each backward pass, then plan with `score`.

    Each batch is judged by the gammas and betas it ran with. Only running sums are kept, float64 [C] a layer. A loss
    that is scaled (automatic mixed precision) must be unscaled, or its scale be the same for all batches.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.sums: dict[int, Tensor] = {}

    @torch.no_grad()
    def collect(self, model: nn.Module) -> None:
        """Add the gradients that ``model``'s last backward left; what the loss does not depend on counts as 0.

        Raises:
            InputError: there is no gradient at all, or one is not finite.
        """
        parameters, seen = dict(model.named_parameters()), False
        for name, gamma in parameters.items():
            match = GAMMA.search(name)
            if match is None:
                continue
            beta, layer = parameters[name.removesuffix("weight") + "bias"], int(match[1])
            change = torch.zeros(len(gamma), dtype=torch.float64)
            for parameter in (gamma, beta):
                if parameter.grad is not None:
                    seen = True
                    change += (parameter.double() * parameter.grad.double()).cpu()
            if not change.isfinite().all():
                raise InputError(f"the loss has no finite gradient at layer {layer}; lower the rate, or use --score l1")
            self.sums[layer] = self.sums.get(layer, 0.0) + change.square()
        if not seen:
            raise InputError("no batch norm has a gradient; call backward before the Taylor score is collected")
        self.batches += 1

    def score(self, net: Network) -> Scores:
        """The `Score`: of the network whose model was collected.

        Raises:
            InputError: nothing was collected, or it was of another network.
        """
        if not self.batches:
            raise InputError("the Taylor score saw no batch; check the training list")
        found = {i: (total / self.batches).sqrt().float() for i, total in self.sums.items()}
        widths = {i: len(gamma) for i, gamma in gammas(net).items()}
        if {i: len(score) for i, score in found.items()} != widths:
            raise InputError("the Taylor score was collected of another network; collect it again after a cut")
        return found


def _taylor(net: Network, i: int, width: int, gradients: Mapping[str, Sequence[Tensor]]) -> Tensor:
    keys = [f"layers.{i}.bn.{name}" for name in ("weight", "bias")]
    given = [gradients.get(key, ()) for key in keys]
    if not len(given[0]) == len(given[1]) > 0:
        raise InputError(f"{keys[0]}: {len(given[0])} gradients, and {len(given[1])} of its bias; give one a batch")
    change = torch.zeros(len(given[0]), width, dtype=torch.float64)
    for key, of_batches in zip(keys, given, strict=True):
        value = net.state[key].detach().double().cpu()
        for row, gradient in zip(change, of_batches, strict=True):
            if len(gradient) != width:
                raise InputError(f"{key}: a gradient of {len(gradient)} channels, the layer has {width}")
            row += value * gradient.detach().double().cpu()
    return change.square().mean(0).sqrt().float()


def _filters(net: Network) -> list[tuple[int, Tensor, int]]:
    """(layer number, filters float64 [C, weights], groups) of each convolution with batch norm."""
    return [
        (i, out_first(layer, net.state[f"layers.{i}.conv.weight"].detach()).flatten(1).double().cpu(), layer.groups)
        for i, layer in net.spec.normed.items()
    ]


def _distances(filters: Tensor, groups: int) -> Tensor:
    """Euclidean distances [C, C] of filters [C, weights] as filters of the whole input."""
    norms = filters.square().sum(1)
    products = torch.block_diag(*(part @ part.T for part in filters.chunk(groups)))
    return (norms[:, None] + norms[None] - 2 * products).clamp(min=0).sqrt().fill_diagonal_(0)


def _fair(net: Network, raw: Scores) -> Scores:
    """Scores whose strengths (`scores.strengths`) have the mean 1 in every layer."""
    relative, wires = {i: _relative(score) for i, score in raw.items()}, trace(net.spec)
    level, voters = torch.zeros(wires.count), torch.zeros(wires.count)
    means = {i: float(strength.mean()) or 1.0 for i, strength in strengths(net.spec, wires, relative).items()}
    for i, mean in means.items():
        level[wires.outputs[i]] += mean
        voters[wires.outputs[i]] += 1
    usual = (level / voters).nan_to_num(1.0)  # of the layers that a depthwise one weakens: nearly always one
    return {i: score / means.get(i, usual[wires.outputs[i]]) for i, score in relative.items()}


def _relative(score: Tensor) -> Tensor:
    """In units of the mean, float32; a layer of zeros stays one."""
    mean = score.mean()
    return (score / mean if mean > 0 else score).float()


CRITERIA: dict[str, Callable[[Network], Scores]] = {"gamma": gammas, "l1": l1, "fpgm": fpgm}  # need nothing but weights
