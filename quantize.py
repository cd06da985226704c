"""Quantise a trained network to pure integers, without training: ranges from some training images.

  python3 quantize.py                                             the newest pruned or trained network
  python3 quantize.py --weights weights/best.pt --w-bit 8 --a-bit 8
  python3 quantize.py --weights weights/best.pt --ranges percentile --calibration 256

Leaves weights/<name>.int.pt, which test.py, detect.py and convert_snn.py take, and in runs/quantize the record.
"""

from __future__ import annotations

import argparse

from pipeline.bench import FLOAT, open_bench
from pipeline.quantise import add_flags, quantise_script
from utils import cli
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = cli.parser(__doc__ or "")
    add_flags(flags)
    return flags


def run(args: argparse.Namespace) -> Record:
    """Quantise as the flags say."""
    return quantise_script(open_bench(args, scripts=FLOAT))


if __name__ == "__main__":
    cli.main(run, parser())
