"""Which wires serve every reader that needs one, at the least price."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.channel_groups import ChannelGroups
from utils.darknet.network import Network


def price_of(net: Network, wires: ChannelGroups) -> Tensor:
    """What a wire costs: convolutions' channels it takes up, then, under 1, how strong it would be alive: [wires]."""
    channels, strength = torch.zeros(wires.count), torch.zeros(wires.count)
    for i, layer in enumerate(net.spec.layers):
        if isinstance(layer, s.Kernel):
            channels.index_add_(0, wires.outputs[i], torch.ones(layer.filters))
            if layer.bn:
                gamma = net.state[f"layers.{i}.bn.weight"].detach().cpu().float().abs()
                strength.index_add_(0, wires.outputs[i], gamma)
    return channels + strength / (1 + strength)


def cover(needy: Tensor, offers: Tensor, price: Tensor) -> Tensor:
    """Wires that together serve all needy readers; the one that serves most comes first, the cheapest of equal ones."""
    chosen, waiting = torch.zeros_like(price, dtype=torch.bool), needy.clone()
    gain = offers[waiting].sum(0)
    while int(gain.max()) > 0:
        best = (gain == gain.max()).nonzero().flatten()
        wire = int(best[price[best].argmin()])
        chosen[wire] = True
        served = waiting & offers[:, wire]
        waiting &= ~served
        gain -= offers[served].sum(0)
    return chosen
