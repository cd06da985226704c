"""Other activations than a network has, for hardware: a rewrite of the cfg, after which the network is trained on.

``--act relu`` puts one in place of every activation of hidden layers: of whatever ends in one and is neither linear nor
read out. Two stay until they are named, since they cost most: h_swish, and the gates that scale channels
(``--act relu=h_swish,gates``). Words behind the ``=`` choose: ``--act relu=mish,swish`` leaves all others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from utils.darknet import spec as s
from utils.darknet.choices import GATES, STAY, WORDS, parse_act
from utils.darknet.expand import expand
from utils.darknet.network import Network
from utils.errors import InputError


@dataclass(frozen=True)
class Rewritten:
    """A network with other activations; of which it had how many, and which of them stayed as they are."""

    network: Network
    changed: Counter[str]
    left: Counter[str]

    def describe(self, act: str) -> str:
        """Both in one line."""
        message = f"{_listed(self.changed)} activations rewritten"
        named = ",".join(name for name in STAY if name in self.left)
        more = f" (--act {act.partition('=')[0]}={named} takes those)" if named and "=" not in act else ""
        return f"{message}; {_listed(self.left)} stay{more}" if self.left else message


def rewrite_activations(network: Network, act: str) -> Rewritten:
    """The network with other activations; an [se] whose gate changes is written out as sections.

    Args:
        network: any; its tensors stay as they are.
        act: "relu", "relu6" or "leaky-pow2" (whose slope of 2^-3 below 0 is a shift), or one of them = names.

    Raises:
        InputError: no such choice, or the network has nothing that it would change.
    """
    wanted, names = parse_act(act)
    if GATES in names:
        network, _ = expand(network, (s.SqueezeExcite,))
    layers, changed, left = list(network.spec.layers), Counter[str](), Counter[str]()
    for i, kind in _hidden(network.spec).items():
        layer = layers[i]
        assert isinstance(layer, s.Activated)
        if kind in names if names else kind not in STAY and layer.activation != wanted:
            changed[kind] += 1
            layers[i] = replace(layer, activation=wanted)
        elif layer.activation != wanted:
            left[kind] += 1
    left[GATES] += sum(isinstance(layer, s.SqueezeExcite) for layer in layers)
    for name in names:
        if not changed[name]:
            raise InputError(f"--act {act}: the network has no {WORDS.get(name, name)} activation; {_had(left)}")
    if not changed:
        raise InputError(f"--act {act}: the network has no other activation; {_had(left)}")
    return Rewritten(Network(replace(network.spec, layers=tuple(layers)), network.state), changed, +left)


def _hidden(spec: s.ModelSpec) -> dict[int, str]:
    """Layers that end in an activation which is neither linear nor read out -> what ``--act`` calls it."""
    read_out = {spec.layers[i].sources[0] for i in spec.heads} or {len(spec.layers) - 1}
    gates = {_origin(spec, layer.sources[0]) for layer in spec.layers if isinstance(layer, s.ScaleChannels | s.Product)}
    return {
        i: GATES if i in gates else layer.activation
        for i, layer in spec.activated.items()
        if i not in read_out and layer.activation != "linear"
    }


def _origin(spec: s.ModelSpec, i: int) -> int:
    """The layer whose activation a gate is, behind layers that only move it."""
    while i >= 0 and not isinstance(spec.layers[i], s.Activated):
        i = spec.layers[i].sources[0]
    return i


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {WORDS.get(name, name)}" for name, count in counts.items())


def _had(left: Counter[str]) -> str:
    return f"name some of what it has ({_listed(+left)})" if +left else "leave --act away"
