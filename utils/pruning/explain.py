"""The wires of a network as a table: which layers go together, what is locked, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from utils.darknet.channel_groups import ChannelGroups
from utils.darknet.spec import ModelSpec

HEADING = ("layers", "cfg lines", "channels", "state", "reason")
SHOWN = 4  # layers of a long chain that are written out


def explain(wires: ChannelGroups, spec: ModelSpec) -> list[list[str]]:
    """Rows of texts, the first one a heading, for `reporting.tables.plain_table`.

    A row is a group of wires with the same story: the convolutions with batch norm that it runs through, how many wires
    it is, and whether they are ``free``, ``tied`` (several layers share them: the strategy's tie decides) or
    ``locked`` (they stay). Wires that no such convolution makes (the image, a head's own) have no layers.
    """
    return [list(HEADING), *(_row(group, spec) for group in groups(wires))]


def _row(group: ChannelGroup, spec: ModelSpec) -> list[str]:
    state = "locked" if group.locked else "tied" if group.tied else "free"
    lines = [spec.layers[i].line for i in group.layers]
    return [_few(group.layers), _few(lines), f"{group.wires:,}", state, _why(group)]


def _few(numbers: Sequence[int]) -> str:
    if len(numbers) <= SHOWN:
        return ", ".join(map(str, numbers)) or "-"
    return f"{', '.join(map(str, numbers[: SHOWN - 1]))} … {numbers[-1]} ({len(numbers)})"


def _why(group: ChannelGroup) -> str:
    """The reasons of a kind in one: ``tied by a shortcut (lines 66, 87 and 6 more)``."""
    places: dict[str, list[str]] = {}
    for reason in group.reasons:
        place, _, fact = reason.partition(": ")
        if not fact:
            place, fact = "", reason
        places.setdefault(fact, []).append(place.removeprefix("cfg line "))
    return "; ".join(_message(fact, found) for fact, found in places.items()) or "-"


def _message(fact: str, places: list[str]) -> str:
    if places == [""]:
        return fact
    if len(places) == 1:
        return f"{fact} (cfg line {places[0]})"
    more = f" and {len(places) - 2} more" if len(places) > 2 else ""
    return f"{fact} (lines {', '.join(places[:2])}{more})"


@dataclass(frozen=True)
class ChannelGroup:
    """Wires with the same story: the layers they run through as outputs of voters, and why they stay or are tied."""

    layers: tuple[int, ...]
    wires: int
    locked: bool
    tied: bool
    reasons: tuple[str, ...]


def groups(wires: ChannelGroups) -> list[ChannelGroup]:
    """The wires as few lines: all that share their layers and reasons are one group, in order of first layer."""
    stories: list[list[tuple[int, int]]] = [[] for _ in range(wires.count)]  # of each wire: (0, layer) or (1, reason)
    for i in wires.voters:
        for w in set(wires.outputs[i].tolist()):
            stories[w].append((0, i))
    for k, reason in enumerate(wires.reasons):
        for w in reason.wires.tolist():
            stories[w].append((1, k))
    counts = Counter((tuple(story), bool(wires.locked[w]), bool(wires.tied[w])) for w, story in enumerate(stories))
    found = [
        ChannelGroup(
            layers=tuple(i for kind, i in story if kind == 0),
            wires=n,
            locked=locked,
            tied=tied,
            reasons=tuple(wires.reasons[k].text for kind, k in story if kind == 1),
        )
        for (story, locked, tied), n in counts.items()
    ]
    return sorted(found, key=lambda g: (g.layers or (-1,), g.reasons))
