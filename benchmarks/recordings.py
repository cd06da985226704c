"""A spiking network on recordings of an event camera, and what it owes to time: bins shuffled, and the first repeated.

  python3 benchmarks/recordings.py --data nmnist --epochs 10 --seeds 0 1 2
  python3 benchmarks/recordings.py --data nmnist --weights weights/last.pt

The controls are the trained network's own, on the same recordings: their bins in a random order, and the first bin in
the place of all. CPU seconds are those of the training. A run that is in runs/ already is taken from there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch
from torch import Tensor, nn

from benchmarks.pruning import run_script, spread
from models import load_model
from pipeline.images import frame_rule
from utils.reporting.runs import output_of
from utils.tasks import task_of
from utils.cli import positive, whole
from utils.data.loader import make_loader
from utils.reporting.tables import plain_table


def shuffled(frames: Tensor) -> Tensor:
    """[N, T, C, H, W] with the steps of all in one random order."""
    order = torch.randperm(frames.shape[1], generator=torch.Generator().manual_seed(0))
    return frames[:, order]


def repeated(frames: Tensor) -> Tensor:
    """The first step in the place of each."""
    return frames[:, :1].expand_as(frames)


BATCH = 50


class Changed(nn.Module):
    """A network that is shown something else."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Any:
        """Its answer to what is made of the frames."""
        return self.model(self.change(x))


CONTROLS: dict[str, Callable[[Tensor], Tensor]] = {
    "as recorded": lambda frames: frames,
    "bins shuffled": shuffled,
    "first bin repeated": repeated,
}


def trained(args: argparse.Namespace, seed: int, *more: str) -> tuple[str, float]:
    """The network of a seed, and the CPU seconds of its training, with ``more`` words on its command line."""
    began = time.process_time()
    name = f"recordings{args.epochs}-{Path(args.data).name}-{seed}"
    words = ["--cfg", args.cfg, "--data", args.data, "--epochs", str(args.epochs), "--seed", str(seed)]
    record = run_script("train", [*words, *more, "--notest", "--device", "cpu", "--workers", "0", "--name", name])
    return str(output_of(record, "last*.pt")), time.process_time() - began


def controls(data: str, weights: str) -> dict[str, float]:
    """The score of a network, and what it makes of the same recordings changed."""
    loaded = load_model(weights)
    task, spec, model = task_of(loaded.spec), loaded.spec, loaded.predictor
    manifest = task.open_data(data)
    size = (spec.height, spec.width)
    dataset = task.dataset(manifest, manifest.valid, size, channels=spec.channels, frames=frame_rule(spec))
    found = {}
    for title, change in CONTROLS.items():
        loader = make_loader(dataset, BATCH, workers=0)
        metrics = task.evaluate(Changed(model, change), loader, spec, manifest.names, progress=False)
        found[title] = metrics.record()[task.headline]
    return found


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", default="cfg/nmnist-lif.cfg")
    flags.add_argument("--data", required=True, help="a folder with Train/ and Test/, a folder a class in each")
    flags.add_argument("--epochs", type=positive, default=10)
    flags.add_argument("--seeds", type=whole, nargs="+", default=[0, 1, 2])
    flags.add_argument("--weights", nargs="+", default=[], help="networks that are trained already, in place of seeds")
    args = flags.parse_args()
    made = [] if args.weights else [trained(args, seed) for seed in args.seeds]
    found = [controls(args.data, path) for path in args.weights or [path for path, _ in made]]
    rows = [["", "top-1"], *([title, spread([each[title] for each in found], "{:.4f}")] for title in CONTROLS)]
    rows += [["CPU seconds of training", spread([seconds for _, seconds in made], "{:.0f}")]] if made else []
    print(plain_table(" ".join(args.weights) or f"{args.cfg}, {args.epochs} epochs, seeds {args.seeds}", rows))


if __name__ == "__main__":
    main()
