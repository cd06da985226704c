"""What is left of a float network when neurons have taken the place of its activations, before any training.

  python3 benchmarks/neuron_start.py --weights weights/last.pt

Rows: the float network; ilif neurons whose highest level is the highest value that a layer sent on the calibration
images; ilif of the threshold 1, lif that reset to 0 and forget three fourths a step, as a cfg has them that says no
more; ilif and lif as train.py --spiking fits them, lif also as --at-rest does.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait

from models import build
from pipeline.images import CALIBRATION
from pipeline.session import open_session
from utils import cli
from utils.config.measure import TestConfig
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.darknet.neuron_cfg import with_neurons, with_rates, with_thresholds
from utils.quantization.histogram import collect
from utils.quantization.neuron_start import fitted
from utils.reporting.runs import FLOAT
from utils.reporting.tables import plain_table

LEVELS, STEPS = 4, 4


def run(config: TestConfig) -> None:
    """Print the table."""
    session = open_session(config, scripts=FLOAT)
    net = session.loaded.network
    assert net is not None
    images = session.training_images(CALIBRATION)
    ilif, lif = with_neurons(net.spec, "ilif", 1, levels=LEVELS), with_neurons(net.spec, "lif", STEPS)
    found = collect(fold_bn(net), images, ilif.neurons)
    highest = {i: float(each.high.max()) / LEVELS for i, each in found.items()}
    made = {
        "float": net,
        f"ilif, D = {LEVELS}, a D-th of the highest value": Network(with_thresholds(ilif, highest), net.state),
        f"ilif, D = {LEVELS}, threshold 1": Network(ilif, net.state),
        f"ilif, D = {LEVELS}, fitted": fitted(Network(ilif, net.state), lambda twin: images)[0],
        f"lif, T = {STEPS}, reset to 0": Network(lif, net.state),
        f"lif, T = {STEPS}, fitted, membranes from 0": fitted(
            Network(with_rates(lif, start=0.0), net.state), lambda twin: images
        )[0],
        f"lif, T = {STEPS}, fitted": fitted(Network(with_rates(lif), net.state), lambda twin: images)[0],
    }
    scores = [[name, f"{session.headline(session.score(build(each))):.4f}"] for name, each in made.items()]
    print(plain_table(f"{config.weights}, before training", [["", session.heading], *scores]))


def parser() -> cli.Parser[TestConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", TestConfig)


if __name__ == "__main__":
    cli.main(run, parser())
