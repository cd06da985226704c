"""A network in NIR, read back and run by a simulator that knows NIR's nodes and nothing of us, is the integer network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from tests.quantization.random_nets import cfg_text, random_images
from tests.spiking.test_equality import CONV, spiking
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.spiking.nir_export import write_nir
from utils.spiking.spike_schedule import spiking_layers

nir = pytest.importorskip("nir")

NARROW = CONV | {"filters": 4}
BRANCHES = cfg_text(
    ("convolutional", NARROW | {"stride": 2}),
    ("maxpool", {"size": 2, "stride": 1}),
    ("convolutional", NARROW | {"groups": 2}),
    ("route", {"layers": -1, "groups": 2, "group_id": 1}),
    ("route", {"layers": "-1,1,0"}),
    ("convolutional", NARROW | {"groups": 2, "filters": 4}),
    ("shortcut", {"from": 2, "activation": "relu"}),
    ("maxpool", {"size": 3, "stride": 2}),
    ("convolutional", NARROW | {"activation": "relu6"}),
)


def simulate(graph, image: NDArray, steps: int) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """NIR's own equations, one unit of time a step: sums of what thresholds let through, and last membranes.

    A spike goes through all nodes in its step, but for the loops: what a Scale sends back arrives a step later.
    """
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    order, placed = [], {n for n, node in graph.nodes.items() if isinstance(node, nir.Scale)}
    late = list(placed)
    while len(placed) < len(graph.nodes):
        ready = [n for n in graph.nodes if n not in placed and set(sources[n]) <= placed]
        assert ready, "a loop without a Scale"
        order += ready
        placed |= set(ready)
    past: dict[str, list] = {n: [] for n, node in graph.nodes.items() if isinstance(node, nir.Delay)}
    out = {n: np.zeros(graph.nodes[n].scale.shape) for n in late}
    potential, counts = {}, {}
    for t in range(steps):
        new = {}
        for name in order:
            node, given = graph.nodes[name], sum(({**new}.get(n, out.get(n)) for n in sources[name]), 0)
            match type(node).__name__:
                case "Input":
                    pulse = image if name == "image" else np.ones(node.input_type["input"])
                    new[name] = pulse * (t == 0)
                case "Conv2d":
                    x, w = torch.tensor(given)[None], torch.tensor(node.weight)
                    bias = torch.tensor(node.bias)
                    how = [tuple(map(int, v)) for v in (node.stride, node.padding, node.dilation)]
                    new[name] = F.conv2d(x, w, bias, *how, int(node.groups))[0].numpy()
                case "I":
                    potential[name] = new[name] = potential.get(name, 0) + node.r * given
                case "Threshold":
                    new[name] = (given > node.threshold).astype(float)
                    counts[name] = counts.get(name, 0) + new[name]
                case "Delay":
                    past[name].append(given)
                    lag = int(node.delay.flat[0])
                    new[name] = past[name][t - lag] if t >= lag else np.zeros_like(given)
                case "Output":
                    new[name] = given
        out = {n: graph.nodes[n].scale * new[sources[n][0]] for n in late}
    return counts, potential


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("cfg", [cfg_text(*[("convolutional", NARROW)] * 3), BRANCHES], ids=["chain", "branches"])
def test_a_simulator_of_nirs_nodes_counts_the_integer_levels(tmp_path, cfg, bits):
    network, x = spiking(cfg, bits), random_images(1, seed=2)
    graph = nir.read(str(write_nir(tmp_path / "net.nir", network, 16, 16)))
    counts, potential = simulate(graph, (x[0] * 255).round().double().numpy(), network.latency)
    golden = IntegerExecutor(network.integer).trace(x)
    for i in spiking_layers(network.integer):
        assert np.array_equal(counts[f"fire_{i}"], golden.levels[i][0].numpy()), f"layer {i}"
    readout = max(golden.accumulators)
    assert np.array_equal(potential[f"output_{readout}"], golden.accumulators[readout][0].numpy())


def test_nothing_but_plain_nodes_is_used(tmp_path):
    graph = nir.read(str(write_nir(tmp_path / "net.nir", spiking(BRANCHES), 16, 16)))
    kinds = {type(node).__name__ for node in graph.nodes.values()}
    assert kinds == {"Input", "Output", "Conv2d", "I", "Threshold", "Scale", "Delay"}


def test_without_its_reset_loop_the_counts_are_wrong(tmp_path):
    """The loop is the soft reset; it is not there for show."""
    network, x = spiking(cfg_text(*[("convolutional", NARROW)] * 2)), random_images(1)
    graph = nir.read(str(write_nir(tmp_path / "net.nir", network, 16, 16)))
    for name, node in graph.nodes.items():
        if name.startswith("reset"):
            node.scale = node.scale * 0
    counts, _ = simulate(graph, (x[0] * 255).round().double().numpy(), network.latency)
    assert not np.array_equal(counts["fire_0"], IntegerExecutor(network.integer).levels(x)[0][0].numpy())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (("transposed_convolutional", NARROW | {"stride": 2}), r"layer 1 \(cfg line \d+\): NIR has no transposed"),
        (("upsample", {"stride": 2}), r"layer 1 \(cfg line \d+\): NIR has no upsampling"),
        (("convolutional", NARROW | {"activation": "leaky"}), r"layer 1 .*: fires negative spikes, NIR's have no sign"),
        (("convolutional", NARROW | {"activation": "linear"}), "no sign; set activation=relu there and train anew"),
    ],
)
def test_what_nir_cannot_hold_is_refused_by_name(tmp_path, section, message):
    network = spiking(cfg_text(("convolutional", NARROW | {"stride": 2}), section))
    with pytest.raises(InputError, match=message):
        write_nir(tmp_path / "net.nir", network, 16, 16)
    assert not list(tmp_path.iterdir())
