"""A network and its data opened from the flags, measured the same way by every script."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import Loaded, load_model
from utils.darknet.counts import count
from utils.darknet.shapes import granularity
from utils.darknet.spec import Detect, ModelSpec
from utils.data.dataset import Cache, DetectionDataset
from utils.data.loader import Batch, Loader, make_loader
from utils.data.manifest import Manifest, read_manifest
from utils.data.sample import prepare_if_sample
from utils.detection.evaluate import Metrics, evaluate
from utils.errors import InputError
from utils.reporting.files import file_bytes
from utils.reporting.latency import measure_latency
from utils.reporting.record import Record, latest_record
from utils.spiking.energy import FP32
from utils.training.device import select_device

log = logging.getLogger(__name__)

RUNS, WEIGHTS = Path("runs"), Path("weights")
PRUNED = "normal_prune regular_prune shortcut_prune slim_prune layer_prune layer_channel_prune"
FLOAT = f"{PRUNED} train"  # scripts that leave a float network behind
ANY = f"convert_snn quantize {PRUNED} train"  # scripts that leave a network behind
BATCH = 16  # images at once, when neither cfg nor flag says


@dataclass(frozen=True)
class Session:
    """What a script works on: the network it was given, and the data it is measured and calibrated on."""

    args: argparse.Namespace
    loaded: Loaded
    manifest: Manifest
    size: tuple[int, int]
    valid: Loader
    device: torch.device

    @property
    def meta(self) -> dict[str, Any]:
        """What a network made of this one remembers of it."""
        meta = {"from": str(self.loaded.path), "size": list(self.size)}
        return meta | ({"gray_scale": True} if self.args.gray_scale else {})

    @property
    def heads(self) -> list[Detect]:
        """The detection heads, in cfg order."""
        return heads_of(self.loaded.spec)

    def score(self, predictor: nn.Module) -> Metrics:
        """COCO metrics on the validation images, fp32."""
        conf, iou = getattr(self.args, "conf_thres", 0.001), getattr(self.args, "iou_thres", 0.6)
        names = self.manifest.names
        return evaluate(
            predictor.to(self.device), self.valid, self.heads, names, conf=conf, iou=iou, device=self.device
        )

    def training_images(self, images: int) -> list[Tensor]:
        """Batches [N, C, H, W] in 0..1 of the first so many training images of a seeded order, not augmented."""
        batches = self.training_batches(-(-images // self.valid.batch_size))
        return [each.images.to(memory_format=torch.channels_last).float() / 255 for each in batches]

    def training_batches(self, count: int) -> Iterator[Batch]:
        """The first so many training batches of a seeded order, with their boxes, not augmented."""
        dataset = dataset_of(self.args, self.manifest, self.loaded.spec, self.size, self.manifest.train, cache="off")
        loader = make_loader(dataset, self.valid.batch_size, workers=0, shuffle=True, seed=self.args.seed)
        yield from islice(loader, count)

    def numbers(self, predictor: nn.Module, metrics: Metrics, spec: ModelSpec, path: Path | None) -> dict[str, Any]:
        """A stage's row, by the record's names; the energy is an fp32 network's unless the caller knows better."""
        counts = count(spec, self.size)
        latency = measure_latency(predictor, self.size, channels=spec.channels, seconds=2.0, device=self.device)
        return {
            **metrics.record(),
            "params": counts.params,
            "macs": counts.macs,
            "bytes": file_bytes(path) if path else None,
            "latency_ms": latency.median,
            "energy_pj": counts.macs * FP32.mac,
        }


def open_session(args: argparse.Namespace, *, scripts: str = "", sparse: bool = False) -> Session:
    """Load ``--weights`` (by default the newest network that fits) and ``--data``.

    Args:
        args: the script's flags.
        scripts: names, separated by spaces; the newest network that one of them left is the default of ``--weights``.
        sparse: only training runs with ``-sr`` count.

    Raises:
        InputError: a file is missing, or weights, cfg and data do not belong together.
    """
    weights = Path(args.weights) if args.weights else newest(scripts, sparse=sparse)
    loaded = load_model(weights, getattr(args, "cfg", None))
    prepare_if_sample(args.data)
    manifest = read_manifest(args.data)
    check_classes(loaded, manifest)
    show_grey(args, grey=loaded.grey)
    size = image_size(args.img_size, loaded.spec, loaded.size)
    device = select_device(args.device)
    dataset = dataset_of(args, manifest, loaded.spec, size, manifest.valid)
    rect = granularity(loaded.spec) if getattr(args, "rect", False) else 0
    valid = make_loader(dataset, args.batch_size or batch_size(loaded.spec), workers=args.workers, rect=rect)
    return Session(args, loaded, manifest, size, valid, device)


def show_grey(args: argparse.Namespace, *, grey: bool) -> None:
    """Set ``--gray-scale`` where the network was trained on grey images; in colour it would score wrong, silently."""
    if grey and not args.gray_scale:
        log.info("--gray-scale, as it was trained")
        args.gray_scale = True


def output_of(record: Record | None, *patterns: str) -> Path | None:
    """The network a run left behind, if it is still there: what fits the patterns (all of ours), earlier ones first."""
    paths = [path for pattern in patterns or ("*.pt",) for path in record.paths(pattern)] if record else []
    return next((path for path in paths if path.is_file()), None)


def newest(scripts: str, *, sparse: bool = False, output: Callable[[Record | None], Path | None] = output_of) -> Path:
    """The network that the newest finished run of one of these scripts left; of a training run the last epoch's.

    Args:
        scripts: names, separated by spaces; the last one is what the error asks for.
        sparse: only training runs with ``-sr`` count.
        output: the file of a run that is wanted, if it left such a one.

    Raises:
        InputError: there is none.
    """

    def fits(record: Record) -> bool:
        return record.script in scripts.split() and (not sparse or bool(record.args.get("sparse")))

    record = latest_record(RUNS, "*", lambda found: fits(found) and output(found) is not None)
    path = output(record)
    if path is None or record is None:
        flag = " -sr" if sparse else ""
        first = scripts.split()[-1]
        raise InputError(
            f"no finished run of {first}.py{flag} in {RUNS}/; run python3 {first}.py{flag} first, or give --weights"
        )
    log.info("--weights %s, the newest (%s)", path, record.folder)
    return path


def heads_of(spec: ModelSpec) -> list[Detect]:
    """The detection heads, in cfg order."""
    return [layer for layer in spec.layers if isinstance(layer, Detect)]


def batch_size(spec: ModelSpec) -> int:
    """Images at once as [net] says: batch / subdivisions, where batch is that of a training cfg."""
    return max(1, spec.batch // spec.subdivisions) if spec.batch > 1 else BATCH


def dataset_of(
    args: argparse.Namespace,
    manifest: Manifest,
    spec: ModelSpec,
    size: tuple[int, int],
    images: Path,
    *,
    augment: bool = False,
    cache: Cache | None = None,
) -> DetectionDataset:
    """The images of a list as this network takes them."""
    return DetectionDataset(
        images,
        manifest,
        size,
        augment=augment,
        cache=cache or args.cache,
        seed=args.seed,
        channels=spec.channels,
        grey=args.gray_scale,
    )


def image_size(given: Sequence[int] | None, spec: ModelSpec, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """(height, width) in px from ``--img-size``, or else what the network was made for.

    Raises:
        InputError: more than two numbers, or no multiple of the network's largest stride.
    """
    if given and len(given) > 2:
        raise InputError(f"--img-size: {len(given)} numbers; give one side, or height and width")
    height, width = (given[0], given[-1]) if given else default or (spec.height, spec.width)
    step = granularity(spec)
    if height % step or width % step:
        raise InputError(f"--img-size: {height}x{width} px do not divide by {step}, the network's largest stride")
    return height, width


def check_classes(loaded: Loaded, manifest: Manifest) -> None:
    """Refuse data with another number of classes than the network's heads."""
    for head in heads_of(loaded.spec):
        if head.classes != manifest.classes:
            raise InputError(
                f"{loaded.path}: detects {head.classes} classes, {manifest.path} has {manifest.classes}; "
                f"give the --data it was trained on, or train it for these: train.py -pt --weights {loaded.path}"
            )
