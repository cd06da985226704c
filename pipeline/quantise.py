"""From a float network to integers, for quantize.py and whatever goes on from there."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from pipeline.bench import WEIGHTS, Bench
from pipeline.report import begin, compare
from utils.darknet.network import save_checkpoint
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.intfile import to_checkpoint
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.reporting.files import free_path
from utils.reporting.record import Record, finish_record
from utils.reporting.tables import comparison_table
from utils.spiking.energy import INT8

log = logging.getLogger(__name__)


def quantise(bench: Bench) -> IntegerNetwork:
    """Fold, calibrate on training images, lower to integers; a quantised network comes back as it is.

    Raises:
        InputError: a layer has no integer form, or an accumulator does not fit into 32 bits.
    """
    if bench.loaded.integer is not None:
        log.info("%s is quantised already; --w-bit and --a-bit do not apply", bench.loaded.path)
        return bench.loaded.integer
    assert bench.loaded.network is not None
    args = bench.args
    scheme = Scheme(w_bit=args.w_bit, a_bit=args.a_bit, ranges=args.ranges)
    return lower(calibrate(bench.loaded.network, bench.training_images(args.calibration), scheme))


def save_integer(bench: Bench, integer: IntegerNetwork, kind: str, suffix: str) -> Path:
    """``weights/<stem><suffix>``, under a name that nobody has taken."""
    stem = bench.loaded.path.name.removesuffix(".pt").removesuffix(".weights").removesuffix(".int")
    stem = f"{stem}_{bench.args.name}" if bench.args.name else stem
    meta = {"from": str(bench.loaded.path), "size": list(bench.size)}
    path = free_path(WEIGHTS / f"{stem}{suffix}")
    return save_checkpoint(path, to_checkpoint(integer, kind, bench.manifest.names, meta))


def quantise_script(bench: Bench) -> Record:
    """quantize.py: the integer network, measured and saved."""
    record = begin(bench, "quantize")
    integer = quantise(bench)
    rows, measured = float_row(bench), {}
    path = save_integer(bench, integer, "quantised", ".int.pt")
    executor = IntegerExecutor(integer)
    measured["quantised"] = bench.score(executor)
    rows["quantised"] = bench.numbers(executor, measured["quantised"], integer.spec, path)
    rows["quantised"]["energy_pj"] = rows["quantised"]["macs"] * INT8.mac
    log.info(comparison_table(f"quantised to {bits_of(integer)}", rows))
    compare(bench, measured, record.folder / "detections.jpg")
    return finish_record(record, metrics=rows, outputs=[path, record.folder / "detections.jpg"])


def float_row(bench: Bench) -> dict[str, dict[str, Any]]:
    """The network as it came, when it is a float one."""
    loaded = bench.loaded
    if loaded.network is None:
        return {}
    return {"float": bench.numbers(loaded.predictor, bench.score(loaded.predictor), loaded.spec, loaded.path)}


def bits_of(integer: IntegerNetwork) -> str:
    return f"{integer.scheme.w_bit}-bit weights, {integer.scheme.a_bit}-bit activations"


def add_flags(flags: argparse.ArgumentParser) -> None:
    """The flags of quantisation."""
    flags.add_argument("--cfg", default=None, help="structure of .weights; a .pt carries its own")
    flags.add_argument("--weights", default="", help="what to convert (default: the newest pruned or trained network)")
    flags.add_argument("--w-bit", type=int, default=8, help="bits of the weights, 2 to 8")
    flags.add_argument("--a-bit", type=int, default=4, help="bits of the activations, 2 to 8")
    flags.add_argument("--ranges", choices=["mse", "percentile", "minmax"], default="mse", help="how ranges are chosen")
    flags.add_argument("--calibration", type=int, default=128, help="training images that ranges are measured on")
