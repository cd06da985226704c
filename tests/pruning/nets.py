"""Random networks for this room's tests: states without models.py, graphs without cfg files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models import build
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.kernels import weight_shape
from utils.darknet.network import Network
from utils.darknet.shapes import channels
from utils.darknet.sharing import without_sets

ROOT = Path(__file__).parents[2]
TINY = sorted((ROOT / "tests" / "cfgs").glob("*.cfg"))
SHIPPED = sorted(path for path in (ROOT / "cfg").glob("*.cfg") if not read_cfg(path).neurons)


def random_network(spec: s.ModelSpec | Path | str, seed: int = 0) -> Network:
    """Gammas in 0..1, betas, biases and statistics away from zero; ``spec`` may be a file or the name of a tiny cfg."""
    if isinstance(spec, str):
        spec = ROOT / "tests" / "cfgs" / f"{spec}.cfg"
    if isinstance(spec, Path):
        spec = read_cfg(spec)
    spec = without_sets(spec)  # as the door of the scripts gives it
    make, width, state = torch.Generator().manual_seed(seed), channels(spec), {}

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=make) * (high - low) + low

    for i, layer in enumerate(spec.layers):
        if isinstance(layer, s.SqueezeExcite):
            state[f"layers.{i}.fc1.weight"] = uniform(-1, 1, layer.squeeze, width[i])
            state[f"layers.{i}.fc2.weight"] = uniform(-1, 1, width[i], layer.squeeze)
        if isinstance(layer, s.Shortcut) and layer.weighted:
            state[f"layers.{i}.weights"] = uniform(-0.5, 1.5, *layer.weights_shape(width[i]))
        if not isinstance(layer, s.Kernel):
            continue
        taps = width[layer.sources[0]] // layer.groups * layer.size**2
        if isinstance(layer, s.TransposedConv):
            taps /= layer.stride**2
        reach = (3 / taps) ** 0.5
        state[f"layers.{i}.conv.weight"] = uniform(-reach, reach, *weight_shape(layer, width[layer.sources[0]]))
        if layer.bn:
            for name, low, high in (
                ("weight", 0, 1),
                ("bias", -0.3, 0.3),
                ("running_mean", -0.2, 0.2),
                ("running_var", 0.5, 1.5),
            ):
                state[f"layers.{i}.bn.{name}"] = uniform(low, high, layer.filters)
        else:
            state[f"layers.{i}.conv.bias"] = uniform(-0.3, 0.3, layer.filters)
    return Network(spec, state)


def run(net: Network, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return build(net)(x)


def image(net: Network, n: int = 1, size: int = 64, seed: int = 1) -> Tensor:
    return torch.rand(n, net.spec.channels, size, size, generator=torch.Generator().manual_seed(seed))


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    """Equal to ``tolerance`` of the largest value."""
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert b.abs().max() > 0
        assert ((a - b).abs().max() / b.abs().max()).item() <= tolerance


def with_gammas(net: Network, gammas: dict[int, Tensor]) -> Network:
    return Network(net.spec, {**net.state, **{f"layers.{i}.bn.weight": g for i, g in gammas.items()}})
