"""What a cfg says of activations that keep state: read, checked, and put in the place of others (``--spiking``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.cfg_schema import EVENT_BINS, EVENT_FRAMES, EVENTS, INPUTS, NEURON, READOUTS, RNN_NEURON
from utils.darknet.neuron_spec import ACTS_FOR, GATES, NEURONS, RESETS, SURROGATES, NeuronKeys
from utils.darknet.sections import Section
from utils.errors import InputError

MOST_BITS = 16  # of a membrane; above that rounding is finer than what float32 training shows
GATES_ANALOG = (s.SqueezeExcite, s.ScaleChannels)
SLOW = 0.875  # left of a membrane whose spikes stand for a rate; a shift, as --hw-friendly needs it
HALF = 0.5  # of a threshold: spikes come half an interval earlier, so that deep layers hear of them in time
TIMES = ("timesteps", "input", "readout")


def read_neuron(sec: Section, activation: str) -> NeuronKeys:
    """The neuron's keys of a section, checked.

    Raises:
        InputError: a key that does not act for this activation, or a value that it cannot have.
    """
    for key in ACTS_FOR.keys() & sec.options.keys():
        if sec.kind not in ("net", "network") and activation not in ACTS_FOR[key]:
            kinds = ", ".join(ACTS_FOR[key])
            raise InputError(
                f"{sec.name} line {sec.options[key][0]}: {key}= acts with activation={kinds}, this is {activation}; "
                "leave it away"
            )
    return NeuronKeys(
        v_th=_number(sec, "v_th", 0.0, float("inf")),
        membrane_decay=_decay(sec, activation),
        membrane_start=_number(sec, "membrane_start", -1.0, 1.0),
        reset=_word(sec, "reset", RESETS),
        reset_gradient=_flag(sec, "reset_gradient"),
        surrogate=_word(sec, "surrogate", SURROGATES),
        surrogate_width=_number(sec, "surrogate_width", 0.0, float("inf")),
        levels=sec.integer("levels", 1, least=1) if "levels" in sec.options else None,
        gate=_word(sec, "gate", GATES),
        adaptive=_flag(sec, "adaptive"),
        membrane_bits=_bits(sec),
        signed=_flag(sec, "signed"),
        replaces=_word(sec, "replaces", tuple(ACTIVATIONS)),
    )


def check_net(net: Section, spec: s.ModelSpec) -> None:
    """Refuse keys of ``[net]`` that nobody reads, and neurons without a number of steps.

    Raises:
        InputError: names the line.
    """
    net.integer("timesteps", 1, least=1)  # before a neuron asks for it
    _check_sequence(net, spec)
    kinds = {neuron.kind for neuron in spec.neurons.values()}
    units = {layer.neuron_kind for layer in spec.recurrent.values()}
    for key in (NEURON | set(TIMES)) & net.options.keys():
        wanted = ACTS_FOR.get(key, NEURONS)
        acts = kinds | (units if key in RNN_NEURON else set())
        if key in NEURON - RNN_NEURON:
            _check_units(net, key, units & set(wanted))
        if not acts & set(wanted) and not (key in TIMES and spec.stateful):
            names = ", ".join(wanted)
            raise InputError(
                f"{net.name} line {net.options[key][0]}: {key}= acts with activation={names}, and no layer has one; "
                "leave it away, or give a layer such an activation"
            )
    net.one_of("input", INPUTS)
    net.one_of("readout", READOUTS)
    if kinds and "timesteps" not in net.options:
        raise InputError(f"{net.place}: a network with neurons ({', '.join(sorted(kinds))}) needs timesteps=")
    _check_events(net)


def _check_units(net: Section, key: str, deaf: set[str]) -> None:
    """Refuse a key for all neurons of a kind that recurrent layers of it, ``deaf``, would pass over."""
    for kind in sorted(deaf):
        raise InputError(
            f"{net.name} line {net.options[key][0]}: {key}= in [net] is for every {kind}, and [{kind}_rnn] has no such "
            "key; write it into the sections of the layers that have it, or leave it away"
        )


def _check_events(net: Section) -> None:
    """Refuse what a cfg says of recordings where it acts on none, or cannot be."""
    said = EVENTS & net.options.keys()
    if said and net.text("input", "repeat") != "frames":
        key = sorted(said)[0]
        raise InputError(
            f"{net.name} line {net.options[key][0]}: {key}= acts with input=frames; add it, or leave it away"
        )
    bins, frame = net.one_of("event_bins", EVENT_BINS), net.one_of("event_frame", EVENT_FRAMES)
    net.integer("event_window", 0)
    if ("event_size" in said) != (bins == "count"):
        raise InputError(f"{net.place}: event_size= is the events of a bin with event_bins=count; give both or neither")
    if bins == "count":
        net.integer("event_size", 1, least=1)
    if frame == "voxel" and "event_bins" in said and bins != "time":
        raise InputError(f"{net.place}: event_frame=voxel shares events out by time; use event_bins=time")
    for key, most in (("event_shift", 1.0), ("event_drop", 1.0), ("event_jitter", float("inf"))):
        value = net.real(key, 0.0)
        if not 0 <= value < most:
            raise InputError(f"{net.name} line {net.options[key][0]}: {key}={value:g} must be from 0 to below {most:g}")


def _check_sequence(net: Section, spec: s.ModelSpec) -> None:
    """Refuse a network of sequences that sees no steps, or remembers none."""
    place = next((layer.line for layer in spec.layers if isinstance(layer, s.SequenceOutput)), None)
    if place is None:
        return
    for key in sorted(EVENTS & net.options.keys()):
        raise InputError(
            f"{net.name} line {net.options[key][0]}: {key}= acts on recordings, [sequence] reads sequences"
        )
    if "readout" in net.options:
        raise InputError(
            f"{net.name} line {net.options['readout'][0]}: readout= acts on images and recordings; [sequence] says at="
        )
    if not spec.input_frames or "timesteps" not in net.options:
        raise InputError(f"{net.place}: a network that ends in [sequence] needs input=frames and timesteps=")
    if not spec.stateful:
        raise InputError(
            f"{net.name} line {place}: [sequence] reads a network that keeps no state from step to step; put an "
            "[ltc_rnn], [lif_rnn] or [lstm] before it"
        )


def with_neurons(
    spec: s.ModelSpec,
    kind: str,
    timesteps: int,
    *,
    levels: int | None = None,
    signed: bool | None = None,
    thresholds: Mapping[int, float] | None = None,
) -> s.ModelSpec:
    """The network with a neuron in the place of every hidden activation; ``linear`` stays, so do outputs.

    Each remembers what it replaces, so that `without_neurons` is the inverse; tensors keep their names.

    Args:
        spec: a network without neurons.
        kind: of `NEURONS`.
        timesteps: T.
        levels: most spikes of an ilif a step; None: as the kind has it.
        signed: whether a lif or plif sends -1 as well; None: it does not.
        thresholds: of layers that do not have their kind's.

    Raises:
        InputError: the network has neurons already, none to replace, or gates, whose values are no spikes.
    """
    if spec.neurons:
        raise InputError(f"--spiking {kind}: the network has neurons of its own; leave --spiking away")
    for layer in spec.layers:
        if isinstance(layer, GATES_ANALOG):
            raise InputError(
                f"cfg line {layer.line}: a gate scales what it reads, and spikes are scaled by nothing; "
                f"--spiking {kind} takes networks without [se] and [scale_channels]"
            )
    hidden = {i: layer for i, layer in spec.activated.items() if _hidden(spec, i, layer)}
    if not hidden:
        raise InputError(f"--spiking {kind}: the network has no hidden activation to replace; leave --spiking away")
    layers = list(spec.layers)
    for i, layer in hidden.items():
        own = NeuronKeys(replaces=layer.activation, levels=levels, signed=signed, v_th=(thresholds or {}).get(i))
        layers[i] = replace(layer, activation=kind, neuron=own)
    net = (*spec.net, ("timesteps", str(timesteps)))
    return replace(spec, layers=tuple(layers), net=net)


def with_thresholds(spec: s.ModelSpec, thresholds: Mapping[int, float]) -> s.ModelSpec:
    """The network whose neurons of some layers have these thresholds."""
    return _with_keys(spec, {i: {"v_th": value} for i, value in thresholds.items()})


def with_rates(spec: s.ModelSpec, *, start: float = HALF) -> s.ModelSpec:
    """The network whose neurons forget little: reset by the threshold, and a leak of an eighth a step.

    Args:
        spec: with neurons of one kind, lif.
        start: their membranes at first, as a share of the threshold.
    """
    keys = {"reset": "soft", "membrane_decay": SLOW, "membrane_start": start}
    return _with_keys(spec, dict.fromkeys(spec.neurons, keys))


def with_reach(spec: s.ModelSpec, reach: Mapping[int, float]) -> s.ModelSpec:
    """The network whose neurons of some layers have the power of two next to ``reach`` as threshold.

    Currents that go that far are then of the size that they have in floats, so that gammas and betas learn at the rate
    that they have there. The surrogate is as wide as two thresholds, which is what it is at the usual one, 1/2.
    """
    powers = {i: 2.0 ** round(math.log2(value)) for i, value in reach.items()}
    return _with_keys(spec, {i: {"v_th": each, "surrogate_width": 2 * each} for i, each in powers.items()})


def _with_keys(spec: s.ModelSpec, keys: Mapping[int, Mapping[str, Any]]) -> s.ModelSpec:
    layers = list(spec.layers)
    for i, said in keys.items():
        layer = spec.activated[i]
        layers[i] = replace(layer, neuron=replace(layer.neuron, **said))
    return replace(spec, layers=tuple(layers))


def without_neurons(spec: s.ModelSpec) -> s.ModelSpec:
    """The network that `with_neurons` was given: its conventional twin.

    Raises:
        InputError: a neuron replaces nothing that is known.
    """
    layers = list(spec.layers)
    for i in spec.neurons:
        layer = spec.activated[i]
        if layer.neuron.replaces is None:
            raise InputError(f"cfg line {layer.line}: replaces= does not say what stood here before {layer.activation}")
        layers[i] = replace(layer, activation=layer.neuron.replaces, neuron=NeuronKeys())
    net = tuple((key, value) for key, value in spec.net if key not in TIMES)
    return replace(spec, layers=tuple(layers), net=net, neuron=NeuronKeys())


def _hidden(spec: s.ModelSpec, i: int, layer: s.Activated) -> bool:
    """Whether an activation is inside the network; what an output reads stays as it is."""
    return layer.activation != "linear" and not any(i in spec.layers[j].sources for j in spec.heads)


def _number(sec: Section, key: str, above: float, most: float) -> float | None:
    """A number above one and up to another; None where it is not set."""
    if key not in sec.options:
        return None
    value = sec.real(key, 0.0)
    if not max(above, -1e-12) < value <= most or value == float("inf"):
        least = "0" if above < 0 else "more than 0"
        end = "" if most == float("inf") else f" to {most:g}"
        raise InputError(f"{sec.name} line {sec.options[key][0]}: {key}={value:g} must be from {least}{end}")
    return value


def _decay(sec: Section, activation: str) -> float | None:
    """What is left of a membrane after a step: as it is said, or 1 - 1 / tau, tau in steps."""
    if "tau" not in sec.options:
        return _number(sec, "membrane_decay", -1.0 if activation != "plif" else 0.0, 1.0)
    line, tau = sec.options["tau"][0], sec.real("tau", 1.0)
    if "membrane_decay" in sec.options:
        raise InputError(f"{sec.name} line {line}: tau= and membrane_decay= are one thing, 1 - 1 / tau; keep one")
    if not (1.0 <= tau < float("inf") and (tau > 1.0 or activation != "plif")):
        least = "more than 1" if activation == "plif" else "1 or more"
        raise InputError(
            f"{sec.name} line {line}: tau={tau:g} must be {least}, in steps; membrane_decay is 1 - 1 / tau"
        )
    return 1 - 1 / tau


def _word(sec: Section, key: str, known: Sequence[str]) -> str | None:
    return sec.one_of(key, {word: word for word in known}) if key in sec.options else None


def _flag(sec: Section, key: str) -> bool | None:
    if key not in sec.options:
        return None
    line, value = sec.options[key][0], sec.integer(key, 0)
    if value > 1:
        raise InputError(f"{sec.name} line {line}: {key}={value} must be 0 or 1")
    return bool(value)


def _bits(sec: Section) -> int | None:
    if "membrane_bits" not in sec.options:
        return None
    bits = sec.integer("membrane_bits", 0)
    if bits == 1 or bits > MOST_BITS:
        line = sec.options["membrane_bits"][0]
        raise InputError(
            f"{sec.name} line {line}: membrane_bits={bits}: a membrane has 2 to {MOST_BITS} bits, its sign among them; "
            "0 leaves it alone"
        )
    return bits
