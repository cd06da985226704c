"""Fast-SNN's way beside the exact one: T x bits x neuron, before and after layer-wise fine-tuning.

  python3 benchmarks/fast_snn.py --data cifar10 --weights weights/last_r20.pt --trained weights/last_q-4.int.pt \\
      weights/last_q-3.int.pt weights/last_q.int.pt

Of each network of integers: the integers themselves; spikes layer after layer and streams until nothing fires, which
equal them; then T = L steps, Fast-SNN's 2^b - 1, of neurons that take spikes back ("signed") and of neurons that do not
("unsigned"), as they were converted and fine-tuned on training images. All on the same validation images; points count
from the float network. Any task: the score is its own. Neurons of levels of either sign keep to
the sign that they fired first (docs/decisions/139).

Source: Hu et al., Fast-SNN: fast spiking neural network by converting quantized ANN, TPAMI 2023.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch

import convert_snn
from benchmarks.spiking_training import integers_in
from pipeline.conversion_result import ValidationSample, tuned_stream
from pipeline.convert import settled
from pipeline.session import Session, open_session
from pipeline.stream import cost_of_stream, watched
from utils import cli
from utils.config.convert import ConvertConfig
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.record import new_run_folder
from utils.reporting.results import write_rows
from utils.reporting.runs import FLOAT, RUNS
from utils.reporting.tables import plain_table
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.mismatch import overall
from utils.spiking.observe import join
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stream import StreamExecutor
from utils.spiking.synops import measure

log = logging.getLogger(__name__)

LIMITED = ("signed", "unsigned")  # neurons that end after T = L steps, as Fast-SNN's do


@dataclass(frozen=True)
class Line:
    """A row of the table: ``off`` is the share of neurons whose count is not their level, 0..1."""

    bits: int | None
    neuron: str
    score: float
    steps: int | None = None
    off: float | None = None
    spikes: float | None = None
    tuned: bool = False

    def cells(self, floating: float) -> list[str]:
        """As it is printed; ``floating``: the score that points count from."""
        return [
            str(self.bits or "-"),
            str(self.steps or "-"),
            self.neuron,
            "after" if self.tuned else "before" if self.neuron in LIMITED else "",
            f"{self.score:.4f}",
            f"{100 * (self.score - floating):+.2f}",
            "-" if self.off is None else f"{self.off:.2%}",
            "-" if self.spikes is None else f"{self.spikes:,.0f}",
        ]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--weights", required=True, help="the float network: points count from it")
    flags.add_argument("--trained", nargs="+", required=True, help="its integers, .int.pt, one for each number of bits")
    flags.add_argument("--data", required=True)
    flags.add_argument("--seed", type=cli.whole, default=0, help="of the training images that fine-tuning sees")
    flags.add_argument("--images", type=cli.positive, default=500, help="validation images")
    flags.add_argument("--tune", type=cli.positive, nargs=2, default=(64, 8), metavar=("IMAGES", "ITERATIONS"),
        help="of fine-tuning: training images, iterations a layer (64 8)")  # fmt: skip
    return flags


def opened(args: argparse.Namespace) -> Session[ConvertConfig]:
    """The float network and the data.

    Raises:
        InputError: one of them is not there, or the network holds no floats.
    """
    words = ["--weights", args.weights, "--data", args.data, "--device", "cpu", "--workers", "0", "--mode", "stream"]
    words += ["--neuron", "signed", "--finetune", "--finetune-images", str(args.tune[0])]
    words += ["--finetune-iterations", str(args.tune[1]), "--seed", str(args.seed)]
    session = settled(open_session(convert_snn.parser().parse_args(words), scripts=FLOAT))
    if session.loaded.network is None:
        raise InputError(f"{args.weights}: holds no float network; give the one that was trained for fewer bits")
    return session


def lines_of(session: Session[ConvertConfig], sample: ValidationSample, path: str) -> list[Line]:
    """All rows of one network of integers."""
    network = encode(integers_in(path))
    bits, layerwise = network.integer.scheme.a_bit, LayerwiseExecutor(network)
    log.info("%s: %d bits", path, bits)
    cost, golden = measure(layerwise, sample.inputs()), sample.score(IntegerExecutor(network.integer))
    lines = [
        Line(bits, "integers", session.headline(golden)),
        Line(bits, "layer by layer", session.headline(sample.score(layerwise)), network.latency, 0.0, cost.spikes),
        streamed(sample, StreamExecutor(network), network, "settled"),
    ]
    for rule in LIMITED:
        executor = StreamExecutor(network, rule=rule, steps=network.window)
        tuned = StreamExecutor(tuned_stream(session, executor), rule=rule, steps=network.window)
        lines += [streamed(sample, executor, network, rule), streamed(sample, tuned, network, rule, tuned=True)]
    return lines


def streamed(
    sample: ValidationSample, executor: StreamExecutor, golden: SpikingNetwork, neuron: str, *, tuned: bool = False
) -> Line:
    """A stream's row; its counts should be the levels of ``golden``."""
    last, session = executor.steps or executor.bound, sample.session
    seen = watched(executor, sample, (last,), golden)
    every, score = join(seen), session.headline(sample.score_heads([each.heads[last] for each in seen]))
    spikes = cost_of_stream(executor.spiking, every, session.size).spikes
    bits = golden.integer.scheme.a_bit
    return Line(bits, neuron, score, every.steps, overall(every.mismatches).share, spikes, tuned)


def measured(args: argparse.Namespace) -> list[Line]:
    """All rows, the float network's first; printed, and in a csv of a run folder."""
    session = opened(args)
    sample = ValidationSample.of(session, args.images)
    lines = [Line(None, "float", session.headline(sample.score(session.loaded.predictor)))]
    for path in args.trained:
        lines += lines_of(session, sample, path)
    heading = ["bits", "T", "neuron", "fine-tuning", session.heading, "points", "neurons off", "spikes an image"]
    rows = [heading, *(line.cells(lines[0].score) for line in lines)]
    log.info(plain_table(f"{args.weights}, {sample.said}, seed {args.seed}", rows))
    write_rows(new_run_folder(RUNS, "bench_fast_snn", "") / "fast_snn.csv", [vars(line) for line in lines])
    return lines


def main() -> None:
    """Measure and print."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        measured(parser().parse_args())
    except InputError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
