"""Every script twice at the same moment, in one folder and under one name, many times: whose files are whose.

  python3 benchmarks/two_runs.py                 each pair 20 times, about 15 minutes on 2 cores
  python3 benchmarks/two_runs.py --times 3

After every round no two records may name one file, each record's digests must be those of its own files, and nothing
temporary may be left (`tests/test_two_runs.py`, which the suite runs a few times).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

from models import Darknet, network_of
from tests.conftest import ROOT
from tests.test_two_runs import CONVERT, HERE, PRUNE, QUANTISE, TRAIN, at_once, check_stamps, furnish, in_turn
from utils.cli import positive
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint

LAYERS = [*HERE, "--weights", "blocks.pt", "--shortcuts", "1", "--force", "--recalibrate", "0", "--name", "w"]
BOTH = [*LAYERS, "--percent", "0.1"]
NET = [*HERE, "--weights", "net.pt", "--name", "w"]
LOOK = ["--weights", "net.pt", "--data", "set.data", "--device", "cpu", "--name", "w", "--source", "images/valid"]
EXPORT = ["c", "--weights", "net.int.pt", "--data", "set.data", "--device", "cpu", "--golden", "1", "--name", "w"]
PAIRS = {
    "train": TRAIN,
    "test": NET,
    "detect": LOOK,
    "normal_prune": PRUNE,
    "regular_prune": PRUNE,
    "shortcut_prune": PRUNE,
    "slim_prune": PRUNE,
    "layer_prune": LAYERS,
    "layer_channel_prune": BOTH,
    "layer_channel_regular_prune": BOTH,
    "quantize": QUANTISE,
    "convert_snn": CONVERT,
    "export": EXPORT,
}


def main() -> None:
    """Run the rounds; the first one that is wrong ends it."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--times", type=positive, default=20)
    flags.add_argument("--only", choices=sorted(PAIRS), nargs="+", default=sorted(PAIRS))
    args = flags.parse_args()
    refused = dict.fromkeys(args.only, 0)
    for _ in tqdm(range(args.times), unit="round"):
        with tempfile.TemporaryDirectory() as folder:
            place = furnish(Path(folder))
            blocks = network_of(Darknet(read_cfg(ROOT / "tests/cfgs/residual.cfg")))
            save_checkpoint(place / "blocks.pt", Checkpoint(blocks, ("blue", "green")))
            if "export" in args.only:
                at_once(place, [("quantize", [*HERE, "--weights", "net.pt", "--calibration", "4"])])
                shutil.copy(place / "weights/net.int.pt", place)
            found, err = in_turn(place, [[(script, PAIRS[script])] * 2 for script in args.only])
            for script, codes in zip(args.only, found, strict=True):
                if not set(codes) <= {0, 2} or "Traceback" in err:
                    raise SystemExit(f"{script}: exit codes {codes}\n{err}")
                refused[script] += codes.count(2)
            check_stamps(place)
    for script, count in refused.items():
        print(f"{script}: {args.times} times two at once, every record its own files; {count} refused in one line")


if __name__ == "__main__":
    main()
