"""What is left of a cut channel where no carrier serves its readers: how far --beta bias or drop is from exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from utils.darknet.channel_groups import trace
from utils.darknet.network import Network
from utils.pruning.absorb import constants, zeroed
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.choices import Beta
from utils.pruning.plan import Plan


@torch.no_grad()
def residuals(
    net: Network,
    plan: Plan,
    images: Sequence[Tensor],
    build: Callable[[Network], nn.Module],
    beta: Beta = Beta.BIAS,
) -> dict[int, float]:
    """How far the cut network is from the gamma-zeroed one, by layer that loses constants.

    Largest difference before the activation over the largest value there, on the channels that stay alive; differences
    of earlier layers are in it. Rounding apart, it is 0 for `Beta.CARRIER`.

    Args:
        net: the network to cut; it is not changed.
        plan: what goes.
        images: batches [N, C, H, W] in 0..1.
        build: makes a module in eval mode; its tensors are named as the state's.
        beta: which way is measured.
    """
    small, plan = settle_and_cut(net, plan, beta)
    wires = trace(net.spec)
    lost = constants(net, plan.alive, wires)
    names = {
        i: f"layers.{i}.{'bn' if layer.bn else 'conv'}"
        for i, layer in net.spec.kernels.items()
        if layer.groups == 1 and lost[layer.sources[0]].any()
    }
    found = dict.fromkeys(names, (0.0, 0.0))
    pair = [build(zeroed(net, plan)), build(small)]
    for batch in images:
        full, cut_ = (_outputs(model, names, batch) for model in pair)
        for i, (apart, largest) in found.items():
            alive = plan.alive[wires.outputs[i]]
            a, b = full[i][:, alive], cut_[i][:, alive[plan.keep[wires.outputs[i]]]]
            found[i] = (max(apart, float((a - b).abs().max())), max(largest, float(a.abs().max())))
    return {i: apart / max(largest, 1e-12) for i, (apart, largest) in found.items()}


def _outputs(model: nn.Module, names: dict[int, str], batch: Tensor) -> dict[int, Tensor]:
    seen: dict[int, Tensor] = {}

    def watch(i: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, given, output: seen.update({i: output})

    hooks = [model.get_submodule(name).register_forward_hook(watch(i)) for i, name in names.items()]
    model(batch)
    for hook in hooks:
        hook.remove()
    return seen
