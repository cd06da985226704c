"""Images a second of training in one process with all threads and in a process a core, in turns, as a ratio.

  python3 benchmarks/processes.py                                       the sample network and set, 3 turns of 1 epoch
  python3 benchmarks/processes.py --cfg net.cfg --data mine.data --turns 5

Each turn trains the same epoch both ways, one after the other, so that what else the machine does meets both alike.
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

from utils.jobs import cores  # noqa: E402
from utils.reporting.results import read_rows  # noqa: E402


def epoch(place: Path, processes: int, args: argparse.Namespace, name: str) -> tuple[float, float]:
    """Images a second and loss of the last epoch of a training."""
    words = ["--data", args.data, "--cfg", str(Path(args.cfg).resolve()), "--epochs", str(args.epochs), "--notest"]
    words += ["--device", "cpu", "--workers", "0", "--processes", str(processes), "--name", name]
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words], cwd=place, env=env, capture_output=True, text=True
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
    parser.add_argument("--epochs", type=int, default=1, help="of a training, whose last one counts (1)")
    parser.add_argument("--turns", type=int, default=3, help="trainings each way (3)")
    args = parser.parse_args()
    count, ratios = cores(), []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.turns):
            one, loss = epoch(Path(folder), 1, args, f"one{turn}")
            many, other = epoch(Path(folder), count, args, f"many{turn}")
            ratios.append(many / one)
            print(f"turn {turn}: {one:.1f} images/s with {count} threads, {many:.1f} in {count} processes, "
                  f"{ratios[-1]:.2f} times; loss {loss:.4f} and {other:.4f}")  # fmt: skip
    print(f"{statistics.median(ratios):.2f} times (median of {args.turns}, {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
