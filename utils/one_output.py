"""What tasks whose networks end in one output layer have alike: its classes, and giving it others."""

from __future__ import annotations

from collections.abc import Sequence

from utils.darknet.heads import class_count, fresh_last_layer
from utils.darknet.network import State
from utils.darknet.spec import ModelSpec
from utils.data.manifest import Manifest, same_classes


class OneOutputTask:
    """Of a task, see ``utils/task.py``, what follows from the number of classes of the last layer."""

    def classes(self, spec: ModelSpec) -> int:
        """How many classes the output tells apart, or values it gives."""
        return class_count(spec)

    def check_classes(self, spec: ModelSpec, manifest: Manifest, place: str, names: Sequence[str] = ()) -> Manifest:
        """The data with its classes in the order of ``names``, the network's own; other classes are refused."""
        return same_classes(class_count(spec), manifest, place, names)

    def adapt(self, spec: ModelSpec, manifest: Manifest, place: str, *, fresh: bool) -> ModelSpec:
        """The network for the data's classes; ``fresh`` lets it have a new last layer where it is for others."""
        return fresh_last_layer(spec, manifest.classes, manifest.path.name, place, fresh=fresh)

    def initial_state(self, spec: ModelSpec) -> State:
        """Nothing: a last layer starts as torch starts it."""
        return {}
