"""Measure a network: COCO AP, precision, recall, F1 of boxes; top-1, top-5 of classes; mIoU of masks; ms an image.

  python3 test.py                                                 the newest network, on the sample set
  python3 test.py --weights weights/slim_prune_0.8.pt
  python3 test.py --weights weights/slim_prune_0.8.snn.pt         as spikes
  python3 test.py --cfg cfg/yolov3.cfg --weights yolov3.weights --data data/coco.data --save-json
  python3 test.py --task benchmark                                a table over image sizes (boxes: and NMS)

Any kind of checkpoint: .weights (with --cfg), trained, pruned, quantised or spiking; or a model.onnx of export.py onnx,
or with --cfg another program's, of raw maps or of boxes. Leaves record.json, PR curves (boxes), the confusion matrix
and pictures in runs/test[-name].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import cli
from utils.config.measure import TestConfig

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[TestConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", TestConfig)


def run(config: TestConfig) -> Record:
    """Measure as the flags say."""
    from pipeline.measure import measure  # here, since --help needs no torch

    return measure(config)


if __name__ == "__main__":
    cli.main(run, parser())
