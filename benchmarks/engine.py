"""The hardware engine on a whole network: predicted and simulated clocks, every layer against the golden maps.

  python3 benchmarks/engine.py cfg/yolov3-tiny-digits.cfg --size 96
  python3 benchmarks/engine.py nano.cfg --size 320 --a-bit 4 --lanes 16

Random weights: a clock depends on shapes alone. Needs make, a C++ compiler and Verilator 5. Clocks of 8, 16 and 32
lanes are predicted, each for the buffers that it is simulated with; it simulates as many lanes as it is told, without
stalls in exactly those clocks, and says what CPU time that took, building the simulator included.
"""

from __future__ import annotations

import argparse
import logging
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch

from models import Darknet, network_of
from utils.darknet.cfg import read_cfg
from utils.export.costs import shapes
from utils.export.engine.compiler import compile_network
from utils.export.engine.report import report
from utils.export.engine.target import Engine
from utils.export.package import HandOffOptions, export_network
from utils.quantization.calibrate import calibrate
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme


def integers(path: str, size: int, w_bit: int, a_bit: int) -> tuple[IntegerNetwork, torch.Tensor]:
    """The network, of random weights and statistics of two random images."""
    torch.manual_seed(0)
    spec = read_cfg(path)
    model = Darknet(spec)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    images = torch.randint(0, 256, (2, spec.channels, size, size)).float() / 255
    with torch.no_grad():
        for _ in range(3):
            model.train()(images)
    scheme = Scheme(w_bit=w_bit, a_bit=a_bit, equalise=False, correct_bias=False, ranges="minmax")
    return lower(calibrate(network_of(model.eval()), [images], scheme)), images[:1]


def engine_of(lanes: int) -> Engine:
    """128 KiB of input buffer beyond 8 lanes, 64 up to there."""
    return Engine(lanes=lanes, input_words=8192 * 16 // lanes if lanes > 8 else 8192)


def make_sim(folder: Path) -> None:
    """The exported folder's own ``make sim``; what it says is printed."""
    command = ["make", "-s", "-C", str(folder / "rtl/engine"), "sim", "SEED=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout + done.stderr, end="", flush=True)


def main() -> None:
    """Predict, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cfg")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--w-bit", type=int, default=8)
    parser.add_argument("--a-bit", type=int, default=8)
    parser.add_argument("--lanes", type=int, default=8)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    network, images = integers(args.cfg, args.size, args.w_bit, args.a_bit)
    shape = shapes(network, (args.size, args.size))
    for lanes in (8, 16, 32):
        found = report(compile_network(network, shape, engine_of(lanes)))
        fps, moved = found["frames_per_second_at_100_mhz"], found["bytes_read"] + found["bytes_written"]
        print(f"{lanes}x{lanes}: {found['clocks']:,} clocks, {fps:.2f} frames a second at 100 MHz, ", end="")
        convs = [each for each in found["layers"] if isinstance(network.ops.get(each["layer"]), IntConv)]
        busy = sum(each["array_busy"] * each["clocks"] for each in convs) / sum(each["clocks"] for each in convs)
        print(f"the array busy in {found['array_busy']:.1%} ({busy:.1%} of the convolutions'), {moved:,} bytes moved")
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "net"
        options = HandOffOptions(name="net", forms=("npy",), engine=engine_of(args.lanes))
        export_network(out, network, images, options)
        make_sim(out)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"make sim and what it builds, with the export's own checks: {used.ru_utime + used.ru_stime:.0f} s of CPU time"
    )


if __name__ == "__main__":
    main()
