"""A network run through time: which of its edges have steps at all, and one pass over all of them or over one.

*Layer-wise*, all steps go through a layer before the next layer is begun: what has no state sees T N images at once,
[T * N, C, H, W], and batch norm with them takes its statistics over time as over images (tdBN: Zheng et al., AAAI 2021,
arXiv 2011.05280). *Step-wise* is the same pass over one step, with the state handed on. What is the same at every step
is computed once: all that a still image goes through before the first neuron; and outputs, with the linear kernels
that only they read, see the mean over time, or with ``[net] readout=last`` the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.neuron_spec import reach
from utils.darknet.ops import facts
from utils.darknet.walk import run
from utils.temporal.neurons import Memory, StatefulNeuron

Memories = Mapping[int, Memory]  # of every neuron, by layer
FRAMES = 5  # axes of an input that has steps of its own


@dataclass(frozen=True)
class Clock:
    """``timed``: edges whose values differ from step to step. ``averaging``: layers that read the mean over steps.

    ``last``: these read the last step alone (``[net] readout=last``).
    """

    timed: frozenset[int]
    averaging: frozenset[int]
    last: bool = False

    def read_out(self, over_time: Tensor) -> Tensor:
        """[T, N, C, H, W] -> what the layers that average are given, [N, C, H, W]."""
        return over_time[-1] if self.last else over_time.mean(0)


def clock_of(spec: s.ModelSpec, *, frames: bool) -> Clock:
    """Which edges of a network have an axis of time, if the image has one (``frames``) or has not."""
    timed: set[int] = {-1} if frames else set()
    averaging = _read_outs(spec)
    stateful = spec.stateful
    for i, layer in enumerate(spec.layers):
        if i in stateful or (i not in averaging and timed & set(layer.sources)):
            timed.add(i)
    return Clock(frozenset(timed), averaging, last=spec.reads_last)


def _read_outs(spec: s.ModelSpec) -> frozenset[int]:
    """Outputs, and the linear kernels that nobody else reads: of those the mean comes after or before, as one likes.

    An output of sequences is asked for every step.
    """
    outputs = {i for i in spec.heads if not isinstance(spec.layers[i], s.SequenceOutput)}
    found = set(outputs)
    for i, layer in spec.kernels.items():
        readers = {j for j, other in enumerate(spec.layers) if i in other.sources}
        if layer.activation == "linear" and not layer.bn and readers and readers <= outputs:
            found.add(i)
    return frozenset(found)


class Passage:
    """One pass of a batch through a network with neurons, over ``steps`` steps."""

    def __init__(
        self,
        clocks: Mapping[bool, Clock],
        x: Tensor,
        steps: int,
        memory: Memories,
        *,
        frames: bool,
        still: dict[int, Tensor] | None = None,
    ) -> None:
        """Take a batch in.

        Args:
            clocks: of `clock_of`, by ``frames``.
            x: [N, C, H, W], the same image at every step, or [N, T, C, H, W], frames.
            steps: T; that of the frames, where there are some.
            memory: the state before the first step; empty: at rest.
            frames: whether the network is made for frames; a single image is repeated for it.
            still: what an earlier pass of the same images made that has no steps, by layer; this one adds its own.
        """
        own = x.dim() == FRAMES
        self.steps = x.shape[1] if own else steps
        self.clock = clocks[own or frames]
        self.image = folded(x) if own else self._repeated(x) if frames else x
        self.before, self.after, self.still = memory, dict[int, Memory](), still

    def once(
        self, i: int, layer: s.Layer, values: list[Tensor], compute: Callable[[int, s.Layer, list[Tensor]], Tensor]
    ) -> Tensor:
        """What a layer makes of its sources, before its neurons; taken from ``still``, where it lies there."""
        changes = self.clock.timed & set(layer.sources) or i in self.clock.averaging
        if self.still is None or changes:
            return compute(i, layer, self.given(i, layer, values))
        if i not in self.still:
            self.still[i] = compute(i, layer, values)
        return self.still[i]

    def given(self, i: int, layer: s.Layer, values: list[Tensor]) -> list[Tensor]:
        """What a layer reads: the mean over time or its end, all steps, or what is the same at each of them."""
        timed = self.clock.timed
        if i in self.clock.averaging:
            pairs = zip(layer.sources, values, strict=True)
            return [self.clock.read_out(self._unfolded(x)) if j in timed else x for j, x in pairs]
        if timed & set(layer.sources):
            return [x if j in timed else self._repeated(x) for j, x in zip(layer.sources, values, strict=True)]
        return values

    def fire(self, i: int, layer: s.Layer, neuron: StatefulNeuron, current: Tensor) -> Tensor:
        """A layer's neurons at all steps; the current may be the same at each."""
        timed = bool(self.clock.timed & set(layer.sources))
        over_time = self._unfolded(current) if timed else current.expand(self.steps, *current.shape)
        sent, self.after[i] = neuron.unroll(over_time, self.before.get(i) or neuron.start(over_time[0]))
        return sent.flatten(0, 1)

    def read(self, i: int, value: Tensor) -> Tensor:
        """What leaves the network at an output: its mean over time, or every step of it as [N, T, C, H, W]."""
        return self._unfolded(value).transpose(0, 1) if i in self.clock.timed else value

    def _unfolded(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.steps, -1))

    def _repeated(self, x: Tensor) -> Tensor:
        return x.expand(self.steps, *x.shape).flatten(0, 1)


def folded(frames: Tensor) -> Tensor:
    """[N, T, C, H, W] -> [T * N, C, H, W], channels last."""
    return frames.transpose(0, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def detached(memory: Memories) -> dict[int, Memory]:
    """The state without the graph that made it."""
    return {i: tuple(value.detach() for value in values) for i, values in memory.items()}


def initial_gamma(spec: s.ModelSpec, i: int) -> float | None:
    """Where the gammas of a layer's batch norm start in a network that is trained as spikes; None: as usual, at 1.

    The threshold of the neurons that read it, so that their current has that deviation, and of those whose rates count
    their share of it that lets T spikes reach where T levels should (`reach`); a fifth of it for the last
    norm of a residual branch, whose sums would grow with depth. Source: tdBN, section 3.2, and EMS-YOLO. The branch of
    a sum is what lies behind the most convolutions; the other way, also one with a convolution, is the trunk.
    """
    neurons = spec.neurons
    if i in neurons:
        return neurons[i].v_th / (reach(spec.timesteps) if neurons[i].rate_codes else 1)
    if not neurons:
        return None
    readers = _through(spec, {i})
    sums = [j for j in readers if facts(spec.layers[j]).section == "shortcut"]
    behind = [neurons[j].v_th for j in readers if j in neurons]
    if not sums:
        return behind[0] if behind else None
    depth = _depths(spec)
    branch = any(depth[i] == max(depth[k] for k in spec.layers[j].sources) for j in sums)
    return (behind or [next(iter(neurons.values())).v_th])[0] * (RESIDUAL_SHARE if branch else 1)


def initial_beta(spec: s.ModelSpec, i: int) -> float:
    """Where the betas start: at 0; where spikes are a rate, so that its rounding down is to the nearest."""
    neuron = spec.neurons.get(i)
    return neuron.to_nearest if neuron is not None and neuron.rate_codes else 0.0


def _depths(spec: s.ModelSpec) -> dict[int, int]:
    """The most kernels that a value has gone through on its way to each edge."""
    return run(spec, 0, lambda i, layer, given: max(given) + (i in spec.kernels))


def _through(spec: s.ModelSpec, found: Collection[int]) -> set[int]:
    """The layers that read some edges, directly or through those that move values."""
    readers = {j for j, layer in enumerate(spec.layers) if set(layer.sources) & set(found)}
    moves = {j for j in readers if not facts(spec.layers[j]).computes and j not in spec.heads}
    return readers | (_through(spec, moves) if moves else set())


RESIDUAL_SHARE = 0.2
