"""One channel for all constants that a reader loses: exact at zero-padded borders too, and still a plain cfg.

What a 3x3 convolution makes of a constant channel is not constant: at the border its kernel hangs over into zeros. So
no bias can replace the channel, but another constant channel can. Of the cut wires that a reader reads one stays as the
*carrier*, with gamma 0 and sending 1, and the reader's weights for it become Σ w[o,j,k]·c[j] over all j it loses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.channel_groups import ChannelGroups, trace
from utils.darknet.kernels import as_stored, out_first
from utils.darknet.network import Network, State
from utils.darknet.patterns import is_silent_at_zero, patterns, response, share
from utils.pruning.absorb import absorb, constants, shifted, through_kernel, zeroed
from utils.pruning.choices import Beta
from utils.pruning.plan import Plan, fill
from utils.pruning.surgery import cut, mixing_tensor

FAINTEST = 1e-3  # of the 1 that carriers send by design: less would need weights too large to train or to quantise
OVER = 1.5  # times the beta from which on a neuron fires at every step: on a threshold rounding would decide
HIGHEST = 6.0  # beta from which on every activation sends its most, or 1


def settle(net: Network, plan: Plan, beta: Beta) -> tuple[Network, Plan]:
    """The network to cut, as wide as ``net``, and the plan to cut it by.

    Only `Beta.CARRIER` changes the plan: carriers, and what rounding adds for them, stay as well.
    """
    if beta is Beta.CARRIER:
        return carry(net, plan)
    return absorb(net, plan) if beta is Beta.BIAS else net, plan


def settle_and_cut(net: Network, plan: Plan, beta: Beta) -> tuple[Network, Plan]:
    """What `settle` and `cut` make of a network, and the plan that it was cut by.

    The same numbers with less memory: carriers are put into the narrow kernels, no wide ones are copied on the way.
    """
    if beta is not Beta.CARRIER:
        settled, plan = settle(net, plan, beta)
        return cut(settled, plan), plan
    wires = trace(net.spec)
    quiet, plan, loads = _loaded(net, plan, wires)
    small = cut(quiet, plan)
    new, kernels = dict(small.state), net.spec.kernels
    for load in loads:
        layer = net.spec.layers[load.layer]
        place = plan.keep[wires.outputs[layer.sources[0]]].cumsum(0) - 1
        rows = plan.keep[wires.outputs[load.layer]] if load.layer in kernels else slice(None)
        new[load.key] = _put(small.spec.layers[load.layer], new[load.key], place[load.columns], load.weights[rows])
    return Network(small.spec, new), plan


def carry(net: Network, plan: Plan) -> tuple[Network, Plan]:
    """Give the constants of the channels that ``plan`` cuts to carriers.

    Cut by the plan that comes back, the network equals ``zeroed(net, that plan)`` everywhere. The one exception is what
    a depthwise convolution without batch norm has changed: at its padded borders it is no constant, and where all that
    a reader could read lies behind one, the reader's bias takes the loss.
    """
    quiet, plan, loads = _loaded(net, plan, trace(net.spec))
    new = dict(quiet.state)
    for load in loads:
        new[load.key] = _put(net.spec.layers[load.layer], new[load.key], load.columns, load.weights)
    return Network(net.spec, new), plan


def appoint(net: Network, plan: Plan, wires: ChannelGroups | None = None) -> Plan:
    """Add carriers to a plan: as few wires as serve every reader that loses a constant, chosen greedily.

    A carrier takes the place of a channel that stays for rounding alone, where there is one, since layers are rounded
    up again from what was wanted. What that adds, and a carrier with nothing to carry but itself, stays alive. No
    weight is touched, so this predicts what `carry` needs; a plan that has its carriers comes back as it is.
    """
    if plan.carriers is not None:
        return plan
    wires = wires or trace(net.spec)
    alive = _wanted(plan, wires)
    losses, offers = _market(net, alive, wires)
    price = _price(net, wires)
    while True:
        carriers = _cover((losses & ~alive).any(1), offers & ~alive, price)
        keep = alive | carriers
        wanted = int(keep.sum())
        fill(keep, wires, plan.scores, 0.0, plan.multiple)
        if int(keep.sum()) == wanted:
            break
        alive = keep & ~carriers
    carriers = _cover((losses & ~keep).any(1), offers & carriers, price)
    rows = tuple(replace(row, after=int(keep[wires.outputs[row.layer]].sum())) for row in plan.rows)
    return replace(plan, keep=keep, rows=rows, carriers=carriers)


def _wanted(plan: Plan, wires: ChannelGroups) -> Tensor:
    """What stays for its own sake; where ``keep`` is no longer what rounding made of ``wanted``, all of it does."""
    if plan.wanted is None:
        return plan.keep
    rounded = plan.wanted.clone()
    fill(rounded, wires, plan.scores, 0.0, plan.multiple)
    return plan.wanted if torch.equal(rounded, plan.keep) else plan.keep


def _market(net: Network, alive: Tensor, wires: ChannelGroups) -> tuple[Tensor, Tensor]:
    """Which reader loses a constant with which wire, and which cut wire could carry for it: bool [readers, wires]."""
    lost = constants(net, alive, wires)
    levelled = {**net.state, **_levels(net, wires, ~alive)}
    sent = _sent(Network(net.spec, levelled), alive, wires)
    readers = [layer.sources[0] for layer in net.spec.layers if mixing_tensor(layer)]
    losses = torch.zeros(len(readers), wires.count, dtype=torch.bool)
    offers = torch.zeros_like(losses)
    for row, source in enumerate(readers):
        losses[row, wires.outputs[source][lost[source] != 0]] = True
        offers[row, wires.outputs[source][sent[source].abs() >= FAINTEST]] = True  # nan is never large
    return losses, offers


def _price(net: Network, wires: ChannelGroups) -> Tensor:
    """What a wire costs: convolutions' channels it takes up, then, under 1, how strong it would be alive: [wires]."""
    channels, strength = torch.zeros(wires.count), torch.zeros(wires.count)
    for i, layer in net.spec.kernels.items():
        channels.index_add_(0, wires.outputs[i], torch.ones(layer.filters))
        if layer.bn:
            gamma = net.state[f"layers.{i}.bn.weight"].detach().cpu().float().abs()
            strength.index_add_(0, wires.outputs[i], gamma)
    return channels + strength / (1 + strength)


def _cover(needy: Tensor, offers: Tensor, price: Tensor) -> Tensor:
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


def _levels(net: Network, wires: ChannelGroups, marked: Tensor) -> State:
    """Betas (biases of gates) that make the ``marked`` wires send 1, so that their readers' weights stay moderate.

    A convolution that is only added to a wire by shortcuts sends 0, lest the sum grows along a residual chain.
    """
    new: State = {}
    for i, layer in net.spec.kernels.items():
        if i in wires.depthwise and not layer.bn:
            continue
        mine = marked[wires.outputs[i]].nonzero().flatten()
        if len(mine):
            key = f"layers.{i}.bn.bias" if layer.bn else f"layers.{i}.conv.bias"
            level = _beta_of_one(response(net.spec, layer)) * (OVER if i in net.spec.neurons else 1.0)
            levels = torch.where(_only_added(net.spec, i, layer, wires)[mine], 0.0, level)
            new[key] = net.state[key].index_copy(0, mine.to(net.state[key].device), levels.to(net.state[key]))
    return new


def _only_added(spec: s.ModelSpec, i: int, layer: s.Kernel, wires: ChannelGroups) -> Tensor:
    """Channels of a convolution that shortcuts alone read, each beside an earlier source of the same wire: bool [C]."""
    readers = [reader for reader in spec.layers if i in reader.sources]
    added = (isinstance(r, s.Shortcut) and r.weights_type == "none" and i > min(r.sources) for r in readers)
    own = wires.outputs[i]
    if not is_silent_at_zero(layer.activation) or not all(added):
        return torch.zeros_like(own, dtype=torch.bool)
    # a narrower source leaves the last channels of a sum to this one
    beside = [torch.isin(own, wires.outputs[min(reader.sources)]) for reader in readers]
    return torch.stack(beside).all(0) if beside else torch.ones_like(own, dtype=torch.bool)


def _beta_of_one(activation: Callable[[Tensor], Tensor]) -> float:
    """The beta for which an activation, growing from 0 on, sends 1; `HIGHEST` where it stays below."""
    low, high = 0.0, HIGHEST
    for _ in range(60):
        middle = torch.tensor([(low + high) / 2], dtype=torch.float64)
        low, high = (float(middle), high) if activation(middle) < 1 else (low, float(middle))
    return high


def _sent(net: Network, alive: Tensor, wires: ChannelGroups) -> dict[int, Tensor]:
    """`constants`, but nan for what a padded depthwise convolution without batch norm has made uneven."""
    new = dict(net.state)
    for i in wires.depthwise:
        layer = net.spec.kernels[i]
        if not layer.bn and layer.pad:
            new[f"layers.{i}.conv.bias"] = torch.full_like(net.state[f"layers.{i}.conv.bias"], torch.nan)
    return constants(Network(net.spec, new), alive, wires)


@dataclass(frozen=True)
class _Load:
    """What the carriers in ``columns`` bring to a reader: ``weights`` [C_out, columns, ...] of tensor ``key``.

    Outputs are on the first axis, however the tensor is stored.
    """

    layer: int
    key: str
    columns: Tensor
    weights: Tensor


def _loaded(net: Network, plan: Plan, wires: ChannelGroups) -> tuple[Network, Plan, list[_Load]]:
    """The network whose cut wires and carriers send constants, kernels still as they are, and the carriers' loads."""
    plan = appoint(net, plan, wires)
    assert plan.carriers is not None
    lost = constants(net, plan.alive, wires)
    new = {**zeroed(net, plan).state, **_levels(net, wires, plan.carriers)}
    sent = _sent(Network(net.spec, new), plan.alive, wires)
    loads, pattern, kernels = [], patterns(net.spec)[0], net.spec.kernels
    for i, layer in ((i, layer) for i, layer in enumerate(net.spec.layers) if mixing_tensor(layer)):
        source = layer.sources[0]
        columns = plan.carriers[wires.outputs[source]].nonzero().flatten()
        usable = columns[sent[source][columns].abs() >= FAINTEST]
        key = f"layers.{i}.{mixing_tensor(layer)}"
        if len(columns):
            rows = out_first(layer, new[key])
            loads.append(_Load(i, key, columns, _weights(rows, lost[source], sent[source], columns, usable)))
        if i in kernels and not len(usable) and lost[source].any():
            mean = through_kernel(new, i, kernels[i], lost[source]) * share(pattern[source])
            new.update(shifted(new, i, kernels[i], mean))
    return Network(net.spec, new), plan, loads


def _put(layer: s.Layer, tensor: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
    """A reader's ``tensor`` with other ``weights`` [C_out, columns, ...] for some of its inputs."""
    return as_stored(layer, out_first(layer, tensor).index_copy(1, columns.to(tensor.device), weights))


def _weights(kernel: Tensor, lost: Tensor, sent: Tensor, columns: Tensor, usable: Tensor) -> Tensor:
    """A reader's weights for its carriers: all it loses is in one of the ``usable`` columns, the others are 0.

    A wire may arrive by several columns and a reader may see carriers that serve others: each constant counts once.
    """
    weights = kernel.new_zeros(len(kernel), len(columns), *kernel.shape[2:])
    gone = lost.nonzero().flatten()
    if len(gone) and len(usable):
        column = usable[sent[usable].abs().argmax()]
        given = kernel.index_select(1, gone.to(kernel.device)).double()
        factor = (lost[gone] / sent[column]).to(given.device)
        weights[:, columns == column] = torch.tensordot(given, factor, dims=([1], [0])).to(kernel.dtype)[:, None]
    return weights
