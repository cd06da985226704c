"""A depthwise layer as pruned training leaves it: a channel whose input is always 0, beside live ones."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from tests.export.nets import QUICK
from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network
from utils.darknet.network import Network
from utils.quantization.calibrate import calibrate
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import QuantisedNetwork, lower

NORMED = CONV | {"stride": 1, "batch_normalize": 1}
CFG = cfg_text(
    ("convolutional", NORMED),
    ("convolutional", NORMED | {"groups": 8}),
    ("convolutional", NORMED | {"size": 1, "activation": "linear"}),
)


def unlike_float() -> Network:
    """Batch norm of the silent channel has seen no variance: its gain is about 1000."""
    network = random_network(CFG)
    state = {name: value.clone() for name, value in network.state.items()}
    state["layers.0.bn.weight"][0], state["layers.0.bn.bias"][0] = 0.0, -1.0
    state["layers.1.bn.running_mean"][0], state["layers.1.bn.running_var"][0] = 0.0, 0.0
    state["layers.1.bn.bias"][0] = 0.7
    return Network(network.spec, state)


def unlike_quantised() -> tuple[QuantisedNetwork, Tensor]:
    """On its grids, and images for it."""
    images = random_images(2)
    return calibrate(unlike_float(), [images], replace(QUICK, a_bit=4)), images


def unlike() -> tuple[IntegerNetwork, Tensor]:
    """Its integers, and images for it."""
    quantised, images = unlike_quantised()
    return lower(quantised), images
