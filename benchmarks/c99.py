"""The network in C beside onnxruntime's int8: one network, one thread each, taking turns in one run.

  python3 benchmarks/c99.py nano.cfg --size 320
  python3 benchmarks/c99.py cfg/yolov3-tiny-digits.cfg --size 96 --turns 5

Random weights: what a frame costs depends on shapes alone. Both are the same integers: c/ of export.py, compiled for
this machine (`make bench`), and the QDQ model of export.py onnx. Printed are processor seconds of the median frame,
which another program's load disturbs less than the time of day, by turn; their ratio; what `make size` says; and the
machine. Needs make, a C compiler and requirements-export.txt.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401  # before torch: how its threads wait
from benchmarks.engine import integers
from utils.cli import positive
from utils.export.c99 import write_c
from utils.export.costs import shapes
from utils.export.golden import write_golden
from utils.export.onnx_check import session
from utils.export.onnx_qdq import qdq_model

FRAMES = 20  # a turn


def machine() -> str:
    """Processor, cores, and how many programs want one."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return f"{found[1] if found else name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Write, compile, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cfg")
    parser.add_argument("--size", type=positive, default=320)
    parser.add_argument("--turns", type=positive, default=3)
    args = parser.parse_args()
    network, images = integers(args.cfg, args.size, 8, 8)
    onnx, given = session(qdq_model(network, (args.size, args.size))), images.numpy()
    name = onnx.get_inputs()[0].name
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_golden(folder, network, images, ["npy"])
        write_c(folder / "c", network, shapes(network, (args.size, args.size)), len(images))
        make = ["make", "-s", "-C", str(folder / "c")]
        print(subprocess.run([*make, "check", "size"], check=True, capture_output=True, text=True).stdout, end="")
        print(f"at the start: {machine()}")
        for _ in range(args.turns):
            said = subprocess.run([*make, "bench", f"FRAMES={FRAMES}"], check=True, capture_output=True, text=True)
            ours.append(float(re.search(r"([\d.]+) ms a frame", said.stdout)[1]))  # type: ignore[index]
            times = []
            for _ in range(FRAMES):
                begun = time.process_time()
                onnx.run(None, {name: given})
                times.append(1e3 * (time.process_time() - begun))
            theirs.append(statistics.median(times))
            print(f"C99 {ours[-1]:.2f} ms, onnxruntime int8 {theirs[-1]:.2f} ms, ratio {ours[-1] / theirs[-1]:.2f}")
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    print(f"at the end: {machine()}; median ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
