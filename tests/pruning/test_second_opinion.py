"""Torch-Pruning's dependency graph, found by autograd on a real forward pass, as a second opinion on our wires.

Two things it does not say, and our tests of cut networks do: that a cfg can only cut a source into equal slices, so that
the same position of all slices goes together (it cuts ranges); and that the groups of a grouped convolution go whole
(its pruners see to that later). There, ours must be unions of its groups, and nothing but that. What it cannot follow at
all is left out here: a concat of slices (it takes the slices for as wide as what they are cut from), the order in which
[reorg] takes its elements, weights of a [shortcut] (a number a source looks like a number a channel to it).
"""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from models import Darknet
from tests.pruning.nets import ROOT
from tests.pruning.residual import thin
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.channel_groups import ChannelGroups, trace

End = tuple[str, int, str, int]  # out or in, layer, its module, channel

SAME = "plain tiny spp residual resnet mobile depthwise ghost gates grey".split()
SAME += "yolov2-tiny yolov3-tiny yolov3 yolov4 yolov3-mobilenet yolov3-tiny-mobilenet-small yolov3-ghost".split()
SAME += ["yolo-fastest"]
SLICES, GROUP = "tied to the other slices of a route", "a group of a grouped convolution"
JOINED = {"csp": SLICES, "yolov4-tiny": SLICES, "grouped": GROUP, "transposed": GROUP}


class SliceByRange(Darknet):
    """Slices written as ranges: of a chunk, torch-pruning takes the part that is used for the first one."""

    def _step(self, i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        if not isinstance(layer, s.Route) or layer.groups == 1:
            return super()._step(i, layer, given)
        widths = [x.shape[1] // layer.groups for x in given]
        parts = [x[:, layer.group_id * n : (layer.group_id + 1) * n] for x, n in zip(given, widths, strict=True)]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class Opinions:
    """What has to go with one output channel of a convolution, in their words and in ours."""

    def __init__(self, spec: s.ModelSpec) -> None:
        self.spec = spec
        self.wires: ChannelGroups = trace(spec)
        self.model = SliceByRange(spec).eval()
        self.names = {module: name for name, module in self.model.named_modules()}
        self.grouped = {i for i, layer in enumerate(spec.layers) if isinstance(layer, s.Kernel) and layer.groups > 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = torch.rand(1, spec.channels, 64, 64)
            self.graph = tp.DependencyGraph().build_dependency(self.model, example_inputs=x, verbose=False)

    def questions(self) -> list[tuple[int, int]]:
        """First, middle and last channel of every convolution."""
        convs = [(i, layer.filters) for i, layer in enumerate(self.spec.layers) if isinstance(layer, s.Kernel)]
        return [(i, c) for i, n in convs for c in sorted({0, n // 2, n - 1})]

    def theirs(self, i: int, channel: int) -> set[End]:
        conv, found = self.model.get_submodule(f"layers.{i}.conv"), set()
        for dep, channels in self.graph.get_pruning_group(conv, tp.prune_conv_out_channels, [channel]):
            module = dep.target.module
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.Linear):
                _, layer, name = self.names[module].split(".")
                side = "out" if self.graph.is_out_channel_pruning_fn(dep.handler) else "in"
                if side == "out" or int(layer) not in self.grouped:
                    found |= {(side, int(layer), name, c) for c in channels}
        return found

    def ours(self, i: int, channel: int) -> set[End]:
        wire, found = self.wires.outputs[i][channel], set()
        for j, layer in enumerate(self.spec.layers):
            made = (self.wires.outputs[j] == wire).nonzero().flatten().tolist()
            read = (self.wires.outputs[layer.sources[0]] == wire).nonzero().flatten().tolist()
            if isinstance(layer, s.Kernel):
                found |= {("out", j, "conv", c) for c in made}
                found |= {("out", j, "bn", c) for c in made if layer.bn}
                found |= {("in", j, "conv", c) for c in read if layer.groups == 1}
            elif isinstance(layer, s.SqueezeExcite):
                found |= {("out", j, "fc2", c) for c in made} | {("in", j, "fc1", c) for c in read}
        return found


@cache
def opinions(name: str) -> Opinions:
    if name in ("yolov3", "yolov4"):
        return Opinions(thin(name))
    folder = "cfg" if name.startswith("yolo") else "tests/cfgs"
    return Opinions(read_cfg(ROOT / folder / f"{name}.cfg"))


@pytest.mark.parametrize("name", SAME)
def test_channels_that_go_together_are_those_of_torch_pruning(name):
    both = opinions(name)
    for i, channel in both.questions():
        assert both.ours(i, channel) == both.theirs(i, channel), (i, channel)


@pytest.mark.parametrize("name", JOINED)
def test_slices_and_groups_join_whole_groups_of_torch_pruning_and_say_so(name):
    both, joined = opinions(name), 0
    message = torch.cat([reason.wires for reason in both.wires.reasons if JOINED[name] in reason.text])
    for i, channel in both.questions():
        ours, theirs = both.ours(i, channel), both.theirs(i, channel)
        members = [(j, c) for side, j, module, c in ours if side == "out" and module == "conv"]
        assert ours == set().union(*(both.theirs(j, c) for j, c in members)) >= theirs
        assert ours == theirs or both.wires.outputs[i][channel] in message
        joined += ours != theirs
    assert joined
