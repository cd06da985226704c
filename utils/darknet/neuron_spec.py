"""Activations that keep state, as data: which there are, and what a cfg says of them. They run in utils/temporal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

NEURONS = ("lif", "plif", "ilif", "ltc", "li")
SPIKING = ("lif", "plif", "ilif", "ltc")  # li hands on its membrane
SURROGATES = ("rectangle", "triangle", "atan", "sigmoid", "multi-gaussian")
RESETS = ("hard", "soft")  # to 0, or by the threshold
GATES = ("full", "depthwise", "pointwise")  # kernels of an ltc's gates: 3x3, 3x3 of each channel alone, 1x1
UNROUNDED = {"ilif": 0.8, "lif": 0.5}  # share of a fresh network's epochs, by kind (decisions 137, 142)

ADAPTATION = 1.8  # by how much of its own trace an ltc's threshold grows; Bohté lab's ALIF, Yin et al. 2021, table 1


@dataclass(frozen=True, kw_only=True)
class NeuronKeys:
    """What a section says of its own neuron; None: as ``[net]`` says, else as its kind has it.

    ``replaces`` is the activation that a neuron was put in the place of, so that it can be put back.
    """

    v_th: float | None = None
    membrane_decay: float | None = None
    membrane_start: float | None = None
    reset: str | None = None
    reset_gradient: bool | None = None
    surrogate: str | None = None
    surrogate_width: float | None = None
    levels: int | None = None
    gate: str | None = None
    adaptive: bool | None = None
    membrane_bits: int | None = None
    signed: bool | None = None
    replaces: str | None = None

    def lines(self) -> list[tuple[str, object]]:
        """As a cfg writes them."""
        said = ((each.name, getattr(self, each.name)) for each in fields(self))
        return [(name, written(value)) for name, value in said if value is not None]


@dataclass(frozen=True, kw_only=True)
class NeuronSpec:
    """A neuron, every choice made.

    Args:
        kind: of `NEURONS`.
        v_th: threshold; an ``ilif`` fires whole multiples of it, 0 to ``levels`` times.
        membrane_decay: share of the membrane that is left after a step, where it starts for ``plif``.
        membrane_start: where the membrane of a ``lif`` or ``plif`` starts, as a share of the threshold.
        reset: what a spike leaves of the membrane: of `RESETS`.
        reset_gradient: whether the gradient goes through the reset as well.
        surrogate: of `SURROGATES`, what stands for the derivative of a spike.
        surrogate_width: w, by which a surrogate is stretched along the membrane: s(x / w) / w.
        levels: most spikes of an ``ilif`` in a step of training, D.
        gate: kernel of an ``ltc``'s gates, of `GATES`.
        adaptive: whether an ``ltc``'s threshold grows with its own spikes.
        membrane_bits: the membrane is rounded to so many bits between steps; 0: it is not.
        signed: whether -1 is sent below the threshold's negative.
        timesteps: of the network, T.
    """

    kind: str
    v_th: float
    membrane_decay: float = 0.25
    membrane_start: float = 0.0
    reset: str = "hard"
    reset_gradient: bool = False
    surrogate: str = "rectangle"
    surrogate_width: float = 1.0
    levels: int = 4
    gate: str = "depthwise"
    adaptive: bool = True
    membrane_bits: int = 0
    signed: bool = False
    timesteps: int = 1

    @property
    def rate_codes(self) -> bool:
        """Whether its spikes add up to what it was charged, but for what leaks and a rest."""
        return self.kind == "lif" and self.reset == "soft" and not self.signed and not self.membrane_bits

    @property
    def to_nearest(self) -> float:
        """What on top of each step's charge makes the rounding down of rates to the nearest, less what is there."""
        return self.v_th * (0.5 - self.membrane_start) / self.timesteps

    @property
    def unit(self) -> float:
        """What one spike is worth to its readers."""
        return self.v_th if self.kind == "ilif" else 1.0


USUAL: Mapping[str, Mapping[str, object]] = {  # by kind, where neither [net] nor the section says
    "lif": {"v_th": 0.5},  # v_th, decay, reset and rectangle are EMS-YOLO's (arXiv 2307.11411)
    "plif": {"v_th": 0.5},
    "ilif": {"v_th": 1.0, "reset": "soft"},  # SpikeYOLO (arXiv 2407.20708)
    "ltc": {"v_th": 0.1, "surrogate": "multi-gaussian", "reset_gradient": True},  # sFPTT (arXiv 2112.11231)
    "li": {"v_th": 1.0},
}
ACTS_FOR: Mapping[str, tuple[str, ...]] = {  # key -> the kinds it acts for
    "v_th": SPIKING,
    "membrane_decay": ("lif", "plif", "ilif", "li"),
    "tau": ("lif", "plif", "ilif", "li"),  # read as the decay that it is
    "membrane_start": ("lif", "plif"),
    "reset": ("lif", "plif"),
    "reset_gradient": ("lif", "plif", "ltc"),
    "surrogate": ("lif", "plif", "ltc"),
    "surrogate_width": ("lif", "plif"),
    "levels": ("ilif",),
    "gate": ("ltc",),
    "adaptive": ("ltc",),
    "membrane_bits": ("lif", "plif", "ilif"),
    "signed": ("lif", "plif"),
    "replaces": NEURONS,
}


def neuron_spec(kind: str, own: NeuronKeys, general: NeuronKeys, timesteps: int) -> NeuronSpec:
    """What is true of a neuron: its section's word, else that of ``[net]``, else its kind's."""
    said: dict[str, object] = {}
    for name, kinds in ACTS_FOR.items():
        if name not in ("replaces", "tau") and kind in kinds:
            value = getattr(own, name)
            value = getattr(general, name) if value is None else value
            said |= {} if value is None else {name: value}
    return NeuronSpec(kind=kind, timesteps=timesteps, **{**USUAL[kind], **said})  # type: ignore[arg-type]


def reach(levels: int) -> float:
    """The highest of so many levels of least squared error, in deviations of a normal current of which half is cut off.

    The search of `utils.quantization.ranges.mse` finds 1.225, 1.69, 1.95, 2.14, 2.56 for 1, 2, 3, 4, 8 levels; this is
    within 2 % of it up to 8.
    """
    return 1.225 + 0.66 * math.log(levels)


def written(value: object) -> object:
    """A value as a cfg writes it."""
    if isinstance(value, bool):
        return int(value)
    return int(value) if isinstance(value, float) and value == int(value) else value
