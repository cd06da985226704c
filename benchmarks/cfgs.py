"""Which cfgs are read, and what can be done with them.

  python3 benchmarks/cfgs.py cfg                       all that we ship
  python3 benchmarks/cfgs.py ~/darknet/cfg ~/others    those of other projects, at any depth
  python3 benchmarks/cfgs.py cfg --check               each one written and read again, beside OpenCV, pruned, quantised

Without --check every cfg below the folders is read; those refused stand in groups of one reason. With it a network of
random weights (an eighth of the channels, the smallest image) goes through every room; a cell says ok, what OpenCV's
heads differ by, "refused", whose reasons follow the table, or "wrong", which is a mistake of ours.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import cv2
import torch

from benchmarks.random_network import narrow, random_network
from models import build
from pipeline.prune import STRATEGIES
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.cfg_moves import extra_values
from utils.darknet.heads import head_convolutions
from utils.darknet.implicit import fold_implicit
from utils.darknet.network import Network
from utils.darknet.shapes import granularity
from utils.darknet.sharing import untied
from utils.darknet.weights import write_weights
from utils.errors import InputError
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.blocks import blocks, some_blocks
from utils.pruning.choices import Beta
from utils.pruning.layer_plan import plan_layers
from utils.pruning.layers import drop
from utils.pruning.plan import plan_channels
from utils.quantization.calibrate import calibrate
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.spike_schedule import encode

MOVERS = (s.MaxPool, s.AvgPool, s.Upsample, s.Route, s.ScaleChannels, s.Product, s.Dropout, s.Yolo, s.Region)
OPENCV_ACTIVATIONS = {"linear", "leaky", "relu", "mish", "swish", "logistic", "tanh"}
LEAST = 64  # px of a side; OpenCV's depthwise convolutions are wrong by 1e-3 on maps one px high
SAME = 1e-3  # of the largest value of a head
PERCENT = 0.5
WRONG = "wrong"
NET = re.compile(r"^\s*\[net(work)?\]", re.MULTILINE)


class WrongError(Exception):
    """A check that does not hold: no refusal, but a mistake of ours."""


def read_all(folders: list[Path]) -> dict[Path, s.ModelSpec | str]:
    """Every cfg of Darknet's below the folders, or the reason of its refusal."""
    found: dict[Path, s.ModelSpec | str] = {}
    paths = [p for folder in folders for p in ([folder] if folder.is_file() else sorted(folder.rglob("*.cfg")))]
    for path in paths:
        if not NET.search(path.read_text(errors="replace")):
            continue  # a setup.cfg, say
        try:
            found[path] = read_cfg(path)
        except InputError as error:
            found[path] = str(error)
    return found


def reason(message: str) -> str:
    """A refusal without its place: what many cfgs share."""
    return re.sub(r"^.*? line \d+: ", "", message)


def written(net: Network) -> str:
    """Whether reading what is written gives the same layers."""
    if parse_cfg(write_cfg(net.spec)) != net.spec:
        raise WrongError("what was written is read as something else; please report this cfg")
    return "ok"


def beside_opencv(net: Network) -> str:
    """The largest difference of OpenCV's raw heads from ours, as a share of the largest value."""
    unknown = unknown_to_opencv(net.spec)
    if unknown is not None:
        return f"no {type(unknown).__name__}"
    if not net.spec.heads:
        return "no output"
    x = image(net.spec)
    size = {"height": str(x.shape[2]), "width": str(x.shape[3])}
    spec = replace(net.spec, net=tuple((dict(net.spec.net) | size).items()))
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        cfg, weights = Path(place) / "net.cfg", Path(place) / "net.weights"
        cfg.write_text(write_cfg(spec))
        write_weights(weights, net)
        reader = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
        reader.setInput(x.numpy())
        theirs = reader.forward([f"conv_{i}" for i in head_convolutions(spec).values()])
        ours = build(net)(x)
    apart = max(float((a - torch.from_numpy(b)).abs().max() / a.abs().max()) for a, b in zip(ours, theirs, strict=True))
    if apart > SAME:
        raise WrongError(f"OpenCV's heads differ by {apart:.1e} of the largest value; please report this cfg")
    return f"{apart:.0e}"


def prune(net: Network, name: str, percent: float = PERCENT) -> Network:
    """What a strategy leaves: ``percent`` of the channels it judges are under its threshold, one block goes.

    Raises:
        InputError: there is nothing for the strategy to take out.
    """
    script, small = STRATEGIES[name], net
    if script.tie is not None:
        multiple = 8 if "regular" in name else 1
        plan = plan_channels(net, percent=percent, tie=script.tie, floor=0.1, multiple=multiple)
        small, _ = settle_and_cut(net, plan, Beta.CARRIER)
    if name.startswith("layer"):
        some_blocks(small.spec)
        small = drop(small, plan_layers(small, n=1))
    return small


def pruned(net: Network, name: str) -> str:
    """A strategy's cut, written and read, beside OpenCV where it knows the sections."""
    if name.startswith("layer") and not blocks(net.spec):
        return "no block"
    small = prune(net, name)
    written(small)
    beside_opencv(small)
    return "ok"


def quantised(net: Network) -> str:
    """Integers of 8 bits."""
    scheme = Scheme(a_bit=8, equalise=False, correct_bias=False, ranges="minmax")
    lower(calibrate(net, [image(net.spec)], scheme))
    return "ok"


def converted(net: Network) -> str:
    """Spikes that are those integers."""
    scheme = Scheme(a_bit=4, equalise=False, correct_bias=False, ranges="minmax")
    encode(lower(calibrate(net, [image(net.spec)], scheme)))
    return "ok"


CHECKS: dict[str, Callable[[Network], str]] = {
    "written": written,
    "OpenCV": beside_opencv,
    **{name: (lambda net, name=name: pruned(net, name)) for name in STRATEGIES},  # type: ignore[misc]
    "integers": quantised,
    "spikes": converted,
}


def image(spec: s.ModelSpec) -> torch.Tensor:
    """One of n / 255, as small as the strides allow; of the cfg's own size where a layer is made for that."""
    side = -(-LEAST // granularity(spec)) * granularity(spec)
    own = any(
        isinstance(layer, s.Connected | s.Crop | s.Recurrent)
        or (isinstance(layer, s.Fitted) and extra_values(spec, i, layer))
        for i, layer in enumerate(spec.layers)
    )
    size = (spec.height, spec.width) if own else (side, side)
    x = torch.randint(0, 256, (1, spec.channels, *size), generator=torch.Generator().manual_seed(1))
    return x.float() / 255


def check(spec: s.ModelSpec) -> tuple[dict[str, str], list[str]]:
    """A cell a check, and the refusals in full."""
    net, cells, told = random_network(as_narrow_as_goes(spec)), {}, []
    opened = fold_implicit(untied(net))  # as every script but train.py opens it
    for name, one in CHECKS.items():
        try:
            cells[name] = one(net if one is written else opened)
        except (InputError, WrongError) as error:
            cells[name] = WRONG if isinstance(error, WrongError) else "refused"
            told.append(f"{name}: {error}")
    return cells, told


def as_narrow_as_goes(spec: s.ModelSpec) -> s.ModelSpec:
    """An eighth of the channels, or more where slices and blocks of channels would not be whole."""
    for times in (8, 4, 2):
        try:
            return narrow(spec, times)
        except InputError:
            continue
    return spec


def unknown_to_opencv(spec: s.ModelSpec) -> s.Layer | None:
    """The first layer that OpenCV's reader has not, or takes otherwise than Darknet does."""
    return next((layer for layer in spec.layers if not _opencv_knows(layer)), None)


def _opencv_knows(layer: s.Layer) -> bool:
    """Whether its reader takes such a section as Darknet does: one stride in it, one source of a slice."""
    if isinstance(layer, s.Conv):
        plain = layer.stride[0] == layer.stride[1] and layer.dilation == 1
        return plain and layer.activation in OPENCV_ACTIVATIONS
    if isinstance(layer, s.Route):
        return layer.groups == 1 or len(layer.sources) == 1
    if isinstance(layer, s.Shortcut):
        return not layer.weighted and len(layer.sources) == 2
    return isinstance(layer, MOVERS) and not isinstance(layer, s.GaussianYolo | s.TurnedYolo)


def main() -> int:
    """Print what is read and what is refused; exit with 1 where something is refused, or a check fails."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folders", type=Path, nargs="*", default=[Path("cfg")], help="cfgs, or folders of them")
    flags.add_argument("--check", action="store_true", help="take a random network of each through every room")
    args = flags.parse_args()
    found = read_all(args.folders)
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, spec in found.items():
        if isinstance(spec, str):
            groups[reason(spec)].append(path)
    for why, paths in sorted(groups.items(), key=lambda group: -len(group[1])):
        print(f"refused {len(paths)}: {why}\n    {', '.join(map(str, paths))}")
    good = {path: spec for path, spec in found.items() if not isinstance(spec, str)}
    print(f"read {len(good)} of {len(found)} cfgs")
    if args.check:
        print("| cfg | " + " | ".join(CHECKS) + " |\n|---" * 1 + "|---" * len(CHECKS) + "|")
    refusals, wrong = [], False
    for path, spec in good.items() if args.check else ():
        cells, told = check(spec)
        print(f"| {path} | " + " | ".join(cells.values()) + " |", flush=True)
        refusals += [f"{path}: {line}" for line in told]
        wrong |= WRONG in cells.values()
    print("\n".join(refusals))
    return int(bool(groups) or wrong)


if __name__ == "__main__":
    sys.exit(main())
