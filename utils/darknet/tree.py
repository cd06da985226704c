"""A hierarchy of classes, YOLO9000's: a file with a line a class, its name and the number of its parent (-1: none).

Classes that stand together and have one parent are a group; one of a group is chosen, then one of the group below it.

Source: Redmon and Farhadi, YOLO9000, section 4 (arXiv 1612.08242); read_tree in Darknet's tree.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from utils.errors import InputError

Parents = tuple[int, ...]


def read_tree(said: str, cfg: str, place: str) -> Parents:
    """The parents of a file that ``tree=`` says, in the current folder, beside the cfg or in the folder above that.

    Raises:
        InputError: it is in none of them, or no such tree.
    """
    above = [Path(), Path(cfg).parent, Path(cfg).parent.parent]
    found = next((path for path in (folder / said for folder in above) if path.is_file()), None)
    if found is None:
        raise InputError(
            f"{place}: tree={said} is neither in this folder, beside the cfg, nor in the folder above it; put "
            "Darknet's file there"
        )
    lines = [line.split() for line in found.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    parents = []
    for n, words in enumerate(lines):
        try:
            parents.append(int(words[1]))
        except (ValueError, IndexError):
            raise InputError(f"{found} line {n + 1}: a line has a name and the number of its parent") from None
    return checked(parents, str(found))


def checked(parents: Sequence[int], place: str) -> Parents:
    """The parents, of which each is a class before, and names one group.

    Raises:
        InputError: they are no such tree.
    """
    firsts = [parent for parent, _ in groupby(parents)]
    if not firsts or firsts[0] != -1 or len(firsts) != len(set(firsts)):
        raise InputError(f"{place}: a tree begins with classes of parent -1, and all of one parent stand together")
    wrong = next((n for n, parent in enumerate(parents) if not -1 <= parent < n), None)
    if wrong is not None:
        raise InputError(f"{place}: class {wrong} has parent {parents[wrong]}; it is -1 or a class before it")
    return tuple(parents)


@lru_cache(maxsize=8)
def groups(parents: Parents) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The group of each class, and the group below each class (-1: it has none)."""
    number: dict[int, int] = {}
    own = tuple(number.setdefault(parent, len(number)) for parent in parents)
    return own, tuple(number.get(i, -1) for i in range(len(parents)))
