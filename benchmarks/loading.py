"""Images a second that the loader makes of a set, by where they are kept, how JPEGs are decoded, and by processes.

  python3 benchmarks/loading.py --data photos --cfg cfg/classes/resnet18.cfg
  python3 benchmarks/loading.py --data photos --cfg cfg/classes/resnet18.cfg --workers 0 1 2 4 8 16 --cache off disk

Training batches as train.py sees them, and nothing else: no network runs. The settings take turns, so that a machine
whose speed drifts slows all; printed are the median of each, and what it is of the first row. The pixels of all rows of
one --jpeg are the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401  # before torch: how its threads wait
from pipeline.images import dataset_of
from utils import cli
from utils.config.run import RunConfig
from utils.darknet.cfg import read_cfg
from utils.data.loader import Loader, make_loader
from utils.errors import InputError
from utils.tasks import task_of


def timed(loader: Loader[Any], epoch: int, batches: int) -> float:
    """Images a second of the first batches of an epoch, from when they are asked for: workers make none before."""
    loader.set_epoch(epoch)
    began = time.perf_counter()
    images = sum(len(batch.images) for batch in islice(loader, batches))
    return images / (time.perf_counter() - began)


def settings(args: argparse.Namespace) -> dict[str, Callable[[int], float]]:
    """Each row's name, and what measures it once."""
    spec = read_cfg(args.cfg)
    task = task_of(spec)
    manifest, size = task.open_data(args.data), (spec.height, spec.width)
    rows: dict[str, Callable[[int], float]] = {}
    for jpeg, cache in product(args.jpeg, args.cache):
        config = RunConfig(data=args.data, jpeg=jpeg)
        augment = task.augmentation(manifest, None)
        dataset = dataset_of(config, task, manifest, spec, size, cache=cache, augment=augment)
        if len(dataset) < 2 * args.batch_size:
            raise InputError(f"--batch-size: {args.batch_size} of {len(dataset)} images; two batches are needed")
        for workers in args.workers:
            loader = make_loader(dataset, args.batch_size, workers=workers, shuffle=True)
            next(iter(loader))  # workers start once, and go on
            name = f"| {jpeg:7} | {cache:5} | {workers:7} |"
            rows[name] = partial(timed, loader, batches=args.batches)
    return rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", required=True)
    flags.add_argument("--cfg", default="cfg/classes/resnet18.cfg")
    flags.add_argument("--batch-size", type=cli.positive, default=64)
    flags.add_argument("--batches", type=cli.positive, default=8, help="that are timed at once")
    flags.add_argument("--turns", type=cli.positive, default=3)
    flags.add_argument("--workers", type=cli.whole, nargs="+", default=[0, 1, 2])
    flags.add_argument("--cache", nargs="+", default=["off", "ram", "disk"], choices=["off", "ram", "disk"])
    flags.add_argument("--jpeg", nargs="+", default=["full", "reduced"], choices=["full", "reduced"])
    return flags


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    rows = settings(args)
    found: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(args.turns):
        for name, row in rows.items():
            found[name].append(row(turn))
    first = statistics.median(next(iter(found.values())))
    sys.stdout.write("| --jpeg  | cache | workers | images/s | of the first |\n|---|---|---|---|---|\n")
    for name, speeds in found.items():
        middle = statistics.median(speeds)
        sys.stdout.write(f"{name} {middle:8.0f} | {middle / first:.2f} |\n")


if __name__ == "__main__":
    cli.main(run, parser())
