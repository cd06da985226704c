"""A teacher beside a training run: opened from the flags, with the unlabelled images it alone judges."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models import load_model
from utils.darknet.network import load_checkpoint
from utils.darknet.shapes import granularity
from utils.darknet.spec import ModelSpec
from utils.data.loader import Loader, make_loader
from utils.data.manifest import Manifest, read_list
from utils.detection.dataset import BoxBatch, DetectionDataset
from utils.distillation.distiller import Distiller
from utils.distillation.strategies import terms_of
from utils.errors import InputError
from utils.training.device import Precision
from utils.training.distributed import Group

log = logging.getLogger(__name__)

HELPERS_SHARE = 0.1  # of the rate: adapters have no batch norm, and SGD at a detector's rate would drive them apart
Loss = Callable[[Any, Any], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Mixed(BoxBatch):
    """A batch whose first ``labelled`` images have targets; the others are for the teacher alone."""

    labelled: int = 0


@dataclass(frozen=True)
class DistillationContext:
    """The teacher as the training loop calls it, the files it came from, and batches of unlabelled images."""

    distiller: Distiller
    files: tuple[Path, ...]
    extra: Loader | None = None

    def watching(self, model: nn.Module) -> AbstractContextManager[None]:
        """The context of the student's forward pass."""
        return self.distiller.watching(model)

    def __call__(self, images: Tensor, outputs: Any, batch: Any) -> Mapping[str, Tensor]:
        """The teacher's terms of a batch."""
        return self.distiller(images, outputs, batch.targets, getattr(batch, "labelled", None))

    def parameters(self) -> list[nn.Parameter]:
        """Adapters and generators, which train along and are not part of the network."""
        return self.distiller.parameters()

    def state(self) -> dict[str, Tensor]:
        """What ``--resume`` needs of them."""
        return self.distiller.helpers.state_dict()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with them.

        Raises:
            InputError: they are not those of this teacher.
        """
        try:
            self.distiller.helpers.load_state_dict(state)
        except RuntimeError as error:
            raise InputError("resume: the checkpoint is of another teacher; give the one it began with") from error

    def close(self) -> None:
        """End the workers that read unlabelled images."""
        if self.extra:
            self.extra.close()

    def join(self, train: Loader, loss: Loss, epoch: int, *, mosaic: bool) -> tuple[Any, Loss]:
        """The batches of an epoch with unlabelled images beside the labelled, and the loss of the labelled."""
        if self.extra is None:
            return train, loss
        return _Joined(train, self.extra, epoch, mosaic), lambda raw, batch: loss(
            [head[: batch.labelled] for head in raw], batch
        )


def teaching_of(
    args: argparse.Namespace,
    student: ModelSpec,
    manifest: Manifest,
    size: tuple[int, int],
    precision: Precision,
    batch_size: int,
    group: Group,
) -> DistillationContext | None:
    """The teacher the flags name; None where they name none.

    Raises:
        InputError: flags are missing or contradict each other, or nothing can be distilled.
    """
    kd, weights = args.kd, args.t_weights
    terms = terms_of(kd)
    if not terms:
        if weights or args.t_data:
            raise InputError(
                "--t_weights, --t_data: a teacher without a strategy; add --KDstr 1 to 5, or cwd, mgd, ..."
            )
        return None
    path = Path(weights or _origin(args.weights, kd))
    args.t_weights = str(path)  # saved with the flags and in the record
    if not path.is_file():
        raise InputError(f"--t_weights {path}: no such file; give the teacher's .pt or .weights")
    if path.suffix != ".pt" and not args.t_cfg:
        raise InputError(f"--t_weights {path}: Darknet weights need their structure; add --t_cfg")
    kind = load_checkpoint(path).kind if path.suffix == ".pt" else "float"
    if kind != "float":
        raise InputError(f"--t_weights {path}: a {kind} network can not teach; give the float one it was made of")
    loaded = load_model(path, args.t_cfg)
    _check_sizes(args, student, loaded.spec, size)
    distiller = Distiller(
        student,
        precision.place(loaded.predictor),
        loaded.spec,
        terms,
        weight=args.kd_weight,
        autocast=precision.autocast,
        mean=group.mean,
    )
    precision.place(distiller.helpers)
    log.info("teacher %s, --KDstr %s (%s): %s", path, kd, ", ".join(distiller.terms), distiller.message)
    files = (path, *([Path(args.t_cfg)] if args.t_cfg else []))
    return DistillationContext(distiller, files, _unlabelled(args, manifest, size, student, batch_size, group))


def add_helpers(optimizer: Optimizer, teaching: DistillationContext | None, lr: float) -> None:
    """Give the optimizer what trains along with the network, at a share of its rate."""
    if teaching and teaching.parameters():
        rate = lr * HELPERS_SHARE if isinstance(optimizer, torch.optim.SGD) else lr
        group = {"name": "teacher", "params": teaching.parameters(), "weight_decay": 0.0}
        optimizer.add_param_group({**group, "lr": rate, "initial_lr": rate})


class _Joined:
    """Labelled batches, each followed by as many unlabelled images; every epoch has others of them.

    Which they are depends on (seed, epoch) alone, as it does for the labelled.
    """

    def __init__(self, train: Loader, extra: Loader, epoch: int, mosaic: bool) -> None:
        self._train, self._extra, self._epoch, self._mosaic = train, extra, epoch, mosaic

    def __len__(self) -> int:
        return len(self._train)

    def __iter__(self) -> Iterator[Mixed]:
        extra = self._endless()
        for batch in self._train:
            other = next(extra)
            images = other.images
            if images.shape[2:] != batch.images.shape[2:]:  # --multi-scale
                pixels = nn.functional.interpolate(images.float(), batch.images.shape[2:], mode="bilinear")
                images = pixels.round().to(torch.uint8)
            both = torch.cat((batch.images, images.to(memory_format=torch.channels_last)))
            yield Mixed(
                images=both,
                targets=batch.targets,
                indices=batch.indices,
                letterboxes=batch.letterboxes,
                labelled=len(batch.images),
                gaps=batch.gaps,
            )

    def _endless(self) -> Iterator[BoxBatch]:
        rounds = -(-len(self._train) // len(self._extra))  # an epoch of the labelled takes so many of the others
        for number in count(self._epoch * rounds):
            self._extra.set_epoch(number, mosaic=self._mosaic)
            yield from self._extra


def _origin(weights: str, kd: str) -> str:
    """The network that a pruned one was made of, which its checkpoint names: the nearest teacher it can have."""
    meta = load_checkpoint(weights).meta if Path(weights).suffix == ".pt" else {}
    if "from" not in meta:
        raise InputError(f"--KDstr {kd}: no teacher, and {weights or 'this network'} was not pruned; add --t_weights")
    return str(meta["from"])


def _unlabelled(
    args: argparse.Namespace,
    manifest: Manifest,
    size: tuple[int, int],
    student: ModelSpec,
    batch_size: int,
    group: Group,
) -> Loader | None:
    """Batches of ``--t_data``, augmented as the labelled are."""
    if not args.t_data:
        return None
    if args.rect:
        raise InputError("--t_data: its images have not the sizes of --rect's batches; leave one of them away")
    place = Path(args.t_data)
    images = read_list(place)
    with tempfile.TemporaryDirectory() as folder:  # of labels: none but an empty file, so that none are looked for
        (Path(folder) / f"{images[0].stem}.txt").touch()
        bare = replace(manifest, labels=Path(folder))
        dataset = DetectionDataset(
            place,
            bare,
            size,
            augment=True,
            cache=args.cache,
            seed=args.seed + 1,
            channels=student.channels,
            grey=args.gray_scale,
            unreadable="replace",
        )
    log.info("%s: %d unlabelled images, the teacher's alone", place, len(images))
    share, batch = (group.rank, group.size), min(batch_size, len(images))
    return make_loader(dataset, batch, workers=args.workers, shuffle=True, seed=args.seed + 1, share=share)


def _check_sizes(args: argparse.Namespace, student: ModelSpec, teacher: ModelSpec, size: tuple[int, int]) -> None:
    """See that the teacher takes every size of image the student is trained on."""
    step = granularity(teacher)
    if any(side % step for side in size):
        high, wide = size
        raise InputError(
            f"teacher: images of {high}x{wide} px do not divide by its largest stride, {step}; use another --img-size"
        )
    if (args.multi_scale or args.rect) and granularity(student) % step:
        raise InputError(f"teacher: takes multiples of {step} px only; leave --multi-scale and --rect away")
