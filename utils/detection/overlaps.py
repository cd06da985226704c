"""What is looked for whenever a set is opened: images that share a label file or are in both lists, or are turned."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.data.images import UnreadableImageError, image_head
from utils.data.manifest import Manifest
from utils.detection.label_writer import NOTES
from utils.detection.labels import label_path

MOST = 20_000  # images of which contents are compared when a set is opened; of larger ones ``utils.data check`` does


def shared_labels(images: Iterable[Path], manifest: Manifest) -> dict[Path, list[Path]]:
    """The label files that are those of more than one image, and which: a/1.jpg and b/1.jpg, or a.jpg and a.png."""
    users: dict[Path, list[Path]] = defaultdict(list)
    for image in dict.fromkeys(images):
        users[label_path(image, manifest.labels)].append(image)
    several = {label: paths for label, paths in users.items() if len(paths) > 1 and label.is_file()}
    return {label: paths for label, paths in several.items() if len({os.path.realpath(path) for path in paths}) > 1}


def leaks(train: Sequence[Path], valid: Sequence[Path]) -> list[Path]:
    """The images to validate on that are trained on too: the same file, or one of the same bytes."""
    trained = {os.path.realpath(path) for path in train}
    if len(train) + len(valid) > MOST:
        return [path for path in valid if os.path.realpath(path) in trained]
    sizes = defaultdict(list)
    for path in train:
        sizes[_size(path)].append(path)
    known: dict[int, set[bytes]] = {}
    found = []
    for path in valid:
        size = _size(path)
        if os.path.realpath(path) in trained:
            found.append(path)
        elif size >= 0 and size in sizes:
            if size not in known:
                known[size] = {_digest(each) for each in sizes[size]}
            found += [path] if _digest(path) in known[size] else []
    return found


def turned_by_exif(images: Sequence[Path], manifest: Manifest) -> list[Path]:
    """The images that EXIF turns, of a set whose labels were not made of annotations that say which way they are."""
    if len(images) > MOST or (manifest.train.parent / NOTES).is_file():
        return []
    return [image for image in images if _turn(image) != 1]


def _turn(path: Path) -> int:
    try:
        return image_head(path).turn
    except UnreadableImageError:  # that is told where it is read
        return 1


def _size(path: Path) -> int:
    """Bytes of a file, -1 where there is none; that is told where it is read."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _digest(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:
        return os.urandom(16)  # like no other
