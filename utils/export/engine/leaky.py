"""Networks that were trained as spikes: a program of steps, in which membranes leak and go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from utils.errors import InputError
from utils.export.engine.isa import Compute, Descriptor, Op, Plain
from utils.export.engine.program import Program
from utils.export.engine.target import Engine
from utils.quantization.integer import IntegerNetwork

LEAST = 16  # membranes


def check_leaky(network: IntegerNetwork, engine: Engine) -> None:
    """Refuse an engine for the other kind of network, and images that change from step to step.

    Raises:
        InputError: says which engine it is for.
    """
    if network.timed and not engine.leaky:
        raise InputError(f"--engine {engine.kind}: networks trained as spikes run on --engine spikes alone")
    if engine.leaky and network.spec.input_frames:
        raise InputError(
            "--engine spikes: [net] input=frames: the engine shows one image in all steps; use export.py c"
        )


def leaky_program(network: IntegerNetwork, program: Program, steps: int | None = None) -> Program:
    """The program of a step, written as often as the network has steps, with a place for every membrane.

    Args:
        program: of a step.
        steps: other than the network's own.

    Raises:
        InputError: the membranes of all layers do not fit.
    """
    made = _Steps(program)
    if made.words > program.engine.membranes:
        raise InputError(
            f"--engine spikes: the neurons of all layers have {made.words} membranes a lane, the engine "
            f"{program.engine.membranes}; give it more (membranes of --target), or use a smaller image"
        )
    count = network.spec.timesteps if steps is None else steps
    parts = [tuple(made.step(first=t == 0, last=t == count - 1)) for t in range(count)]
    engine = replace(program.engine, membranes=max(LEAST, 1 << (made.words - 1).bit_length()))
    descriptors = (*(one for part in parts for one in part), Plain(Op.END))
    return replace(program, engine=engine, descriptors=descriptors, phases=tuple(map(len, parts)))


@dataclass
class _Steps:
    """A step's descriptors; ``place``: the first membrane of each that keeps some, ``words``: of all of them."""

    program: Program
    place: dict[int, int] = field(default_factory=dict)
    words: int = 0

    def __post_init__(self) -> None:
        """Neurons and read-outs keep theirs; sums and what moves need some for a moment, which lie behind."""
        moment = 1
        for k, one in enumerate(self.program.descriptors):
            if isinstance(one, Compute) and one.leaky:
                self.place[k] = self.words
                self.words += one.outputs
            elif isinstance(one, Compute) and one.events is not None:
                moment = max(moment, one.outputs)
        self.moment, self.words = self.words, self.words + moment

    def step(self, *, first: bool, last: bool) -> Iterator[Descriptor]:
        """All layers, once; in the ``last`` step their maps are marked as done."""
        for k, one in enumerate(self.program.descriptors[:-1]):
            if k in self.place and isinstance(one, Compute):
                yield replace(one, membrane=self.place[k], keep=not first)
            elif isinstance(one, Compute) and one.events is not None:
                yield replace(one, membrane=self.moment)
            elif last or not isinstance(one, Plain):
                yield one
