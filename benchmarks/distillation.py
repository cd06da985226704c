"""What a teacher brings: one pruned network, fine-tuned on the same images with every strategy and without.

  python3 benchmarks/distillation.py                     the sample set, seeds 0 1 2
  python3 benchmarks/distillation.py --seeds 1 --strategies 3 cwd 3+cwd
  python3 benchmarks/distillation.py --seeds 0 --data ../shared/data/raccoon --weights weights/raccoon.pt \\
      --sparse "--epochs 40 --s 0.005 --lr 0.1 --img-size 320" --percent 0.5 --epochs 20

Of every seed: a sparse training, slim_prune.py on it, and fine-tunings of what is left that differ in --KDstr alone;
the teacher is the sparse network. Points count from plain fine-tuning, seed by seed. Seconds tell what the teacher
costs: the rows of --plain-epochs give plain fine-tuning that time. Finished runs are kept, and shown.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipeline.bench import RUNS, output_of
from utils import cli
from utils.errors import InputError
from utils.reporting.record import Record, latest_record
from utils.reporting.tables import plain_table

log = logging.getLogger(__name__)

STRATEGIES = ("1", "2", "3", "4", "5", "cwd", "mgd", "objectness")
PLAIN = "none"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = flags.add_argument
    add("--seeds", type=cli.whole, nargs="+", default=[0, 1, 2])
    add("--strategies", nargs="+", default=list(STRATEGIES), help="values of --KDstr")
    add("--sparse", default="--epochs 20", help="flags of the sparse training, besides -sr --prune 1")
    add("--percent", default="0.8", help="of slim_prune.py")
    add("--epochs", type=cli.positive, default=6, help="of fine-tuning")
    add("--plain-epochs", type=cli.positive, nargs="*", default=[], help="more rows without a teacher")
    add("--finetune", default="--lr 0.1", help="more flags of fine-tuning, such as --kd-weight 2")
    add("--data", default=cli.DATA)
    add("--weights", default="", help="of the sparse training (default: from scratch)")
    return flags


def run_script(name: str, words: list[str]) -> Record:
    """A script's record: of the finished run these words already had, or of a new one."""
    script: Any = importlib.import_module(name)
    stem = hashlib.sha256(" ".join([name, *words]).encode()).hexdigest()[:8]
    args = script.parser().parse_args([*words, "--name", f"kd-{stem}"])
    found = latest_record(RUNS, f"{name}*", lambda record: record.args.get("name") == args.name)
    return found or script.run(args)


def left(record: Record) -> str:
    """The network a run left.

    Raises:
        InputError: it is gone.
    """
    path = output_of(record)
    if path is None:
        raise InputError(f"{record.folder}: the network this run left is gone; delete the folder")
    return str(path)


def one_seed(args: argparse.Namespace, seed: int) -> dict[str, Record]:
    """The records of one seed by row: the network before and after the cut, then the fine-tunings."""
    common = ["--data", args.data, "--seed", str(seed)]
    start = ["--weights", args.weights] if args.weights else []
    teacher = run_script("train", ["-sr", "--prune", "1", *args.sparse.split(), *start, *common])
    pruned = run_script("slim_prune", ["--weights", left(teacher), "--percent", args.percent, "--force", *common])
    student = ["--weights", left(pruned), *args.finetune.split(), *common]
    rows = {"teacher": teacher, "pruned": pruned}
    for epochs in (args.epochs, *args.plain_epochs):
        rows[f"{PLAIN}, {epochs} epochs"] = run_script("train", ["--epochs", str(epochs), *student])
    for kd in args.strategies:
        words = ["--epochs", str(args.epochs), "--KDstr", kd, "--t-weights", left(teacher), *student]
        rows[f"--KDstr {kd}"] = run_script("train", words)
    return rows


def scores(record: Record) -> dict[str, Any]:
    """The numbers of a run; of a prune script those of the network it leaves."""
    metrics = record.metrics
    return metrics if "map50" in metrics else metrics[next(key for key in ("recalibrated", "after") if key in metrics)]


def line(row: str, records: list[Record], plain: list[Record]) -> list[str]:
    """A row of the table: means over the seeds, ± the sample standard deviation where there are several."""
    found, base = [scores(record) for record in records], [scores(record) for record in plain]
    points = {k: [100 * (a[k] - b[k]) for a, b in zip(found, base, strict=True)] for k in ("map50", "map")}
    return [
        row,
        f"{statistics.mean(each['params'] for each in found):,.0f}",
        *(spread([100 * each[key] for each in found], "{:.2f}") for key in ("map50", "map")),
        *(spread(points[key], "{:+.2f}") for key in ("map50", "map")),
        spread([record.seconds or 0.0 for record in records], "{:.0f}"),
    ]


def spread(values: list[float], form: str) -> str:
    """Mean ± deviation."""
    mean = form.format(statistics.mean(values))
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def main() -> None:
    """Run what is missing, print the table."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    found = [one_seed(args, seed) for seed in args.seeds]
    heading = ["fine-tuned with", "parameters", "mAP@.5", "mAP@.5:.95", "points", "points .5:.95", "seconds"]
    plain = [records[f"{PLAIN}, {args.epochs} epochs"] for records in found]
    rows = [heading, *(line(row, [records[row] for records in found], plain) for row in found[0])]
    log.info(plain_table(f"{args.data}, seeds {' '.join(map(str, args.seeds))}", rows))


if __name__ == "__main__":
    main()
