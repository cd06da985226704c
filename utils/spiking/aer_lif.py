"""Address events of a network trained as spikes: what its first neurons send, and what its read-outs read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from utils.darknet.forward import without_tensors
from utils.darknet.modules import convolve
from utils.darknet.spec import ModelSpec
from utils.darknet.walk import run
from utils.errors import InputError
from utils.files import write_text
from utils.spiking.aer import MOST_ROWS, events_of, write_events
from utils.spiking.direct import Timed

TOLERANCE = 1e-4  # of the largest value of a head's map
WORDS = """Address events, one a spike, as (t, x, y, c, sign): npy is a structured array, csv has a heading.

<image>_layer_<i>: what layer i's neurons send in each of {steps} steps, sign 1, of signed neurons -1 as
well. They are the layers that read the image
({input}) and those that the read-outs read: {read}, through the read-out's
convolution, is the head's map{checked}.
"""


def check_events(spec: ModelSpec) -> None:
    """Refuse neurons whose spikes are no single events.

    Raises:
        InputError: names the layer and its cfg line.
    """
    for i, neuron in spec.neurons.items():
        if neuron.kind in ("ilif", "li"):
            what = "several spikes a step" if neuron.kind == "ilif" else "its membrane"
            raise InputError(
                f"layer {i} (cfg line {spec.layers[i].line}): activation={neuron.kind} sends {what}, and an event is "
                "one spike; train with --spiking lif"
            )


@torch.no_grad()
def write_spike_events(folder: Path, model: Timed, images: Tensor) -> tuple[list[str], int]:
    """Files of each image's events, and a README.

    Args:
        folder: is there.
        model: a network with neurons, in eval mode.
        images: [N, C, H, W] in 0..1, or frames [N, T, C, H, W].

    Returns:
        The files' names, and how many events there are.

    Raises:
        InputError: spikes are no single events, or they do not add up to the heads, which would be our mistake.
    """
    spec = model.spec
    check_events(spec)
    chosen, names, total, checked = _chosen(spec), list[str](), 0, False
    for k, x in enumerate(images):
        out = model.activations(x[None])
        for i in chosen:
            events = events_of(out[i].to(torch.int8))
            total += len(events)
            forms = ("npy", "csv") if len(events) <= MOST_ROWS else ("npy",)
            names += [write_events(folder / f"{k}_layer_{i}.{form}", events).name for form in forms]
        checked = _check_sums(model, out, k)
    shown = "a frame a step" if spec.input_frames else "as a current that is the same at every step"
    read = "what they send at the last step" if spec.reads_last else "the mean of these spikes over the steps"
    words = WORDS.format(
        steps=spec.timesteps, input=shown, read=read, checked=", which the export checked" if checked else ""
    )
    return [*names, write_text(folder / "README.md", words).name], total


def _chosen(spec: ModelSpec) -> tuple[int, ...]:
    """Layers of neurons that the image reaches without another neuron between, or that reach an output so."""
    lit = run(spec, True, lambda i, layer, given: any(given) and i not in spec.neurons)
    first = {i for i in spec.neurons if any(lit[j] for j in spec.layers[i].sources)}
    last, reading = set[int](), set(spec.heads)
    while reading:
        sources = {j for i in reading for j in spec.layers[i].sources if j >= 0}
        last |= sources & spec.neurons.keys()
        reading = sources - spec.neurons.keys()
    return tuple(sorted(first | last))


def _check_sums(model: Timed, out: dict[int, Tensor], k: int) -> bool:
    """The heads, made of the spikes' means alone; False where a head reads no convolution."""
    spec, state = model.spec, model.state_dict()
    for head in spec.heads:
        i = spec.layers[head].sources[0]
        layer = spec.kernels.get(i)
        if layer is None or layer.bn:
            return False
        weight, bias = (state[f"layers.{i}.conv.{name}"] for name in ("weight", "bias"))
        sent = out[layer.sources[0]]
        mean = sent[-1:] if spec.reads_last else sent.mean(0, keepdim=True)
        made, found = convolve(layer, mean.to(weight), weight, bias), without_tensors(spec.layers[head], [out[i]])
        if (made - found).abs().max() > TOLERANCE * found.abs().max().clamp_min(1):
            raise InputError(f"image {k}, layer {i}: events do not add up to the head; please report this network")
    return True
