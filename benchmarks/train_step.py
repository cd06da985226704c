"""Images a second of a training step of yolov3-tiny at 320 px: our defaults against plain NCHW fp32, in one run.

  python3 benchmarks/train_step.py
  python3 benchmarks/train_step.py --cfg cfg/yolov4-tiny.cfg --img-size 256 --batch-size 4

The two take turns, so that a machine whose speed drifts slows both; printed are the ratio of each turn and the median.
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

from models import Darknet
from utils.darknet.spec import Detect
from utils.cli import positive
from utils.darknet.cfg import read_cfg
from utils.detection.loss import YoloLoss
from utils.training.device import Precision, select_device, select_precision


def stepper(cfg: str, size: int, batch: int, precision: Precision, layout: torch.memory_format) -> Callable[[], float]:
    """A function that makes one training step and returns the seconds it took."""
    torch.manual_seed(0)
    spec = read_cfg(cfg)
    model = Darknet(spec).train().to(precision.device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True)
    loss = YoloLoss([layer for layer in spec.layers if isinstance(layer, Detect)])
    images = torch.rand(batch, 3, size, size).to(precision.device).to(memory_format=layout)
    targets = torch.rand(4 * batch, 6) * 0.5 + 0.2
    targets[:, 0], targets[:, 1] = torch.arange(4 * batch) % batch, 0

    def step() -> float:
        began = time.perf_counter()
        with precision.autocast():
            raw = model(images)
        loss(raw, targets, (size, size)).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if precision.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return step


def main() -> None:
    """Print images a second of both, and the ratio."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", default="cfg/yolov3-tiny.cfg")
    flags.add_argument("--img-size", type=positive, default=320)
    flags.add_argument("--batch-size", type=positive, default=8)
    flags.add_argument("--turns", type=positive, default=8)
    flags.add_argument("--device", default="")
    args = flags.parse_args()
    ours = select_precision(select_device(args.device))
    plain = Precision(ours.device, None)
    common = (args.cfg, args.img_size, args.batch_size)
    fast = stepper(*common, ours, torch.channels_last)
    slow = stepper(*common, plain, torch.contiguous_format)
    pairs = [(fast(), slow()) for _ in range(args.turns + 2)][2:]  # the first turns build kernels
    for one, other in pairs:
        print(f"{args.batch_size / one:7.1f} images/s   plain {args.batch_size / other:7.1f}   ratio {other / one:.2f}")
    ratios = [other / one for one, other in pairs]
    print(f"{args.cfg}, {args.img_size} px, batch {args.batch_size}, {ours}, {torch.get_num_threads()} threads")
    print(f"median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
