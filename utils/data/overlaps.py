"""What is looked for whenever a set is opened: images that share an answer's file or are in both lists, or are turned.

An answer is what stands beside an image: the label file of its boxes, its mask. Classes have none.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from utils.data.images import UnreadableImageError, image_head
from utils.data.manifest import Manifest, read_list
from utils.data.recordings import holds_recordings
from utils.data.text import read_bytes
from utils.errors import InputError

log = logging.getLogger(__name__)

MOST = 20_000  # images of which contents are compared when a set is opened; of larger ones ``utils.data check`` does
Answer = Callable[[Path, Manifest], Path]  # the file of an image's answer, whether it is there or not


def check_lists(manifest: Manifest, answer: Answer | None = None, what: str = "labels", *, turn: bool = True) -> None:
    """Refuse images that share the file of their answer; tell once of those in both lists, or turned by EXIF.

    Args:
        manifest: the set.
        answer: where an image's is; None where the images have none beside them.
        what: answers are called.
        turn: whether nobody knows which way up the answers are.

    Raises:
        InputError: a list is wrong, or two images have the same answer.
    """
    lists = [path.stat() for path in (manifest.train, manifest.valid)]
    _checked(manifest, answer, what, turn, tuple((each.st_size, each.st_mtime_ns) for each in lists))


@functools.lru_cache(maxsize=64)
def _checked(manifest: Manifest, answer: Answer | None, what: str, turn: bool, stamps: object) -> None:
    train, valid = read_list(manifest.train), read_list(manifest.valid)
    if answer and not holds_recordings(manifest.train):
        several = shared([*train, *valid], manifest, answer)
        if several:
            path, (first, second, *_) = next(iter(several.items()))
            raise InputError(
                f"{first}, {second}: both would have the {what} of {path} ({len(several)} such files in "
                f"{manifest.path}); rename one of each and its file of {what}, or take one from the list"
            )
        turned = turned_by_exif([*train, *valid]) if turn else []
        if turned:
            log.warning(
                "%s: EXIF turns %d images, first %s; their %s must be of the picture as it is shown; "
                "python3 -m utils.data check names all",
                manifest.path, len(turned), turned[0], what,
            )  # fmt: skip
    both = leaks(train, valid)
    if both:
        log.warning(
            "%s: %d of %d images to validate on are trained on too, by content, first %s; so the scores are too good; "
            "python3 -m utils.data check names all",
            manifest.path, len(both), len(valid), both[0],
        )  # fmt: skip


def shared(images: Iterable[Path], manifest: Manifest, answer: Answer) -> dict[Path, list[Path]]:
    """The answers' files that are of more than one image, and which: a/1.jpg and b/1.jpg, or a.jpg and a.png."""
    users: dict[Path, list[Path]] = defaultdict(list)
    for image in dict.fromkeys(images):
        users[answer(image, manifest)].append(image)
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


def turned_by_exif(images: Sequence[Path]) -> list[Path]:
    """The images that EXIF turns; of a set that is too large for that, none."""
    return [] if len(images) > MOST else [image for image in images if _turn(image) != 1]


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
        return hashlib.blake2b(read_bytes(path), digest_size=16).digest()
    except InputError:
        return os.urandom(16)  # like no other
