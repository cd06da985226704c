"""A training step of T steps in time against the float step, and against the same network with spikingjelly's neurons.

  python3 benchmarks/direct_step.py
  python3 benchmarks/direct_step.py --cfg cfg/yolov3-tiny.cfg --img-size 320 --timesteps 4 --turns 8

The three take turns, so that a machine whose speed drifts slows all of them; printed are ratios of CPU seconds, turn by
turn, and their medians. Without the package spikingjelly its line is left out. Its neurons run in multi-step mode,
on the same layers with time folded, the first convolution at every step, as that library's users write it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch
from torch import Tensor, nn

from models import Darknet
from utils.cli import positive
from utils.config.run import CFG
from utils.darknet.cfg import read_cfg
from utils.darknet.neuron_cfg import with_neurons

BATCH = 8


class Jelly(nn.Module):
    """Our modules with another library's neurons in them."""

    def __init__(self, model: Darknet) -> None:
        super().__init__()
        from spikingjelly.activation_based import functional, neuron, surrogate

        self.model, self.reset = model, functional.reset_net
        self.neurons = nn.ModuleDict()
        for i, own in model.spec.neurons.items():
            slope = surrogate.Rect()
            tau = 1 / (1 - own.membrane_decay)
            made = neuron.LIFNode(
                tau=tau, decay_input=False, v_threshold=own.v_th, v_reset=0.0, detach_reset=True,
                surrogate_function=slope, step_mode="m",
            )  # fmt: skip
            self.neurons[str(i)] = made

    def forward(self, x: Tensor) -> list[Tensor]:
        """As the network's own, all steps through every layer."""
        self.reset(self.neurons)
        steps, out = self.model.timesteps, {-1: x.expand(self.model.timesteps, *x.shape).flatten(0, 1)}
        for i, layer in enumerate(self.model.spec.layers):
            value = self.model._step(i, layer, [out[j] for j in layer.sources])
            spiking = str(i) in self.neurons
            out[i] = self.neurons[str(i)](value.unflatten(0, (steps, -1))).flatten(0, 1) if spiking else value
        return [out[i].unflatten(0, (steps, -1)).mean(0) for i in self.model.spec.heads]


def stepper(model: nn.Module, images: Tensor) -> Callable[[], float]:
    """A function that makes one training step in fp32 and returns its CPU seconds."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> float:
        began = time.process_time()
        sum(head.square().mean() for head in model(images)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - began

    return step


def main() -> None:
    """Print the ratios."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", default=CFG)
    flags.add_argument("--img-size", type=positive, default=96)
    flags.add_argument("--timesteps", type=positive, default=4)
    flags.add_argument("--turns", type=positive, default=8)
    args = flags.parse_args()
    plain = read_cfg(args.cfg)
    spec = with_neurons(plain, "lif", args.timesteps)
    images = torch.rand(BATCH, spec.channels, args.img_size, args.img_size).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    makers: dict[str, Callable[[], nn.Module]] = {"float": lambda: Darknet(plain), "ours": lambda: Darknet(spec)}
    makers["spikingjelly"] = lambda: Jelly(Darknet(spec))
    steps = {}
    for name, make in makers.items():
        try:
            model = make().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        except ImportError:
            print(f"{name} is not installed: left out")
            continue
        steps[name] = stepper(model, images)
    turns = [{name: step() for name, step in steps.items()} for _ in range(args.turns + 2)][2:]
    print(f"{args.cfg}, {args.img_size} px, batch {BATCH}, T = {args.timesteps}, {torch.get_num_threads()} threads")
    for name, below in (("ours", "float"), ("spikingjelly", "ours")):
        if name in steps:
            ratios = [turn[name] / turn[below] for turn in turns]
            print(f"{name} / {below}: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
