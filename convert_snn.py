"""Convert a network into spikes: quantise to integers, encode them as spikes, prove both the same, count the cost.

  python3 convert_snn.py                                          the newest pruned or trained network
  python3 convert_snn.py --weights weights/best.pt --w-bit 8 --a-bit 4
  python3 convert_snn.py --cfg cfg/mine.cfg --weights mine.weights --data data/mine.data --a-bit 8
  python3 convert_snn.py --mode stream                            all layers at once; mAP at every step
  python3 convert_snn.py --mode stream --early-exit 20            answers after 20 steps, as good as it is by then
  python3 convert_snn.py --mode stream --neuron signed            the neurons of Fast-SNN at T = L, to compare
  python3 convert_snn.py --mode stream --neuron unsigned --finetune    layer by layer, as Fast-SNN does
  python3 convert_snn.py --mode rate --timesteps 128 --percentile 99.999 --channel-wise --reset subtract

layerwise: a layer waits for its window of L steps, then fires as many spikes as its level says; exact. stream: every
layer runs in every step, signed neurons take back what was too early; exact once nothing fires any more. rate: float
weights and firing rates, as older converters do; approximate. --finetune brings modes that are not exact nearer, on
training images; the exact ones need none, and their rows stand beside. Leaves weights/<name>.snn.pt, which test.py and
detect.py run in its mode, and in runs/convert_snn the record, pictures and tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import cli
from utils.config.convert import ConvertConfig

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[ConvertConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", ConvertConfig)


def run(config: ConvertConfig) -> Record:
    """Convert as the config says."""
    from pipeline.convert import convert  # here, since --help needs no torch
    from pipeline.session import open_session
    from utils.reporting.runs import FLOAT

    return convert(open_session(config, scripts=FLOAT)).record


if __name__ == "__main__":
    cli.main(run, parser())
