"""Latency on the CPU: torch fp32, onnxruntime fp32 and int8 (QDQ), our integers and spikes: one network, one run.

  python3 benchmarks/onnx_latency.py
  python3 benchmarks/onnx_latency.py --weights weights/best.pt --img-size 128
  python3 benchmarks/onnx_latency.py --cfg mine.cfg --weights mine.weights --batch 1 16 --threads 1 2

yolov3-tiny at 320 px with random weights, as its cfg has it (leaky) and with every leaky a ReLU; or a float network of
yours, likewise. int8 is the file that export.py onnx writes, calibrated here on random images: google scales, and
powers of two. Predictors of both networks take turns, so that a machine whose speed drifts slows all alike; printed are
medians, the middle half of all turns, and ratios, each of a turn's medians: torch over it, what is ours over
onnxruntime's int8 of the same scales, spikes over the integers, leaky over ReLU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch
from terminaltables import AsciiTable

from benchmarks.pruned_latency import random_network
from models import build, load_model
from utils.cli import positive
from utils.darknet import spec as s
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.errors import InputError
from utils.export.onnx_check import session
from utils.export.onnx_float import float_model
from utils.export.onnx_graph import Model, check
from utils.export.onnx_qdq import qdq_model
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import encode

Size = tuple[int, int]
Runner = Callable[[], Any]
Row = list[str]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
INT8 = "onnxruntime int8, "
RELU = "ReLU"


def with_relu(network: Network) -> Network:
    """The same weights with every leaky a ReLU."""
    layers = tuple(
        replace(layer, activation="relu") if isinstance(layer, s.Conv) and layer.activation == "leaky" else layer
        for layer in network.spec.layers
    )
    return Network(replace(network.spec, layers=layers), network.state)


def runners(network: Network, size: Size, threads: int, batch: int) -> dict[str, Runner]:
    """Name -> a function that runs the network once."""
    image = torch.rand(batch, network.spec.channels, *size).mul_(255).round_().div_(255)
    folded, layout = fold_bn(network), torch.channels_last
    module, x = build(folded).to(memory_format=layout), image.to(memory_format=layout)  # type: ignore[call-overload]
    found: dict[str, Runner] = {"torch fp32": lambda: module(x)}
    models: dict[str, Model] = {"onnxruntime fp32": float_model(folded, size)}
    for style in ("google", "pow2"):
        scheme = Scheme(style=style, a_bit=8, equalise=False, correct_bias=False, ranges="minmax")
        integer = lower(calibrate(folded, [image], scheme))
        models[INT8 + style] = qdq_model(integer, size)
        found[f"our integers, {style}"] = partial(IntegerExecutor(integer), x)
        with suppress(InputError):  # some activations have no spikes
            found[f"our spikes, {style}"] = partial(LayerwiseExecutor(encode(integer)), x)
    for name, model in models.items():
        check(model)
        found[name] = with_onnxruntime(session(model, threads), image)
    return found


def with_onnxruntime(runner: Any, image: torch.Tensor) -> Runner:
    """A function that runs a session once."""
    given = {"image": image.numpy()}
    return lambda: runner.run(None, given)


def turn(run: Runner, repeats: int, clock: Clock) -> float:
    """Median of some runs, ms."""
    times = []
    for _ in range(repeats):
        began = clock()
        run()
        times.append(1e3 * (clock() - began))
    return statistics.median(times)


def measure(networks: dict[str, Network], size: Size, threads: int, batch: int, args: argparse.Namespace) -> list[Row]:
    """Rows of the table: all predictors of all networks, in turns."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        made = {word: runners(network, size, threads, batch) for word, network in networks.items()}
        each = {(word, name): run for word, found in made.items() for name, run in found.items()}
        turns = range(args.turns + 2)
        clock = CLOCKS[args.clock]
        seen = [{key: turn(run, args.repeats, clock) for key, run in each.items()} for _ in turns][2:]  # two warm up
    rows = []
    for word, name in each:
        low, middle, high = statistics.quantiles([one[word, name] for one in seen], n=4, method="inclusive")
        kind, _, style = name.rpartition(", ")
        others = (
            (word, INT8 + style) if kind.startswith("our") else None,
            (word, f"our integers, {style}") if kind == "our spikes" else None,
            (RELU, name) if word != RELU and RELU in networks else None,
        )
        against = [over(seen, (word, name), other) for other in others]
        faster = over(seen, (word, "torch fp32"), (word, name))
        rows.append(
            [name, word, f"{threads}", f"{batch}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}", faster, *against]
        )
    return rows


def over(seen: list[dict[tuple[str, str], float]], one: tuple[str, str], other: tuple[str, str] | None) -> str:
    """The ratio of two predictors, turn by turn."""
    return "-" if other is None else ratio([turns[one] / turns[other] for turns in seen])


def ratio(values: list[float]) -> str:
    """The median, and the ends."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Print a table of the network as it is and, where it has leaky ones, with ReLU."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", default="cfg/yolov3-tiny.cfg")
    flags.add_argument("--weights", default="", help="a float network of yours, of Darknet with its --cfg")
    flags.add_argument("--batch", type=positive, nargs="+", default=[1])
    flags.add_argument("--img-size", type=positive, default=320)
    flags.add_argument("--turns", type=positive, default=15)
    flags.add_argument("--repeats", type=positive, default=5, help="runs of one predictor in one turn")
    flags.add_argument("--threads", type=positive, nargs="+", default=[1, 2])
    flags.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: on a machine that others use too")
    args = flags.parse_args()
    cfg = args.cfg if args.weights.endswith(".weights") else None
    network = load_model(args.weights, cfg).network if args.weights else random_network(args.cfg)
    if network is None:
        flags.error(f"{args.weights}: is no float network")
    size = (args.img_size, args.img_size)
    bent = any(isinstance(layer, s.Conv) and layer.activation == "leaky" for layer in network.spec.layers)
    networks = {"leaky": network, RELU: with_relu(network)} if bent else {"as it is": network}
    head = ["predictor", "network", "threads", "batch", "ms", "middle half", "torch / it"]
    head += ["it / int8 of onnxruntime", "spikes / integers", "leaky / ReLU"]
    print(f"{args.weights or args.cfg}, {args.img_size} px, ms by the {args.clock} clock", flush=True)
    rows = [row for n in args.threads for batch in args.batch for row in measure(networks, size, n, batch, args)]
    print(AsciiTable([head, *rows]).table)


if __name__ == "__main__":
    main()
