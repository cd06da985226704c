"""Maps as the Darknet program itself computes them: its library, asked section by section and for what pruning leaves.

  apt-get install darknet                                   the first Darknet (2018), as Debian has it
  python3 benchmarks/darknet_library.py                     each section and activation that it knows, alone
  python3 benchmarks/darknet_library.py cfg/yolov3-spp.cfg  the head maps of cfgs, and of what each strategy leaves
  python3 benchmarks/darknet_library.py --library ~/darknet/libdarknet.so cfg/yolov4.cfg

Weights are random. What is told is the largest difference, as a share of the largest value; the exit status is 1 where
one is above 1e-4. What a library does not know it says on its own, and goes on with something else: the one of 2018 has
no mish, no swish, no slices of a route and no stride_x.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import numpy as np
import torch

from benchmarks.cfgs import as_narrow_as_goes, image, prune
from benchmarks.random_network import random_network
from models import build
from pipeline.prune import STRATEGIES
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.network import Network
from utils.darknet.weights import write_weights
from utils.endings import ended
from utils.errors import InputError

LIBRARY = Path("/usr/lib/darknet/libdarknet.so")
SAME = 1e-4

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation={}\n"
FIRST = CONV.format(5, 1, "leaky")
SUM = "[shortcut]\nfrom=0\nactivation=linear\n"
SECTIONS = {
    "sum": FIRST * 2 + SUM,
    "sum with a wider map": CONV.format(8, 1, "leaky") + FIRST + SUM,
    "sum with a narrower map": FIRST + CONV.format(8, 1, "leaky") + SUM,
    "sum with a larger map": FIRST + CONV.format(5, 2, "leaky") + SUM,
    "sum with a smaller map": CONV.format(5, 2, "leaky") + "[upsample]\nstride=2\n" + FIRST + SUM,
    "sides that are odd": CONV.format(5, 2, "leaky") * 4,
    "groups": CONV.format(6, 1, "leaky") + CONV.format(8, 1, "leaky\ngroups=2"),
    "pools": FIRST + "".join(f"[maxpool]\nsize={k}\nstride={n}\n" for k, n in ((3, 2), (2, 1), (5, 1))),
    "pool with padding": FIRST + "[maxpool]\nsize=3\nstride=2\npadding=1\n",
    "reorg": CONV.format(8, 1, "leaky") + "[reorg]\nstride=2\n",
    "reorg of stride 1": FIRST + "[reorg]\nstride=1\n",
    "route": FIRST * 2 + "[route]\nlayers=-1,0\n",
    "crop": "[crop]\ncrop_height=20\ncrop_width=20\n" + FIRST,
    "average": FIRST + "[avgpool]\n",
    "dropout": FIRST + "[dropout]\n" + FIRST,
    "connected": FIRST + "[connected]\noutput=6\nbatch_normalize=1\n[connected]\noutput=6\nactivation=linear\n",
    "activation alone": FIRST + "[activation]\nactivation=relu\n",
    **{
        name: CONV.format(5, 1, name) * 2
        for name in "elu hardtan leaky lhtan linear loggy logistic plse ramp relie relu selu stair tanh".split()
    },
}


def opened(path: Path) -> ctypes.CDLL:
    """The library, with the types of the two functions that every fork has.

    Raises:
        InputError: it is not there, or is no Darknet's.
    """
    try:
        library = ctypes.CDLL(str(path))
        for name in ("load_network", "set_batch_network"):
            getattr(library, name)
    except (OSError, AttributeError) as error:
        raise InputError(
            f"{path}: no library of Darknet's ({error}); apt-get install darknet, or --library FILE"
        ) from error
    library.load_network.restype, library.load_network.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int],
    )
    library.set_batch_network.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def apart(library: ctypes.CDLL, net: Network, x: torch.Tensor) -> float:
    """The largest difference of the last layer's values, as a share of the largest of ours."""
    size = {"height": str(x.shape[2]), "width": str(x.shape[3]), "batch": "1", "subdivisions": "1"}
    net = Network(replace(net.spec, net=tuple((dict(net.spec.net) | size).items())), net.state)
    predict = getattr(library, "network_predict_ptr", library.network_predict)  # the first one has no such twin
    predict.restype, predict.argtypes = ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p, ctypes.c_void_p]
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        cfg, weights = Path(place) / "net.cfg", Path(place) / "net.weights"
        cfg.write_text(write_cfg(net.spec))
        write_weights(weights, net)
        theirs = library.load_network(str(cfg).encode(), str(weights).encode(), 0)
        library.set_batch_network(theirs, 1)
        given = np.ascontiguousarray(x[0].numpy())
        ours = build(net).activations(x)[len(net.spec.layers) - 1].flatten().numpy()
        found = np.ctypeslib.as_array(predict(theirs, given.ctypes.data), shape=ours.shape)
        return float(np.abs(found - ours).max() / np.abs(ours).max())


def heads(net: Network) -> list[Network]:
    """The network up to each layer that a head reads; up to its end where it has no head."""
    last = sorted({net.spec.layers[i].sources[0] for i in net.spec.heads}) or [len(net.spec.layers) - 1]
    return [
        Network(
            replace(net.spec, layers=net.spec.layers[: end + 1]),
            {key: value for key, value in net.state.items() if int(key.split(".")[1]) <= end},
        )
        for end in last
    ]


def of_cfg(library: ctypes.CDLL, spec: s.ModelSpec) -> dict[str, float | str]:
    """A difference for the network and for what each strategy leaves of it, or why nothing is left."""
    net, found = random_network(as_narrow_as_goes(spec)), dict[str, float | str]()
    x = image(spec)
    for name in ("full", *STRATEGIES):
        try:
            small = net if name == "full" else prune(net, name)
            found[name] = max(apart(library, one, x) for one in heads(small))
        except InputError as error:
            found[name] = str(error).partition(":")[0]
    return found


def main() -> int:
    """Print a row a section, or a cfg; exit with 1 where one differs."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("cfgs", type=Path, nargs="*", help="cfgs (default: each section alone)")
    flags.add_argument("--library", type=Path, default=LIBRARY, help=f"Darknet's library (default {LIBRARY})")
    args = flags.parse_args()
    library, found = opened(args.library), dict[str, float | str]()
    for path in args.cfgs:
        found |= {f"{path} {name}": value for name, value in of_cfg(library, read_cfg(path)).items()}
    for name, text in {} if args.cfgs else SECTIONS.items():
        net = random_network(parse_cfg("[net]\nwidth=24\nheight=24\nchannels=3\n" + text))
        found[name] = apart(library, net, torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(3)))
    for name, value in found.items():
        print(f"| {name} | {value if isinstance(value, str) else f'{value:.1e}'} |", flush=True)
    return int(any(not isinstance(value, str) and not value < SAME for value in found.values()))


if __name__ == "__main__":
    sys.exit(ended(main, "darknet_library.py"))
