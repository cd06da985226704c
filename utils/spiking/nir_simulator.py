"""A NIR file of the dialects "if" and "lif", run as its importers run it: who resets to what, fires how often, leaks.

Facts from the importers' own text: sinabs 3.1.3 (nir.py: IAFSqueeze, min_v_mem = -threshold; by default it subtracts
and fires as often as the membrane holds thresholds), norse 1.1.0 (iaf.py: one spike, v_reset), snnTorch 1.0.0
(import_nir.py: Leaky with beta 0.9, subtracting).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.temporal.execution import FRAMES


@dataclass(frozen=True)
class IfSemantics:
    """What an importer makes of NIR's IF.

    ``subtract``: the reset takes one threshold away, else the membrane becomes v_reset. ``many``: a step may hold more
    than one spike. ``floor``: the membrane's lowest value in thresholds, if there is one. ``keep``: what is left of it
    after a step. ``twice``: what stands above the threshold when a step begins is taken off before it counts, and given
    back where the step then has no spike.
    """

    subtract: bool = True
    many: bool = False
    floor: float | None = None
    keep: float = 1.0
    twice: bool = False


SEMANTICS = {
    "subtraction, as meant": IfSemantics(),
    "to zero (NIR's text, norse)": IfSemantics(subtract=False),
    "sinabs": IfSemantics(many=True, floor=-1.0),
    "snnTorch": IfSemantics(keep=0.9, twice=True),
}


LIF_SEMANTICS = {  # of NIR's LIF: norse and snnTorch as its text says
    "subtraction": IfSemantics(),
    "to zero (NIR's text, norse, snnTorch)": IfSemantics(subtract=False),
}


class NirSimulator(nn.Module):
    """``forward`` takes images [N,C,H,W] in 0..1, or frames [N,T,C,H,W], and returns [the head's map].

    ``counts`` are the last run's spikes. A file with LIF nodes says itself how long a step is.
    """

    def __init__(self, graph: Any, semantics: IfSemantics, steps: int) -> None:
        super().__init__()
        self.graph, self.semantics, self.steps = graph, semantics, steps
        self.counts: dict[str, Tensor] = {}
        self._sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
        self._order = _sorted(self._sources)
        self._weights = {
            name: (torch.tensor(node.weight).float(), torch.tensor(node.bias).float())
            for name, node in graph.nodes.items()
            if type(node).__name__ == "Conv2d"
        }

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """All steps of a batch; every image starts with membranes of 0."""
        membranes: dict[str, Tensor] = {}
        self.counts, total = {}, torch.zeros(())
        still: dict[str, Tensor] = {}
        for t in range(self.steps):
            value: dict[str, Tensor] = {}
            shown = x[:, t].float() if x.dim() == FRAMES else x.float()
            if x.dim() == FRAMES:
                still.clear()
            for name in self._order:
                value[name] = self._node(name, shown, value, membranes, still)
            total = total + value["output"]
        return [total]

    def _node(
        self, name: str, x: Tensor, value: dict[str, Tensor], membranes: dict[str, Tensor], still: dict[str, Tensor]
    ) -> Tensor:
        node, sources = self.graph.nodes[name], self._sources[name]
        given = x if not sources else value[sources[0]]
        for other in sources[1:]:
            given = given + value[other]
        match type(node).__name__:
            case "Conv2d":
                if name in still:  # of the image, which does not change
                    return still[name]
                weight, bias = self._weights[name]
                stride, padding, dilation = (_pair(v) for v in (node.stride, node.padding, node.dilation))
                out = F.conv2d(given, weight, bias, stride, padding, dilation, int(node.groups))
                if all(not self._sources[source] for source in sources):
                    still[name] = out
                return out
            case "SumPool2d":
                kernel, stride = _pair(node.kernel_size), _pair(node.stride)
                return F.avg_pool2d(given, kernel, stride) * (kernel[0] * kernel[1])
            case "IF" | "LIF":
                return self._fire(name, node, given, membranes)
        return given

    def _fire(self, name: str, node: Any, charge: Tensor, membranes: dict[str, Tensor]) -> Tensor:
        how, threshold = self.semantics, float(np.unique(node.v_threshold)[0])
        before = membranes.get(name, torch.zeros_like(charge))
        early = (before > threshold).float() if how.twice else torch.zeros(())
        if type(node).__name__ == "LIF":
            share = self.graph.metadata["dt"] / float(np.unique(node.tau)[0])
            v = before * (1 - share) + charge * share * float(np.unique(node.r)[0])
        else:
            v = before * how.keep + charge - early * threshold
        spikes = (v / threshold).floor_().clamp_(min=0) if how.many else (v > threshold).float()
        v = v - (spikes - early) * threshold if how.subtract else v * (1 - spikes)
        membranes[name] = v if how.floor is None else v.clamp(min=how.floor * threshold)
        self.counts[name] = self.counts[name] + spikes if name in self.counts else spikes
        return spikes


def _pair(value: Any) -> tuple[int, int]:
    first, second = np.broadcast_to(np.asarray(value), (2,)).tolist()
    return int(first), int(second)


def _sorted(sources: dict[str, list[str]]) -> list[str]:
    """Every node after those that it reads."""
    order: list[str] = []
    while len(order) < len(sources):
        ready = [name for name, given in sources.items() if name not in order and set(given) <= set(order)]
        if not ready:
            raise ValueError("the graph has a loop")
        order += ready
    return order
