"""Images a second of training in one process with all threads and in a process a core, in turns, as a ratio.

  python3 benchmarks/processes.py                                       the sample network and set, 3 turns of 1 epoch
  python3 benchmarks/processes.py --cfg net.cfg --data mine.data --turns 5
  python3 benchmarks/processes.py --before ../before                    and of another checkout, one process there

Each turn trains the same epoch every way, one after the other, so that what else the machine does meets all alike.
Told are the ratios of the turns and the differences of the losses, which are those of one mathematics up to rounding.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.cli import positive  # noqa: E402
from utils.jobs import cores  # noqa: E402
from utils.reporting.results import read_rows  # noqa: E402


def epoch(place: Path, tree: Path, args: argparse.Namespace, name: str, *flags: str) -> tuple[float, float]:
    """Images a second and loss of the last epoch of a training by a checkout's train.py."""
    words = ["--data", args.data, "--cfg", str(Path(args.cfg).resolve()), "--epochs", str(args.epochs), "--notest"]
    words += ["--device", "cpu", "--workers", "0", *flags, "--name", name]
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, str(tree / "train.py"), *words], cwd=place, env=env, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    row = read_rows(place / f"runs/train-{name}/results.csv")[-1]
    return float(row["images_per_second"]), float(row["total"])


def main() -> None:
    """Train in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cfg", default=str(ROOT / "cfg/yolov3-tiny-digits.cfg"), help="the network (default: the sample's)"
    )
    parser.add_argument("--data", default=str(ROOT / "data/digits.data"), help="the set (default: the sample set)")
    parser.add_argument("--epochs", type=positive, default=1, help="of a training, whose last one counts (1)")
    parser.add_argument("--turns", type=positive, default=3, help="trainings each way (3)")
    parser.add_argument("--before", type=Path, help="another checkout, whose train.py has a turn too")
    args = parser.parse_args()
    count = cores()
    ways: dict[str, tuple[Path, tuple[str, ...]]]
    ways = {f"{count} threads": (ROOT, ("--processes", "1")), f"{count} processes": (ROOT, ("--processes", str(count)))}
    if args.before:
        ways = {"before": (args.before.resolve(), ())} | ways
    speeds = dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.turns):
            found = {
                way: epoch(Path(folder), tree, args, f"{way.split()[-1]}{turn}", *flags)
                for way, (tree, flags) in ways.items()
            }
            for way, (speed, _) in found.items():
                speeds.setdefault(way, []).append(speed)
            print(f"turn {turn}:", "; ".join(f"{way} {s:.1f} images/s, loss {x:.4f}" for way, (s, x) in found.items()))
    first, *others = speeds
    for way in others:
        ratios = [many / one for many, one in zip(speeds[way], speeds[first], strict=True)]
        middle = statistics.median(ratios)
        print(f"{way} over {first}: {middle:.2f} times (median, {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
