"""What each layer alone costs: the metric of a network that lost channels in one layer only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tqdm import tqdm

from utils.darknet.channel_groups import trace
from utils.darknet.network import Network
from utils.errors import InputError
from utils.pruning.layerwise import decide_layerwise
from utils.pruning.plan import Plan, ShortcutRule, offered
from utils.pruning.scores import Score, gammas, strengths
from utils.pruning.search import absorbed_cut


class SensitivityRow(NamedTuple):
    """The metric of the network when ``layer`` (at cfg ``line``) is asked to lose this share of its channels."""

    layer: int
    line: int
    percent: float
    metric: float


def sensitivity(
    net: Network,
    *,
    percents: Sequence[float],
    measure: Callable[[Network], float],
    tie: ShortcutRule,
    layers: Sequence[int] | None = None,
    floor: float = 0.0,
    multiple: int = 1,
    score: Score = gammas,
    scope: frozenset[int] | None = None,
    recalibrate: Callable[[Network], Network] = lambda net: net,
    make: Callable[[Network, Plan], Network] = absorbed_cut,
) -> list[SensitivityRow]:
    """Prune one layer at a time, by each percent, and measure.

    A layer's wires go as it alone wants: other layers on them follow and are not asked. Plans that cut nothing share
    one measurement, and so do percents that come to the same plan.

    Args:
        net: the network; it is not changed.
        percents: shares of a layer's free channels, in [0, 1).
        measure: metric of a network.
        tie: as in `plan_channels`; with `ShortcutRule.KEEP` layers that share all their wires are not offered.
        layers: layer numbers; default all that are offered.
        floor: as in `plan_channels`, and so are the others.
        multiple: likewise.
        score: likewise.
        scope: likewise.
        recalibrate: measures batch norm anew after each cut; by default nothing does.
        make: cuts a network by a plan.

    Returns:
        list: layer by layer, in the order given.

    Raises:
        InputError: a percent is out of range, or a layer has nothing to prune.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2 (arXiv 1608.08710).
    """
    bad = [percent for percent in percents if not 0 <= percent < 1]
    if bad or not percents:
        raise InputError(f"percents of a sensitivity must be in [0, 1), got {bad[0] if bad else 'none'}")
    wires = trace(net.spec)
    scores = strengths(net.spec, wires, score(net))
    wanted = list(offered(wires, tie, scope)) if layers is None else list(layers)
    plans = {
        (i, percent): decide_layerwise(
            wires, scores, {i: percent}, tie=tie, floor=floor, multiple=multiple, scope=scope
        )
        for i in wanted
        for percent in percents
    }
    known: dict[bytes, float] = {}
    rows = []
    for (i, percent), plan in tqdm(plans.items(), desc="sensitivity", leave=False, disable=None):
        key = plan.keep.numpy().tobytes()
        if key not in known:
            known[key] = measure(recalibrate(make(net, plan)))
        rows.append(SensitivityRow(i, net.spec.layers[i].line, percent, known[key]))
    return rows
