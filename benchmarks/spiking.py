"""Networks as spikes in every mode and at every number of bits: accuracy, steps, spikes, operations, energy, speed.

  python3 benchmarks/spiking.py --weights weights/best.pt                       the sample set, 64 validation images
  python3 benchmarks/spiking.py --weights weights/raccoon.pt --data ../shared/data/raccoon --bits 8 4 --images 40
  python3 benchmarks/spiking.py --weights a.pt b.pt c.pt --trained 4=a4.int.pt,b4.int.pt,c4.int.pt 3=a3.int.pt,...
  python3 benchmarks/spiking.py --weights a.pt b.pt c.pt --progressive          trains 8, 4, 3, 2 bits, one seed a file
  python3 benchmarks/spiking.py --weights a.pt b.pt c.pt --sparsify 0 0.1 1     spikes against mAP
  python3 benchmarks/spiking.py --coco ../shared/data                           two COCO networks, 8 bits, no training

Of each number of activation bits: the integers, layerwise mode, streams (ST-BIF, after L steps and when settled;
signed and unsigned after L steps, as Fast-SNN runs them); and rates of 16, 64 and 256 steps, which have no bits.
Networks trained for fewer bits take the place of calibrated ones. All rows are measured on the same images, and points
count from the float network, seed by seed; the bars of accuracy are held to all validation images. At the end the speed
of layerwise inference against integers and against the literal simulation, in turn. Finished trainings are kept.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch

import convert_snn
from benchmarks.pruning import spread
from benchmarks.spiking_rows import Row, bits_rows, rate_rows, speed, whole
from benchmarks.spiking_tables import Seed, bars_table, leave_files, modes_table, plot_tradeoff
from benchmarks.spiking_training import coco_rows, integers_in, stages_of, trained
from pipeline.conversion_result import ValidationSample
from utils.spiking.cost_words import operations_rows
from pipeline.convert import settled
from pipeline.session import Session, open_session
from utils.reporting.runs import FLOAT, RUNS
from utils import cli
from utils.config.convert import ConvertConfig
from utils.config.run import DATA
from utils.errors import InputError
from utils.numbers import is_whole
from utils.quantization.calibrate import calibrate
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.reporting.record import new_run_folder
from utils.reporting.results import write_rows
from utils.reporting.tables import plain_table
from utils.spiking.synops import measure
from utils.spiking.spike_schedule import encode
from utils.spiking.layerwise import LayerwiseExecutor

log = logging.getLogger(__name__)

PROGRESSIVE = "--quantized google --progressive --epochs 16 --lr 0.01"
SPARSIFY = "--quantized google --w-bit 4 --a-bit 4 --epochs 6 --lr 0.01"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = flags.add_argument
    add("--weights", nargs="+", default=[], help="float networks, one a seed: points count from them")
    add("--seeds", type=cli.whole, nargs="+", default=None, help="of calibration and training (default: 0 1 2 ...)")
    add("--data", default=DATA)
    add("--bits", type=int, nargs="+", default=[8, 4, 3, 2], help="of the activations")
    add("--w-bit", type=int, default=8, help="of the weights, where they are calibrated")
    add("--trained", type=trained_files, nargs="*", default=[], metavar="BITS=FILE[,FILE...]",
        help="integers that were trained for so few bits, one file a seed")  # fmt: skip
    add("--start", nargs="+", default=[], help="networks that training starts from, one a seed (default: --weights)")
    add("--progressive", nargs="?", const=PROGRESSIVE, default="", metavar="FLAGS",
        help=f"train.py makes the integers, with these flags ({PROGRESSIVE})")  # fmt: skip
    add("--sparsify", type=cli.non_negative, nargs="+", default=[], metavar="LAMBDA", help="a table of these instead")
    add("--sparsify-flags", default=SPARSIFY, help=f"of train.py, besides --sparsify ({SPARSIFY})")
    add("--images", type=cli.positive, default=64, help="validation images")
    add("--no-compare", action="store_true", help="leave signed, unsigned and rate neurons out")
    add("--channel-wise", action="store_true", help="rates with a scale for every channel")
    add("--schedule", choices=["spread", "preload"], default="spread", help="how pixels and biases arrive in streams")
    add("--device", default="cpu")
    add("--coco", type=Path, default=None, help="a folder with darknet/ and coco128/: measure those instead")
    return flags


def trained_files(text: str) -> tuple[int, tuple[str, ...]]:
    """``4=a.int.pt,b.int.pt`` as bits and files."""
    bits, equals, files = text.partition("=")
    if not equals or not is_whole(bits) or not all(files.split(",")):
        raise argparse.ArgumentTypeError(f"must be BITS=FILE[,FILE...], got {text}")
    return int(bits), tuple(files.split(","))


def check(args: argparse.Namespace) -> None:
    """One of everything a seed.

    Raises:
        InputError: some files are missing or too many.
    """
    count = len(args.weights)
    if not count:
        raise InputError("--weights: names no network; give float networks, one a seed")
    args.seeds, args.start = args.seeds or list(range(count)), args.start or args.weights
    lists = {"--seeds": args.seeds, "--start": args.start, **{f"--trained {b}=": files for b, files in args.trained}}
    for flag, given in lists.items():
        if len(given) != count:
            raise InputError(f"{flag}: {len(given)} for {count} networks of --weights; give one a seed")


def bench_of(args: argparse.Namespace, number: int) -> Session[ConvertConfig]:
    """The float network of a seed, and the data.

    Raises:
        InputError: it is no float network.
    """
    words = ["--weights", args.weights[number], "--data", args.data, "--device", args.device, "--workers", "0"]
    session = open_session(convert_snn.parser().parse_args([*words, "--seed", str(args.seeds[number])]), scripts=FLOAT)
    session = settled(session)
    if session.loaded.network is None:
        raise InputError(f"{args.weights[number]}: is no float network; give the one that was quantised")
    return session


def integers_of(session: Session[ConvertConfig], args: argparse.Namespace, number: int) -> dict[int, IntegerNetwork]:
    """Of each number of bits: trained if there is such a network, else calibrated.

    Raises:
        InputError: a file or a run holds no integers.
    """
    found: dict[int, IntegerNetwork] = {}
    if args.progressive:
        found |= stages_of(trained(args, args.seeds[number], args.start[number], args.progressive))
    found |= {bits: integers_in(files[number]) for bits, files in args.trained}
    for bits in args.bits:
        if bits not in found:
            assert session.loaded.network is not None
            images = session.training_images(session.config.calibration)
            found[bits] = lower(calibrate(session.loaded.network, images, Scheme(w_bit=args.w_bit, a_bit=bits)))
    return {bits: found[bits] for bits in args.bits}


def one_seed(args: argparse.Namespace, number: int) -> tuple[Seed, dict[int, IntegerNetwork], ValidationSample]:
    """Everything of one network."""
    session = bench_of(args, number)
    sample, networks = ValidationSample.of(session, args.images), integers_of(session, args, number)
    floating = session.headline(session.score(session.loaded.predictor))
    seed = Seed(args.weights[number], [Row(None, "float", session.headline(sample.score(session.loaded.predictor)))])
    for bits, integer in networks.items():
        log.info("%s: %d bits", seed.name, bits)
        made, curves = bits_rows(session, sample, integer, bits, args.schedule, compare=not args.no_compare)
        seed.rows += made
        seed.curves |= {f"{rule}, {bits} bits": c for rule, c in curves.items() if bits == 4 or rule == "st-bif"}
        seed.whole[bits] = whole(session, integer, floating)
    if not args.no_compare:
        made, curves = rate_rows(session, sample, args.channel_wise)
        seed.rows, seed.curves = seed.rows + made, seed.curves | curves
    return seed, networks, sample


def all_modes(args: argparse.Namespace) -> None:
    """The table of all modes, the bars, the pictures and the speed."""
    folder = new_run_folder(RUNS, "bench_spiking", "")
    seeds: list[Seed] = []
    for number in range(len(args.weights)):
        seed, networks, sample = one_seed(args, number)
        seeds.append(seed)
        leave_files(folder, seeds)
    log.info(modes_table(f"{' '.join(args.weights)}, {sample.said}", seeds))
    cost = next(row.cost for row in seeds[0].rows if row.cost)
    log.info("dense: %.3g uJ in fp32, %.3g uJ in int8", cost.energy.ann_fp32 / 1e6, cost.energy.ann_int8 / 1e6)
    log.info(bars_table(seeds, len(sample.session.valid.dataset)))
    bits = 4 if 4 in args.bits else args.bits[0]
    row = seeds[0].row((bits, "layerwise"))
    assert row is not None and row.cost is not None
    title = f"{bits} bits in layerwise mode, {seeds[0].name}: where the operations are"
    log.info(plain_table(title, operations_rows(row.cost)))
    timing = speed(encode(networks[bits]), next(sample.inputs())[:8])
    log.info(plain_table(f"speed at {bits} bits, ms an image", [["", "ms", ""], *timing]))


def spikes_against_map(args: argparse.Namespace) -> None:
    """A line a lambda of ``--sparsify``, layerwise mode; mAP on all validation images."""
    folder = new_run_folder(RUNS, "bench_sparsify", "")
    found: list[dict[str, float]] = []
    for number, seed in enumerate(args.seeds):
        session = bench_of(args, number)
        sample = ValidationSample.of(session, args.images)
        floating = session.headline(session.score(session.loaded.predictor))
        for strength in args.sparsify:
            flags = f"{args.sparsify_flags} --sparsify {strength:g}"
            phase = LayerwiseExecutor(
                encode(next(iter(stages_of(trained(args, seed, args.start[number], flags)).values())))
            )
            cost, score = measure(phase, sample.inputs()), session.headline(session.score(phase))
            numbers = {"map50": score, "points": 100 * (score - floating), "float": floating, "spikes": cost.spikes}
            numbers |= {"sops": cost.sops, "sops_per_mac": cost.sops_per_mac, "energy_pj": cost.energy.spiking_int8}
            found.append({"lambda": strength, "seed": seed, **numbers})
    write_rows(folder / "spikes_against_map.csv", found)
    forms = {"map50": "{:.4f}", "points": "{:+.2f}", "spikes": "{:,.0f}", "sops": "{:,.0f}", "sops_per_mac": "{:.2f}"}
    rows, points = [["lambda", *forms]], []
    for strength in args.sparsify:
        mine = [each for each in found if each["lambda"] == strength]
        rows.append([f"{strength:g}", *(spread([each[name] for each in mine], form) for name, form in forms.items())])
        spikes, score = (sum(each[name] for each in mine) / len(mine) for name in ("spikes", "map50"))
        points.append((f"{strength:g}", spikes, score))
    log.info(plain_table(f"spikes against mAP, {args.sparsify_flags}, layerwise mode", rows))
    line = {"float": sum(each["float"] for each in found) / len(found)}
    plot_tradeoff(folder / "spikes_against_map.png", points, line, "Spikes against mAP@.5, by lambda of --sparsify")
    log.info("picture and csv in %s", folder)


def main() -> None:
    """Measure, print, draw."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if args.coco:
        log.info(plain_table("without training, 8 bits, on coco128's validation images", coco_rows(args.coco)))
        return
    check(args)
    spikes_against_map(args) if args.sparsify else all_modes(args)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
