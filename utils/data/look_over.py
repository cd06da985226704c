"""Pictures looked at before they are trained on: each decoded, none stopped at; which of them are there twice."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from tqdm import tqdm

from utils.data.images import UnreadableImageError, image_head, read_image
from utils.data.manifest import Manifest, read_list

SPLITS = ("train", "valid")


@dataclass(kw_only=True)
class LookedAt:
    """One image of a list, with what its file says.

    ``shape`` (height, width) px, None where it can not be decoded. ``turn`` is the EXIF orientation, 1 for none.
    ``content`` and ``pixels`` are digests of the file and of the decoded picture. ``errors`` would stop a training,
    ``warnings`` would not.
    """

    path: Path
    shape: tuple[int, int] | None = None
    content: bytes = b""
    pixels: bytes = b""
    turn: int = 1
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


Item = TypeVar("Item", bound=LookedAt)


def look_over(manifest: Manifest, look: Callable[[Path], Item]) -> dict[str, list[Item]]:
    """Every image of both lists, in their order, each looked at once, on all cores.

    Raises:
        InputError: a list is missing or empty.
    """
    lists = {split: read_list(getattr(manifest, split)) for split in SPLITS}
    paths = list(dict.fromkeys(path for paths in lists.values() for path in paths))
    bar = {"desc": "looking at images", "total": len(paths), "delay": 2, "leave": False, "disable": None}
    # a copy of stderr, because decoding hushes the real one nearly all the time
    with ThreadPoolExecutor(os.cpu_count()) as pool, os.fdopen(os.dup(2), "w") as shown:
        seen = dict(zip(paths, tqdm(pool.map(look, paths), file=shown, **bar), strict=True))
    return {split: [seen[path] for path in paths] for split, paths in lists.items()}


def in_both(splits: Mapping[str, Sequence[Item]], split: str) -> list[Item]:
    """The images of a list that are in the other one too: of the same path, bytes or pixels."""
    others = [seen for each, items in splits.items() if each != split for seen in items]
    known = {key for seen in others for key in (seen.path, seen.content, seen.pixels)} - {b""}
    return [seen for seen in splits[split] if known & {seen.path, seen.content, seen.pixels}]


def duplicates(splits: Mapping[str, Sequence[LookedAt]]) -> Iterator[str]:
    """Images that are in both lists, or twice in one: as a path, as equal bytes, or as equal pixels in another file."""
    for split, items in splits.items():
        for path, times in Counter(seen.path for seen in items).items():
            if times > 1:
                yield f"{split}: {path} is listed {times} times"
    for kind, same in (("bytes", lambda seen: seen.content), ("pixels", lambda seen: seen.pixels)):
        groups: dict[bytes, dict[tuple[str, Path], LookedAt]] = defaultdict(dict)
        for split, items in splits.items():
            for seen in items:
                if same(seen):
                    groups[same(seen)][split, seen.path] = seen
        for group in groups.values():
            if len(group) < 2 or (kind == "pixels" and len({seen.content for seen in group.values()}) < 2):
                continue  # files of equal bytes were told already
            across = len({split for split, _ in group}) > 1
            where = "train and valid share an image" if across else f"twice in {next(iter(group))[0]}"
            yield f"{where} (the same {kind}): {few([str(path) for _, path in group])}"


def found_in(splits: Mapping[str, Sequence[LookedAt]]) -> tuple[list[str], list[str]]:
    """Errors and warnings of single images; before the warnings, which images are there twice."""
    every = [seen for items in splits.values() for seen in items]
    errors = [message for seen in every for message in seen.errors]
    return errors, [*duplicates(splits), *(message for seen in every for message in seen.warnings)]


def absent_classes(names: Sequence[str], counts: Mapping[str, Sequence[int] | NDArray[Any]], what: str) -> list[str]:
    """A warning for each class of which a split has no ``what``; ``counts`` by split and class."""
    absent = [[split for split in counts if not counts[split][number]] for number in range(len(names))]
    return [
        f"class {number} ({names[number]}): no {what} in {' nor '.join(splits)}"
        for number, splits in enumerate(absent)
        if splits
    ]


def few(paths: Sequence[str], most: int = 3) -> str:
    """The first paths in one line, and how many more there are."""
    names = list(dict.fromkeys(paths))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if len(names) > 1 else f"{names[0]}, in both lists"


def with_picture(seen: Item) -> Item:
    """The image's size and digests."""
    try:
        image = read_image(seen.path)
    except UnreadableImageError as error:
        seen.errors.append(str(error))
        return seen
    height, width = image.shape[:2]
    seen.shape = (height, width)
    seen.turn = image_head(seen.path).turn
    seen.content = hashlib.blake2b(seen.path.read_bytes(), digest_size=16).digest()
    seen.pixels = hashlib.blake2b(image.tobytes(), digest_size=16, key=f"{height}x{width}".encode()).digest()
    return seen
