"""A float network as Darknet's own files: cfg, weights, names; read back before anybody else does."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.network import Network
from utils.darknet.ops import activation_of, facts
from utils.darknet.weights import Header, read_weights, tensors, write_weights
from utils.errors import InputError
from utils.export.package import whole_folder
from utils.files import write_text, writing

log = logging.getLogger(__name__)

OURS = {"h_swish": "h_swish", "hard_sigmoid": "gates", "leaky_pow2": "leaky-pow2"}  # no Darknet has them -> --act
SECTIONS = frozenset(  # of Darknet, of those that a network here may have
    """convolutional connected crop maxpool avgpool local_avgpool upsample route shortcut scale_channels sam reorg
    reorg3d dropout activation yolo Gaussian_yolo yolo_bdp region softmax""".split()
)


def export_darknet(
    out: Path, stem: str, network: Network, names: Sequence[str], *, told: Path | None = None
) -> list[Path]:
    """Write ``<stem>.cfg``, ``.weights`` and ``.names`` into the new folder ``out``; or nothing.

    ``told``: what is logged is called so, where the files go on to another place.

    Raises:
        InputError: ``out`` exists, or the files do not read back as they were.
    """
    with whole_folder(out) as folder:
        cfg, weights, listed = (folder / f"{stem}.{kind}" for kind in ("cfg", "weights", "names"))
        cfg.write_text(write_cfg(network.spec), encoding="utf-8")
        write_weights(weights, network)
        listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        spec = read_cfg(cfg)
        found = read_weights(weights, spec).state
        if spec != network.spec or not all(
            torch.equal(found[key], network.state[key].float()) for _, key, _ in tensors(spec)
        ):
            raise InputError(f"{out}: does not read back as it was; nothing was written, please report this network")
    for line in unknown_to_darknet(network.spec):
        log.warning("%s", line)
    files = [out / each.name for each in (cfg, weights, listed)]
    log.info("%s: read back and equal", told or ", ".join(map(str, files)))
    return files


def darknet_files(checkpoint: Path) -> tuple[Path, Path]:
    """The ``.weights`` and the ``.cfg`` that stand beside a checkpoint."""
    return checkpoint.with_suffix(".weights"), checkpoint.with_suffix(".cfg")


def write_beside(checkpoint: Path, network: Network, seen: int) -> None:
    """The network of a checkpoint as ``.weights`` and ``.cfg`` beside it; ``seen``: images it was trained on."""
    weights, cfg = darknet_files(checkpoint)
    write_weights(weights, network, Header(seen=seen))
    write_text(cfg, write_cfg(network.spec))


def write_files(weights: Path, network: Network, names: Sequence[str]) -> list[Path]:
    """``weights``, and beside it its ``.cfg`` and ``.names``: all three, read back and equal, or none.

    Raises:
        InputError: the files do not read back as they were.
    """
    files = [weights, *(weights.with_suffix(f".{kind}") for kind in ("cfg", "names"))]
    with tempfile.TemporaryDirectory() as folder:
        made = export_darknet(Path(folder) / "made", "net", network, names, told=weights)
        for path in files:
            source = next(each for each in made if each.suffix == path.suffix)
            with writing(path) as temporary:
                shutil.copyfile(source, temporary)
    return files


def unknown_to_darknet(spec: s.ModelSpec) -> list[str]:
    """What of a network only this program reads, one line each kind; Darknet and OpenCV stop there."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, layer in enumerate(spec.layers):
        activation, section = activation_of(layer), facts(layer).section
        if activation in OURS:
            found.setdefault((f"activation={activation}", OURS[activation]), []).append(i)
        if section == "se":
            found.setdefault(("[se]", "gates"), []).append(i)
        elif section not in SECTIONS:
            found.setdefault((f"[{section}]", ""), []).append(i)
        if i in spec.neurons:
            found.setdefault((f"activation={activation}", ""), []).append(i)
    return [
        f"{what} of layers {', '.join(map(str, at))}: no Darknet reads that, Darkspike does"
        + (f"; train.py --weights ... --act relu={word} makes a network that Darknet reads" if word else "")
        for (what, word), at in found.items()
    ]
