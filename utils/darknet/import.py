"""A state dict that torchvision published as a network of ours: tensors are found by name.

  python3 -m utils.darknet.import resnet18.pth --cfg cfg/classes/resnet18.cfg --names imagenet.names
  python3 -m utils.darknet.import vgg16.safetensors --cfg cfg/classes/vgg16.cfg --out weights/vgg16.pt --batch-norm

Reads resnet18, resnet34, alexnet, vgg16 and their like; nothing in a file is executed. The pictures' mean and deviation
go into the first convolution, so that the network takes pictures in 0..1 as all of ours do; --mean 0 --std 1 leaves
the weights as they are. --batch-norm puts batch norm behind layers that have none (alexnet, vgg16): the same function,
and what pruning judges channels by. What comes out starts test.py, detect.py, train.py -pt, pruning and quantisation.
"""

# ruff: noqa: N999  # the name by which it is called; what it does stands in foreign_state.py

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from utils.cli import OneLineParser
from utils.endings import ended, say
from utils.errors import InputError
from utils.files import no_file


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = OneLineParser(
        prog="python3 -m utils.darknet.import",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("state", type=Path, help="a state dict, .pth or .safetensors")
    flags.add_argument("--cfg", type=Path, required=True, help="its structure; it is only read")
    flags.add_argument("--names", type=Path, default=None, help="a file of its classes, one a line (default: none)")
    flags.add_argument("--out", type=Path, default=None, help="the new file (default: weights/STATE.pt)")
    flags.add_argument("--mean", type=float, nargs="+", default=None, help="of its pictures in 0..1 (ImageNet's)")
    flags.add_argument("--std", type=float, nargs="+", default=None, help="their deviation (ImageNet's)")
    flags.add_argument("--batch-norm", action="store_true", help="put batch norm behind layers that have none")
    return flags


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit code is 2 when the input is wrong."""
    return ended(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        return run(**vars(parser().parse_args(arguments)))
    except OSError as error:  # of a file that a person named: in no folder, or in one that is none
        raise InputError(f"{error.filename}: {error.strerror}; make room or allow it") from error


def run(
    state: Path,
    cfg: Path,
    names: Path | None,
    out: Path | None,
    mean: list[float] | None,
    std: list[float] | None,
    batch_norm: bool,
) -> int:
    """Read, write, say what was made; the arguments are the flags.

    Raises:
        InputError: the file, the cfg or the names do not belong together.
    """
    from utils.darknet.cfg import read_cfg  # here, since --help needs no torch
    from utils.darknet.fold import unfold_bn
    from utils.darknet.foreign_state import MEAN, STD, as_network, read_state
    from utils.darknet.heads import class_count
    from utils.darknet.network import Checkpoint, save_checkpoint
    from utils.files import take

    spec = read_cfg(cfg)
    means, deviations = _three(mean, MEAN, "--mean", spec.channels), _three(std, STD, "--std", spec.channels)
    if min(deviations) <= 0:
        raise InputError(f"--std: {min(deviations):g} must be above 0; leave it away for ImageNet's")
    network = as_network(read_state(state), spec, str(state), means, deviations)
    if batch_norm:
        made = unfold_bn(network)
        if len(made.spec.normed) == len(spec.normed):
            raise InputError(f"--batch-norm: every layer of {cfg} has it but the output, which has none; leave it away")
        network = made
    classes = _classes(names, class_count(spec), cfg) if names else ()
    (path,) = (out,) if out else take(Path("weights") / f"{state.stem}.pt")
    if path.exists():
        raise InputError(f"{path}: exists already; choose another --out")
    meta = {"from": str(state), "size": [spec.height, spec.width], "resize": spec.resize_here}
    save_checkpoint(path, Checkpoint(network, classes, meta=meta))
    params = sum(tensor.numel() for key, tensor in network.state.items() if "running" not in key)
    say(f"{path}: {len(spec.kernels)} layers with weights, {params:,} parameters, found by name")
    return 0


def _classes(names: Path, count: int, cfg: Path) -> tuple[str, ...]:
    """The lines of a file of names."""
    if reason := no_file(names):
        raise InputError(f"{names}: {reason}; give a file of classes, one a line")
    try:
        lines = names.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{names}: is not UTF-8; save it as UTF-8") from None
    classes = tuple(line.strip() for line in lines if line.strip())
    if len(classes) != count:
        raise InputError(f"{names}: {len(classes)} names, {cfg} has {count} classes; name each")
    return classes


def _three(given: list[float] | None, usual: tuple[float, ...], flag: str, channels: int) -> tuple[float, ...]:
    """One number a channel; a single one stands for all."""
    values = tuple(given) if given is not None else usual
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise InputError(
            f"{flag}: {len(values)} numbers, the cfg's pictures have {channels} channels; give one or {channels}"
        )
    if not all(abs(value) < 1e6 for value in values):
        raise InputError(f"{flag}: {values} must be finite numbers; leave it away for ImageNet's")
    return values


if __name__ == "__main__":
    sys.exit(main())
