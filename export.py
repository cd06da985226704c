"""Hand a quantised network to hardware: weights, golden vectors, C99, and a verifier that needs only numpy.

  python3 export.py                                               the newest quantised network, for an FPGA
  python3 export.py fpga --weights weights/best.int.pt --golden 4 --tile 64x8
  python3 export.py c --weights weights/best.snn.pt --out export/mcu
  python3 export.py onnx --weights weights/best.int.pt            QDQ, for onnxruntime (requirements-export.txt)
  python3 export.py qonnx --weights weights/best.int.pt           thresholds, for FINN
  python3 export.py fpga --weights weights/pow2.int.pt --target vitis-dpu
  python3 export.py nir --weights weights/best.snn.pt             spikes in NIR's own nodes (requirements-export.txt)
  python3 export.py aer --weights weights/best.snn.pt --golden 1  address events of images: t, x, y, c, sign

Leaves export/<name>/ with manifest.json, weights as npy, bin, mem and coe, golden vectors of every layer, c/ with
`make check`, README.md and verify.py; or nothing, when the folder does not verify. quantize.py and convert_snn.py make
the networks it takes.
"""

from __future__ import annotations

import argparse

from pipeline.export import add_flags, export_script
from utils import cli
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = cli.parser(__doc__ or "")
    add_flags(flags)
    return flags


def run(args: argparse.Namespace) -> Record:
    """Export as the flags say."""
    return export_script(args)


if __name__ == "__main__":
    cli.main(run, parser())
