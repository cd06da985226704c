"""Hand a quantised network to hardware: weights, golden vectors, C99, and a verifier that needs only numpy.

  python3 export.py                                               the newest quantised network, for an FPGA
  python3 export.py fpga --weights weights/best.int.pt --golden 4 --tile 64x8
  python3 export.py fpga --engine integer                         and the whole network in SystemVerilog
  python3 export.py fpga --engine integer --target zynq7020 --target-fps 30   the smallest array that is so fast
  python3 export.py c --weights weights/best.snn.pt --out export/mcu
  python3 export.py onnx --weights weights/best.int.pt            QDQ, for onnxruntime (requirements-export.txt)
  python3 export.py onnx --float --decode --weights weights/best.pt   the float network, boxes out
  python3 export.py darknet --weights weights/best.pt             cfg, weights and names, for Darknet and OpenCV
  python3 export.py qonnx --weights weights/best.int.pt           thresholds, for FINN
  python3 export.py qonnx --for hls4ml --layers 6 --weights weights/pow2.int.pt   a folder that hls4ml opens (or finn)
  python3 export.py fpga --weights weights/pow2.int.pt --target vitis-dpu
  python3 export.py nir --weights weights/best.snn.pt             for simulators that read NIR (requirements-export.txt)
  python3 export.py aer --weights weights/best.snn.pt --golden 1  address events of images: t, x, y, c, sign

Leaves export/<name>/ with manifest.json, weights as npy, bin, mem and coe, golden vectors of every layer, c/ with
`make check`, README.md and verify.py; or nothing, when the folder does not verify. quantize.py and convert_snn.py make
the networks it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import cli
from utils.config.export import ExportConfig

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[ExportConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", ExportConfig)


def run(config: ExportConfig) -> Record:
    """Export as the config says."""
    from pipeline.export import export, open_network  # here, since --help needs no torch

    return export(open_network(config)).record


if __name__ == "__main__":
    cli.main(run, parser())
