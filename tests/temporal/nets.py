"""Small networks with neurons, their batch norms as a training leaves them."""

from __future__ import annotations

import torch

from models import Darknet
from tests.conftest import ROOT
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.neuron_cfg import with_neurons
from utils.darknet.spec import ModelSpec

CFGS = ROOT / "tests" / "cfgs"
PLAIN = "plain"  # no shortcut: its spikes are single ones
HIDDEN = """\
[net]
width=16
height=16
timesteps=3
[convolutional]
batch_normalize=1
filters=6
size=3
pad=1
activation=lif
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
activation={0}
[convolutional]
filters=8
size=1
activation=linear
[yolo]
mask=0
anchors=4,4
classes=3
"""


def spiking(name: str, kind: str, timesteps: int = 4) -> ModelSpec:
    """A cfg of the tests with neurons in place of its activations; ``signed lif`` sends -1, too."""
    signed = kind.startswith("signed ") or None
    return with_neurons(read_cfg(CFGS / f"{name}.cfg"), kind.split()[-1], timesteps, signed=signed)


def small(activation: str = "lif") -> ModelSpec:
    """Two hidden convolutions, the second of them with this activation."""
    return parse_cfg(HIDDEN.format(activation))


def warmed(spec: ModelSpec, seed: int = 0, size: int | None = None) -> Darknet:
    """The network in eval mode, its batch norms warmed up on noise so that neurons fire."""
    torch.manual_seed(seed)
    model = Darknet(spec).train()
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.momentum = 0.5
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.uniform_(norm.bias, -0.2, 0.4)
        for _ in range(4):
            model(images(spec, 4, size))
    return model.eval()


def images(spec: ModelSpec, n: int = 2, size: int | None = None, frames: int = 0) -> torch.Tensor:
    """Noise [n, C, H, W], or [n, frames, C, H, W]."""
    steps = (frames,) if frames else ()
    shape = (n, *steps, spec.channels, size or spec.height, size or spec.width)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(n + frames))
    return x if frames else x.to(memory_format=torch.channels_last)
