"""Networks of a few channels with heads where a test wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from models import Darknet, build
from tests.pruning.nets import random_network
from utils.darknet.cfg import parse_cfg
from utils.darknet.spec import ModelSpec
from utils.distillation.distiller import Distiller

ANCHORS = "8,10, 14,9, 12,12, 30,20, 25,40, 50,50"


def cfg(
    *,
    heads: tuple[int, ...] = (32, 16, 8),
    width: int = 6,
    classes: int = 3,
    anchors: str = ANCHORS,
    channels: int = 3,
    reach: float = 1.0,
) -> ModelSpec:
    """Convolutions down to stride 32 and a head of two anchors at each stride named, in that order.

    Each head reads a convolution of 2 * width channels of its own.
    """
    text = [f"[net]\nwidth=64\nheight=64\nchannels={channels}\nbatch=2\n"]
    places, layer = {}, 0

    def add(section: str) -> None:
        nonlocal layer
        text.append(section)
        layer += 1

    for power in range(1, 6):
        add(f"[convolutional]\nbatch_normalize=1\nfilters={width}\nsize=3\nstride=2\npad=1\nactivation=leaky\n")
        places[2**power] = layer - 1
    for stride in heads:
        add(f"[route]\nlayers={places[stride]}\n")
        add(f"[convolutional]\nbatch_normalize=1\nfilters={2 * width}\nsize=1\nactivation=leaky\n")
        add(f"[convolutional]\nfilters={2 * (5 + classes)}\nsize=1\nactivation=linear\n")
        mask = {32: "4,5", 16: "2,3", 8: "0,1"}[stride]
        add(f"[yolo]\nmask={mask}\nanchors={anchors}\nclasses={classes}\nnum=6\nscale_x_y={reach}\n")
    return parse_cfg("".join(text), "test.cfg")


def network(spec: ModelSpec, seed: int = 0) -> Darknet:
    return build(random_network(spec, seed))


def images(count: int = 2, size: tuple[int, int] = (64, 96), seed: int = 0) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


TARGETS = torch.tensor(
    [[0, 1, 0.30, 0.40, 0.15, 0.20], [0, 2, 0.70, 0.60, 0.40, 0.50], [1, 0, 0.50, 0.50, 0.60, 0.80]],
    dtype=torch.float32,
)


def taught(
    student: Darknet,
    teacher: Darknet,
    terms: tuple[str, ...],
    x: Tensor,
    targets: Tensor = TARGETS,
    labelled: int | None = None,
) -> tuple[Distiller, dict[str, Tensor]]:
    """The distiller, and its terms of one batch."""
    distiller = Distiller(student.spec, teacher, teacher.spec, terms)
    return distiller, again(distiller, student, x, targets, labelled)


def again(
    distiller: Distiller, student: Darknet, x: Tensor, targets: Tensor = TARGETS, labelled: int | None = None
) -> dict[str, Tensor]:
    with distiller.watching(student):
        raw = student(x)
    return distiller(x, raw, targets, labelled)
