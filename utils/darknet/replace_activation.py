"""Another activation in place of leaky, for hardware: a rewrite of the cfg, after which the network is trained on."""

from __future__ import annotations

from dataclasses import replace

from utils.darknet import spec as s
from utils.errors import InputError

CHOICES = {"leaky-pow2": "leaky_pow2", "relu": "relu"}  # --act -> what the cfg says; see activations.SLOPES
LEAKY = ("leaky", "leaky_pow2")


def rewrite_activations(spec: s.ModelSpec, act: str) -> tuple[s.ModelSpec, int]:
    """The network with every leaky activation replaced, and how many layers that changed.

    Args:
        spec: the network.
        act: "leaky-pow2", whose slope of 2^-3 below 0 is a shift, or "relu".

    Raises:
        InputError: no such choice, or the network has nothing that is leaky.
    """
    if act not in CHOICES:
        raise InputError(f"--act: {act!r} is unknown; use one of {', '.join(CHOICES)}")
    wanted, layers = CHOICES[act], list(spec.layers)
    leaky = {i: layer for i, layer in spec.activated.items() if layer.activation in LEAKY}
    for i, layer in leaky.items():
        layers[i] = replace(layer, activation=wanted)
    changed = sum(layer.activation != wanted for layer in leaky.values())
    if not leaky:
        raise InputError(f"--act {act}: the network has no leaky activation; leave --act away")
    return replace(spec, layers=tuple(layers)), changed
