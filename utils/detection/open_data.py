"""What ``--data`` may name: a ``.data`` file, a data.yaml, or a folder as other tools leave it, see ``layouts.py``."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from utils.data import manifest as files
from utils.data.manifest import Manifest, read_list
from utils.data.recordings import check_keys, holds_recordings
from utils.detection.dvs_sample import prepare_if_dvs
from utils.detection.layouts import Found, of_yaml, recognise
from utils.detection.overlaps import leaks, shared_labels, turned_by_exif
from utils.detection.sample import prepare_if_sample
from utils.errors import InputError

log = logging.getLogger(__name__)


def open_data(place: Path | str) -> Manifest:
    """Read and check a ``.data`` file or a folder; the embedded sample set is composed first where it is named.

    Raises:
        InputError: something in it is missing, unknown or contradicts itself; the message says what and the remedy.
    """
    prepare_if_sample(place)
    prepare_if_dvs(place)
    manifest, words = _read(Path(place))
    lists = [path.stat() for path in (manifest.train, manifest.valid)]
    _look_over(
        manifest,
        f"{place}: recognised as {words}" if words else "",
        tuple((each.st_size, each.st_mtime_ns) for each in lists),
    )
    return manifest


def read_manifest(place: Path | str) -> Manifest:
    """Read and check a ``.data`` file, or a folder that is laid out as a set.

    Raises:
        InputError: something in it is missing, unknown or contradicts itself; the message says what and the remedy.
    """
    return _read(Path(place))[0]


def _read(path: Path) -> Found:
    """The set, and what a folder or a data.yaml was recognised as; "" for a ``.data`` file."""
    if path.is_dir():
        return recognise(path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return of_yaml(path)
    return files.read_manifest(path), ""


@functools.lru_cache(maxsize=64)
def _look_over(manifest: Manifest, recognised: str, stamps: object) -> None:
    """Refuse images that share a label file; tell once what was recognised, and of images that are in both lists.

    Raises:
        InputError: a list is wrong, or two images read the same labels.
    """
    train, valid = read_list(manifest.train), read_list(manifest.valid)
    if recognised:
        counts = f"{len(train)} images to train on, {len(valid)} to validate on, {manifest.classes} classes"
        log.info("%s: %s", recognised, counts, extra={"always": True})
    recordings = holds_recordings(manifest.train)
    check_keys(manifest, recordings=recordings)
    shared = {} if recordings else shared_labels([*train, *valid], manifest)
    if shared:
        label, (first, second, *_) = next(iter(shared.items()))
        raise InputError(
            f"{first}, {second}: both would have the boxes of {label} ({len(shared)} such files in {manifest.path}); "
            "rename one of each and its label file, or take one from the list"
        )
    both, turned = leaks(train, valid), [] if recordings else turned_by_exif([*train, *valid], manifest)
    if turned:
        log.warning(
            "%s: EXIF turns %d images, first %s; their labels must be of the picture as it is shown; "
            "python3 -m utils.data check names all",
            manifest.path, len(turned), turned[0],
        )  # fmt: skip
    if both:
        log.warning(
            "%s: %d of %d images to validate on are trained on too, by content, first %s; so the scores are too good; "
            "python3 -m utils.data check names all",
            manifest.path, len(both), len(valid), both[0],
        )  # fmt: skip
