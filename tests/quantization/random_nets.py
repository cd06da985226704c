"""Tiny random networks of every supported layer, as cfg text, with random weights; and exact images for them."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg
from utils.darknet.kernels import weight_shape
from utils.darknet.network import Network
from utils.darknet.shapes import channels

Section = tuple[str, dict[str, object]]

SIDE = 16
ACTIVATIONS = ("relu", "leaky", "linear", "relu6")
CURVED = ("logistic", "mish", "swish", "h_swish", "hard_sigmoid")  # by table
NORMALIZATIONS = ("none", "relu", "softmax")
CONV = {"filters": 8, "size": 3, "pad": 1, "activation": "relu"}
LEAKY = CONV | {"activation": "leaky"}
GATED = (  # a gate over the layer before it
    ("avgpool", {}),
    ("convolutional", {"filters": 3, "size": 1, "activation": "relu"}),
    ("convolutional", {"filters": 8, "size": 1, "activation": "logistic"}),
    ("scale_channels", {"from": -4, "activation": "linear"}),
)


def cfg_text(*sections: Section, side: int = SIDE, image_channels: int = 3) -> str:
    """``[net]``, the sections, a 1x1 head and its ``[yolo]``."""
    head: list[Section] = [
        ("convolutional", {"filters": 6, "size": 1, "stride": 1, "pad": 1, "activation": "linear"}),
        ("yolo", {"mask": 0, "anchors": "4,4", "classes": 1, "num": 1}),
    ]
    net: Section = ("net", {"width": side, "height": side, "channels": image_channels})
    return "\n".join(
        f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items())
        for kind, keys in (net, *sections, *head)
    )


def random_cfg(seed: int) -> str:
    """A chain of 3 to 7 random layers with branches back to earlier ones; each kind comes up about as often."""
    rng = random.Random(seed)
    sections = [_conv(rng, 8, 1, stride=rng.choice((1, 2)))]
    shapes = [(8, SIDE // int(str(sections[0][1]["stride"])))]  # (channels, side) of every layer
    for _ in range(rng.randint(3, 7)):
        section, shape = _layer(rng, shapes)
        sections.append(section)
        shapes.append(shape)
    return cfg_text(*sections)


def rich_cfg(seed: int, *, spikes: bool = False) -> str:
    """A chain of 4 to 7 random parts out of everything that a cfg may have; with ``spikes`` only what neurons can do."""
    rng = random.Random(seed)
    sections = [_conv(rng, 8, 1, stride=1)]
    shapes = [(8, SIDE)]
    for _ in range(rng.randint(4, 7)):
        for section, shape in _part(rng, shapes, spikes):
            if not spikes and "activation" in section[1] and rng.random() < 0.5:
                section[1]["activation"] = rng.choice(CURVED)
            section = _transposed(section, shape, seed + len(shapes))
            sections.append(section)
            shapes.append(shape)
    return cfg_text(*sections)


def random_network(cfg: str | int, seed: int = 0) -> Network:
    """Random weights and, where the cfg has it, random batch-norm statistics; ``cfg`` may be a seed for one."""
    spec = parse_cfg(random_cfg(cfg) if isinstance(cfg, int) else cfg, "random")
    generator = torch.Generator().manual_seed(seed)
    width, state = channels(spec), {}
    for i, layer in enumerate(spec.layers):
        if isinstance(layer, s.SqueezeExcite):
            for name, shape in (("fc1", (layer.squeeze, width[i])), ("fc2", (width[i], layer.squeeze))):
                state[f"layers.{i}.{name}.weight"] = torch.randn(shape, generator=generator)
        if isinstance(layer, s.Shortcut) and layer.weighted:
            state[f"layers.{i}.weights"] = torch.rand(layer.weights_shape(width[i]), generator=generator) * 2 - 0.5
        if not isinstance(layer, s.Kernel):
            continue
        fan_in = width[layer.sources[0]] // layer.groups * layer.size**2
        if isinstance(layer, s.TransposedConv):
            fan_in = max(1, fan_in // layer.stride**2)
        shape = weight_shape(layer, width[layer.sources[0]])
        state[f"layers.{i}.conv.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        if layer.bn:
            for name in ("weight", "bias", "running_mean", "running_var"):
                value = torch.rand(layer.filters, generator=generator)
                state[f"layers.{i}.bn.{name}"] = value + 0.5 if name in ("weight", "running_var") else value - 0.5
        else:
            state[f"layers.{i}.conv.bias"] = torch.randn(layer.filters, generator=generator) * 0.3
    return Network(spec, state)


def random_images(count: int = 4, *, side: int = SIDE, image_channels: int = 3, seed: int = 0) -> Tensor:
    """[N,C,side,side] of n / 255, as the loaders make them; smooth patches, not noise alone."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, image_channels, side // 4, side // 4, generator=generator)
    fine = torch.rand(count, image_channels, side, side, generator=generator)
    image = torch.nn.functional.interpolate(coarse, scale_factor=4.0) * 0.7 + fine * 0.3
    return (image * 255).round() / 255


def _transposed(section: Section, shape: tuple[int, int], number: int) -> Section:
    """Another way up in the place of half of the upsamplings; what comes later does not notice."""
    if section[0] != "upsample" or number % 2:
        return section
    size, groups = ((3, 1), (4, 2), (2, 1), (3, shape[0]))[number // 2 % 4]
    groups = groups if shape[0] % groups == 0 else 1
    keys = {"filters": shape[0], "size": size, "stride": 2, "padding": (size - 1) // 2, "groups": groups}
    activation = ("relu", "leaky")[number // 8 % 2]
    return "transposed_convolutional", {"batch_normalize": number // 4 % 2, **keys, "activation": activation}


def _conv(rng: random.Random, filters: int, groups: int, stride: int | None = None) -> Section:
    size = rng.choice((1, 3, 3, 5))
    return "convolutional", {
        "batch_normalize": rng.choice((0, 1)),
        "filters": filters,
        "size": size,
        "stride": stride or rng.choice((1, 1, 2)),
        "pad": 1,
        "groups": groups,
        "activation": rng.choice(ACTIVATIONS),
    }


def _part(rng: random.Random, shapes: list[tuple[int, int]], spikes: bool) -> list[tuple[Section, tuple[int, int]]]:
    """One to four sections, and the shape after each."""
    width, side = shapes[-1]
    same_shape = [i for i, shape in enumerate(shapes[:-1]) if shape == shapes[-1]]
    kind = rng.choice(("any", "any", "any", "reorg", "weighted", *(() if spikes else ("se", "gate"))))
    if kind == "se":
        return [(("se", {"squeeze": 3}), (width, side))]
    if kind == "gate":
        squeeze, gate = (
            ("convolutional", {"filters": filters, "size": 1, "activation": activation})
            for filters, activation in ((3, rng.choice(("relu", "swish"))), (width, "logistic"))
        )
        return [
            (("avgpool", {}), (width, 1)),
            (squeeze, (3, 1)),
            (gate, (width, 1)),
            (("scale_channels", {"from": -4, "activation": rng.choice(ACTIVATIONS)}), (width, side)),
        ]
    if kind == "reorg" and width % 4 == 0 and width <= 16 and side % 2 == 0:
        return [(("reorg", {"stride": 2}), (width * 4, side // 2))]
    if kind == "weighted" and same_shape:
        weighted = {
            "from": ",".join(map(str, rng.sample(same_shape, rng.randint(1, min(2, len(same_shape)))))),
            "weights_type": rng.choice(("per_feature", "per_channel")),
            "weights_normalization": rng.choice(NORMALIZATIONS),
            "activation": rng.choice(ACTIVATIONS[:3]),
        }
        return [(("shortcut", weighted), (width, side))]
    return [_layer(rng, shapes)]


def _layer(rng: random.Random, shapes: list[tuple[int, int]]) -> tuple[Section, tuple[int, int]]:
    width, side = shapes[-1]
    same_side = [i for i, shape in enumerate(shapes) if shape[1] == side]
    same_shape = [i for i, shape in enumerate(shapes[:-1]) if shape == shapes[-1]]
    kind = rng.choice(("conv", "conv", "depthwise", "pool", "upsample", "route", "slice", "shortcut", "dropout"))
    if kind == "pool":
        size, stride = rng.choice(((2, 2), (2, 1), (5, 1), (3, 2)))
        return ("maxpool", {"size": size, "stride": stride}), (width, (side - 1) // stride + 1)
    if kind == "upsample" and side < SIDE:
        zeros = {"zeros": 1} if (len(shapes) + width // 4) % 3 == 0 else {}
        return ("upsample", {"stride": 2, **zeros}), (width, side * 2)
    if kind == "route" and width < 32:
        chosen = rng.choice(same_side)
        return ("route", {"layers": f"-1,{chosen}"}), (width + shapes[chosen][0], side)
    if kind == "slice" and width % 2 == 0:
        return ("route", {"layers": -1, "groups": 2, "group_id": rng.choice((0, 1))}), (width // 2, side)
    if kind == "shortcut" and same_shape:
        activation = rng.choice(("linear", "relu", "leaky"))
        return ("shortcut", {"from": rng.choice(same_shape), "activation": activation}), (width, side)
    if kind == "dropout":
        return ("dropout", {"probability": 0.5}), (width, side)
    depthwise = kind == "depthwise"
    groups = width if depthwise else rng.choice([g for g in (1, 2, 4) if width % g == 0])
    section = _conv(rng, width if depthwise else rng.choice((4, 8)), groups)
    return section, (int(str(section[1]["filters"])), (side - 1) // int(str(section[1]["stride"])) + 1)
