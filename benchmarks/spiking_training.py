"""The networks that benchmarks/spiking.py trains for itself, and the two COCO networks it converts without training."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.pruning import run_script, sha256_of
from benchmarks.quantisation import coco_runs
from models import load_model
from utils.errors import InputError
from utils.quantization.integer import IntegerNetwork
from utils.reporting.files import sha256
from utils.reporting.record import Record
from utils.spiking.choices import LAYERWISE

MOST_POINTS_COCO = 1.5  # the bar of networks that were not trained for integers


def integers_in(path: str | Path) -> IntegerNetwork:
    """What a file holds.

    Raises:
        InputError: no integers.
    """
    integer = load_model(path).integer
    if integer is None:
        raise InputError(f"{path}: holds no integers; give an .int.pt or .snn.pt")
    return integer


def trained(args: argparse.Namespace, seed: int, start: str, flags: str) -> Record:
    """The record of ``train.py`` with these flags; of the run it already had, if it had one."""
    words = ["--weights", start, "--data", args.data, "--seed", str(seed), "--device", args.device, *flags.split()]
    name = f"spiking{seed}-{Path(args.data).stem}-{sha256_of(f'{flags} {sha256(start)}')}"
    return run_script("train", [*words, "--name", name])


def stages_of(record: Record) -> dict[int, IntegerNetwork]:
    """Bits of the activations -> the integers that a run left for them.

    Raises:
        InputError: it left none.
    """
    found = {integer.scheme.a_bit: integer for integer in map(integers_in, record.paths("*.int.pt"))}
    if not found:
        raise InputError(f"{record.folder}: left no .int.pt; --progressive and --sparsify need train.py --quantized")
    return found


def coco_rows(folder: Path) -> list[list[str]]:
    """Both COCO networks as floats, as 8-bit integers and as layerwise spikes, on coco128's validation images."""
    rows = [["network", "", "mAP@.5", "points", "SOP/MAC", "", f"bar: at most {MOST_POINTS_COCO} points under float"]]
    for name, record in coco_runs(folder, "convert_snn", "--mode", LAYERWISE):
        metrics = record.metrics
        before = metrics["float"]["map50"]
        for stage, row in metrics.items():
            lost, equal = 100 * (before - row["map50"]), row["map50"] == metrics["quantised"]["map50"]
            spiking = stage == "spiking"
            rows.append(
                [
                    name,
                    stage,
                    f"{row['map50']:.4f}",
                    "" if stage == "float" else f"{-lost:+.2f}",
                    f"{row['sops_per_mac']:.2f}" if spiking else "",
                    ("equal to quantised" if equal else "DIFFERS from quantised") if spiking else "",
                    ("holds" if lost <= MOST_POINTS_COCO else "misses") if spiking else "",
                ]
            )
    return rows
