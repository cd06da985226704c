"""Batch-1 latency on the CPU: yolov3-tiny at 320 px, full against slim, and channels in sixteens against any number.

  python3 benchmarks/pruned_latency.py
  python3 benchmarks/pruned_latency.py --cfg cfg/yolov3.cfg --turns 10 --threads 4

Random weights. Slim keeps a fifth of the parameters, and at least 2 times as fast is promised; regular pruning with
--multiple 16 and with 1 leave the same number of MACs, and sixteens are promised to be no slower. The networks take
turns, so that a machine whose speed drifts slows all alike; printed are ratios of each turn's medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch

from models import build
from utils.pruning.choices import Beta
from utils.cli import fraction, positive
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Network
from utils.darknet.weights import tensors
from utils.pruning.bias_carrier import appoint, settle_and_cut
from utils.pruning.plan import Plan, PlanRules, ShortcutRule, plan_channels
from utils.darknet.counts import parameters
from utils.darknet.counts import count
from utils.pruning.target import percent_for

Size = tuple[int, int]


def random_network(cfg: str) -> Network:
    """Weights that neither blow an image up nor lose it."""
    make, state = torch.Generator().manual_seed(0), {}
    for _, key, shape in tensors(read_cfg(cfg)):
        value = torch.rand(shape, generator=make)
        state[key] = (value - 0.5) / (value[0].numel() / 12) ** 0.5 if key.endswith("conv.weight") else value
    return Network(read_cfg(cfg), state)


def to_budget(
    net: Network, size: Size, *, macs: float | None = None, params: float | None = None, **rules: Unpack[PlanRules]
) -> Network:
    """The network cut to a budget, carriers included."""

    def plan_of(percent: float) -> Plan:
        return appoint(net, plan_channels(net, percent=percent, **rules))

    percent = percent_for(net, plan_of=plan_of, macs=macs, params=params, size=size)
    return settle_and_cut(net, plan_of(percent), Beta.CARRIER)[0]


def timer(net: Network, size: Size, repeats: int) -> Callable[[], float]:
    """A function that runs the network ``repeats`` times and returns the median in ms."""
    layout = torch.channels_last
    model = build(net).to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.rand(1, net.spec.channels, *size).to(memory_format=layout)

    def turn() -> float:
        found = []
        with torch.inference_mode():
            for _ in range(repeats):
                began = time.perf_counter()
                model(x)
                found.append(1e3 * (time.perf_counter() - began))
        return statistics.median(found)

    return turn


def main() -> None:
    """Print what each network costs, and the two ratios."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", default="cfg/yolov3-tiny.cfg")
    flags.add_argument("--img-size", type=positive, default=320)
    flags.add_argument("--turns", type=positive, default=20)
    flags.add_argument("--repeats", type=positive, default=5, help="runs of one network in one turn")
    flags.add_argument("--threads", type=positive, default=2)
    flags.add_argument("--params", type=fraction, default=0.2, help="share of the parameters that slim leaves")
    flags.add_argument("--macs", type=fraction, default=0.5, help="share of the MACs that regular pruning leaves")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    size, full = (args.img_size, args.img_size), random_network(args.cfg)
    aligned = to_budget(full, size, macs=args.macs, tie=ShortcutRule.KEEP, multiple=16)
    same = float(count(aligned.spec, size).macs)
    nets = {
        "full": full,
        "slim": to_budget(full, size, params=args.params, tie=ShortcutRule.ANY, floor=0.1),
        "multiple 16": aligned,
        "multiple 1": to_budget(full, size, macs=same, tie=ShortcutRule.KEEP),
    }
    timers = {name: timer(net, size, args.repeats) for name, net in nets.items()}
    turns = [{name: turn() for name, turn in timers.items()} for _ in range(args.turns + 2)][2:]  # two build kernels
    for name, net in nets.items():
        params, macs = parameters(net.spec), count(net.spec, size).macs
        print(f"{name:12} {statistics.median(t[name] for t in turns):8.2f} ms"
              f"{params / 1e6:8.2f} M parameters{macs / 1e9:8.3f} G MACs")  # fmt: skip
    for one, other, promise in (("full", "slim", "at least 2"), ("multiple 1", "multiple 16", "at least 1")):
        ratios = [t[one] / t[other] for t in turns]
        print(f"{one} / {other}: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
              f"promised {promise}")  # fmt: skip
    print(f"{args.cfg}, {args.img_size} px, batch 1, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
