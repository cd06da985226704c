"""Quantise a trained network to pure integers, without training: ranges from some training images.

  python3 quantize.py                                             the newest pruned or trained network
  python3 quantize.py --weights weights/best.pt --w-bit 8 --a-bit 8
  python3 quantize.py --weights weights/best.pt --ranges cosine --calibration 256
  python3 quantize.py --weights weights/best.pt --FPGA --a-bit 8              scales that are powers of two
  python3 quantize.py --weights weights/best.pt --bits auto --max-drop 0.01   as few bits a layer as that allows
  python3 quantize.py --weights weights/best.pt --bits auto --budget size=0.5 --max-drop 0.03
  python3 quantize.py --weights weights/best.pt --data pictures/  a folder of images without labels: nothing is measured
  python3 quantize.py --weights weights/best.pt --target vitis-dpu            what export.py --target vitis-dpu takes
  python3 quantize.py --weights weights/best.pt --target zynq7020             and what a frame takes on the engine there

Leaves weights/<name>.int.pt, which test.py, detect.py and convert_snn.py take, and in runs/quantize the record. A
network that was trained quantised is packed as it is. --bits auto leaves bits.csv, bits.png and bits.txt too, which
--bits-map of this script and of train.py reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import cli
from utils.config.quantise import PtqConfig

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[PtqConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", PtqConfig)


def run(config: PtqConfig) -> Record:
    """Quantise as the config says."""
    from pipeline.quantise import quantise  # here, since --help needs no torch
    from pipeline.session import open_session
    from utils.reporting.runs import FLOAT

    return quantise(open_session(config.for_target, scripts=FLOAT, bare=True)).record


if __name__ == "__main__":
    cli.main(run, parser())
