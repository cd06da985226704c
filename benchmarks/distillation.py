"""What a teacher brings: one pruned network, fine-tuned on the same images with every strategy and without.

  python3 benchmarks/distillation.py                     the sample set, seeds 0 1 2
  python3 benchmarks/distillation.py --seeds 1 --strategies 3 cwd 3+cwd
  python3 benchmarks/distillation.py --teachers weights/s0.pt weights/s1.pt weights/s2.pt --percent 0.85
  python3 benchmarks/distillation.py --seeds 0 --data ../shared/data/raccoon --weights weights/raccoon.pt \\
      --sparse "--epochs 40 --s 0.005 --lr 0.1 --img-size 320" --teacher weights/raccoon.pt --percent 0.5 --epochs 20

Of every seed: a sparse network (--teachers, one a seed; by default a sparse training makes it), slim_prune.py on it,
and fine-tunings of what is left that differ in --KDstr alone; the teacher is the sparse network, or --teacher. Points
count from plain fine-tuning, seed by seed. Seconds tell what the teacher costs: the rows of --plain-epochs give plain
fine-tuning that time. A run is known by its flags and by what is in the networks it starts from: finished ones are
kept, and shown.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait

from benchmarks.pruning import run_script, sha256_of, spread
from benchmarks.quantisation import left_by
from utils import cli
from utils.config.run import DATA
from utils.errors import InputError
from utils.reporting.files import sha256
from utils.reporting.record import Record
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
    add("--teachers", nargs="+", default=[], help="sparse networks to start from, one a seed (default: made here)")
    add("--teacher", default="", help="one network that teaches all rows (default: the sparse network of the seed)")
    add("--sparse", default="--epochs 20", help="flags of the sparse training, besides -sr --prune 1")
    add("--percent", default="0.8", help="of slim_prune.py")
    add("--epochs", type=cli.positive, default=6, help="of fine-tuning")
    add("--plain-epochs", type=cli.positive, nargs="*", default=[], help="more rows without a teacher")
    add("--finetune", default="--lr 0.1", help="more flags of fine-tuning, such as --kd-weight 2")
    add("--data", default=DATA)
    add("--weights", default="", help="of the sparse training (default: from scratch)")
    return flags


def one_seed(args: argparse.Namespace, seed: int, given: str) -> dict[str, Record]:
    """The records of one seed by row: the network before and after the cut, then the fine-tunings.

    Args:
        args: the command line.
        seed: of everything.
        given: the sparse network; made here if empty, and a row of its own then.
    """
    common = ["--data", args.data, "--seed", str(seed)]
    stem = f"kd{seed}-{Path(args.data).stem}"
    rows = {}
    if not given:
        start = {"--weights": Path(args.weights)} if args.weights else {}
        rows["teacher"] = named_run(stem, "train", ["-sr", "--prune", "1", *args.sparse.split(), *common], start)
    teacher = Path(given) if given else left_by(rows["teacher"])
    cut = ["--percent", args.percent, "--force", *common]
    rows["pruned"] = named_run(stem, "slim_prune", cut, {"--weights": teacher})
    student = left_by(rows["pruned"])
    tune = [*args.finetune.split(), *common]
    for epochs in (args.epochs, *args.plain_epochs):
        words = ["--epochs", str(epochs), *tune]
        rows[f"{PLAIN}, {epochs} epochs"] = named_run(stem, "train", words, {"--weights": student})
    for kd in args.strategies:
        words = ["--epochs", str(args.epochs), "--KDstr", kd, *tune]
        teaching = Path(args.teacher) if args.teacher else teacher
        rows[f"--KDstr {kd}"] = named_run(stem, "train", words, {"--weights": student, "--t-weights": teaching})
    return rows


def named_run(stem: str, script: str, words: list[str], files: dict[str, Path]) -> Record:
    """A script's record, found again by its flags and by the contents of the networks that other flags name."""
    contents = [f"{flag} {sha256(path)}" for flag, path in files.items()]
    unique = sha256_of(" ".join([script, *words, *contents]))
    given = [word for flag, path in files.items() for word in (flag, str(path))]
    return run_script(script, [*given, *words, "--name", f"{stem}-{unique}"])


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


def main() -> None:
    """Run what is missing, print the table."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if args.teachers and len(args.teachers) != len(args.seeds):
        raise InputError(f"--teachers: {len(args.teachers)} files for {len(args.seeds)} seeds; give one a seed")
    if missing := [each for each in args.teachers if not Path(each).is_file()]:
        raise InputError(f"--teachers {missing[0]}: no such file; give sparse networks, such as weights/last_*.pt")
    given = args.teachers or [""] * len(args.seeds)
    found = [one_seed(args, seed, start) for seed, start in zip(args.seeds, given, strict=True)]
    heading = ["fine-tuned with", "parameters", "mAP@.5", "mAP@.5:.95", "points", "points .5:.95", "seconds"]
    plain = [records[f"{PLAIN}, {args.epochs} epochs"] for records in found]
    rows = [heading, *(line(row, [records[row] for records in found], plain) for row in found[0])]
    log.info(plain_table(f"{args.data}, seeds {' '.join(map(str, args.seeds))}", rows))


if __name__ == "__main__":
    main()
