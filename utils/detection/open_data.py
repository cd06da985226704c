"""What ``--data`` may name: a ``.data`` file, a data.yaml, or a folder as other tools leave it, see ``layouts.py``."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from utils.data import manifest as files
from utils.data.manifest import Manifest, read_list
from utils.data.overlaps import check_lists
from utils.data.recordings import check_keys, of_recordings
from utils.detection.dvs_sample import prepare_if_dvs
from utils.detection.label_writer import NOTES
from utils.detection.labels import label_of
from utils.detection.layouts import Found, of_yaml, recognise
from utils.detection.sample import prepare_if_sample

log = logging.getLogger(__name__)


def open_data(place: Path | str) -> Manifest:
    """Read and check a ``.data`` file or a folder; the embedded sample set is composed first where it is named.

    Raises:
        InputError: something in it is missing, unknown or contradicts itself; the message says what and the remedy.
    """
    prepare_if_sample(place)
    prepare_if_dvs(place)
    manifest, words = _read(Path(place))
    if words:
        _tell(manifest, f"{place}: recognised as {words}")
    check_keys(manifest, recordings=of_recordings(manifest))
    check_lists(manifest, label_of, "boxes", turn=not (manifest.train.parent / NOTES).is_file())
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
def _tell(manifest: Manifest, recognised: str) -> None:
    """Say once what a folder was recognised as."""
    train, valid = read_list(manifest.train), read_list(manifest.valid)
    counts = f"{len(train)} images to train on, {len(valid)} to validate on, {manifest.classes} classes"
    log.info("%s: %s", recognised, counts, extra={"always": True})
