"""Seconds and memory of pruning's surgery on yolov3 (61.5 M parameters, random weights): plan, carriers, cut.

  python3 benchmarks/surgery.py
  python3 benchmarks/surgery.py --cfg cfg/yolov4.cfg --percents 0.3 0.9

Promised are less than 3 s and a peak of less than 2.5 times the weights, the weights themselves included. Every
percent has a process of its own, whose peak (VmHWM, so Linux only) counts from before the weights are made.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch

from utils.pruning.choices import Beta
from utils.cli import fraction
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Network
from utils.darknet.weights import tensors
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.plan import ShortcutRule, plan_channels

SECONDS, TIMES = 3.0, 2.5
FLOOR = 0.1  # that of slim_prune.py


def surgery(job: tuple[str, float]) -> dict[str, float]:
    """Cut a random network; seconds of each step, and bytes of the weights before, after and at the peak."""
    cfg, percent = job
    spec = read_cfg(cfg)
    base = peak()
    make = torch.Generator().manual_seed(0)
    net = Network(spec, {key: torch.rand(shape, generator=make) for _, key, shape in tensors(spec)})
    began = [time.perf_counter()]
    plan = plan_channels(net, percent=percent, tie=ShortcutRule.ANY, floor=FLOOR)
    began.append(time.perf_counter())
    small, _ = settle_and_cut(net, plan, Beta.CARRIER)
    began.append(time.perf_counter())
    return {
        "plan": began[1] - began[0],
        "cut": began[2] - began[1],
        "total": began[2] - began[0],
        "peak": peak() - base,
        "full": size(net),
        "small": size(small),
    }


def peak() -> int:
    """The most memory this process has held so far, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def size(net: Network) -> int:
    """Bytes of the weights."""
    return sum(value.nbytes for value in net.state.values())


def main() -> None:
    """Print a line a percent; exit with 1 where a promise is missed."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", default="cfg/yolov3.cfg")
    flags.add_argument("--percents", type=fraction, nargs="+", default=[0.5, 0.8])
    args = flags.parse_args()
    held = True
    for percent in args.percents:
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            found = fresh.apply(surgery, ((args.cfg, percent),))
        times = found["peak"] / found["full"]
        held &= found["total"] < SECONDS and times < TIMES
        steps = ", ".join(f"{name} {found[name]:.2f}" for name in ("plan", "cut"))
        print(
            f"percent {percent:g}: {found['total']:.2f} s ({steps}), peak {times:.2f} times the weights, "
            f"{found['full'] / 1e6:.0f} -> {found['small'] / 1e6:.0f} MB"
        )
    verdict = f"under {SECONDS:g} s and {TIMES:g} times: {'held' if held else 'MISSED'}"
    print(f"{args.cfg}, slim with carriers, {torch.get_num_threads()} threads; {verdict}")
    sys.exit(not held)


if __name__ == "__main__":
    main()
