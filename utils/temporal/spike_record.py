"""What neurons sent at the last steps: some of each layer, for a picture, and how many fired."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.neuron_spec import SPIKING
from utils.darknet.ops import facts

SAMPLES = 256  # neurons of a layer that are kept


class SpikeRecord:
    """The last steps of one image or film.

    Args:
        spec: a network with neurons.
        steps: how many steps are kept.
    """

    def __init__(self, spec: s.ModelSpec, steps: int) -> None:
        self.steps = steps
        self._neurons = {i: each for i, each in spec.neurons.items() if each.kind in SPIKING}
        self._names = {i: f"{i} {facts(spec.layers[i]).section}" for i in self._neurons}
        self._kept: deque[dict[int, Tensor]] = deque(maxlen=steps)
        self._fired = dict.fromkeys(self._neurons, 0.0)
        self._counted = 0

    def clear(self) -> None:
        """Forget the steps that are shown; what is counted stays."""
        self._kept.clear()

    def add(self, sent: Mapping[int, Tensor]) -> None:
        """The next steps.

        Args:
            sent: what each layer of neurons sends, [steps, N, C, H, W]; the first image counts.
        """
        first = {i: sent[i][:, 0].flatten(1) for i in self._neurons}
        steps = max((len(values) for values in first.values()), default=0)
        for t in range(steps):
            self._kept.append({i: self._sample(i, values[t]) for i, values in first.items()})
        for i, values in first.items():
            self._fired[i] += float((values != 0).float().mean(1).sum())
        self._counted += steps

    def _sample(self, i: int, values: Tensor) -> Tensor:
        """Some of a layer's neurons at a step, -1 to 1."""
        neuron = self._neurons[i]
        at = torch.linspace(0, len(values) - 1, min(SAMPLES, len(values))).round().long()
        most = neuron.unit * (neuron.levels if neuron.kind == "ilif" else 1)
        return values[at.to(values.device)].float().cpu() / most

    @property
    def rows(self) -> dict[str, Tensor]:
        """What each layer's sample sent at the steps that are kept, -1 to 1, [steps, samples], by the layer's name."""
        return {name: torch.stack([each[i] for each in self._kept]) for i, name in self._names.items() if self._kept}

    @property
    def firing(self) -> dict[str, float]:
        """The share of a layer's neurons that fire in a step, the mean over all steps since it began, by its name."""
        return {name: self._fired[i] / max(self._counted, 1) for i, name in self._names.items()}
