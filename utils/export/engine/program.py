"""What a compiled network is."""

from __future__ import annotations

from dataclasses import dataclass

from utils.export.engine.edges import LaneBlock
from utils.export.engine.isa import BYTES, Descriptor
from utils.export.engine.plan import MemoryPlan
from utils.export.engine.target import Engine


@dataclass(frozen=True)
class Program:
    """What the engine is given, and what is known of it. Words are of L bytes, counted from the base.

    ``phases``: the descriptors of every step, and of stream mode those of the pass that shows the counts.
    """

    engine: Engine
    descriptors: tuple[Descriptor, ...]
    constants: bytes
    activations: int  # first word of the maps
    start: int  # of the program
    plan: MemoryPlan
    phases: tuple[int, ...] = ()

    @property
    def words(self) -> int:
        """Of everything."""
        return self.start + len(self.descriptors) * BYTES // self.engine.lanes

    def address(self, block: LaneBlock) -> int:
        """First word of a block."""
        return self.activations + self.plan.place[block.buffer] + block.offset
