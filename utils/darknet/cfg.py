"""Read and write Darknet cfg files; the only module that knows relative layer numbers."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

from utils.darknet import spec as s
from utils.darknet.antialiasing import check_readers, parted
from utils.darknet.cfg_layers import READERS
from utils.darknet.cfg_schema import (
    KEYS,
    LOSSES,
    NET_SECTIONS,
    NEURON,
    NO_PLACE,
    NO_SEQUENCE,
    RECURRENT,
    SECOND_NAMES,
)
from utils.darknet.neuron_cfg import check_net, read_neuron
from utils.darknet.sections import Section, nearest, split_sections
from utils.darknet.shapes import channels, uneven_sums
from utils.darknet.sharing import check_shared, shared
from utils.darknet.writer import write_cfg
from utils.errors import InputError
from utils.files import no_file

log = logging.getLogger(__name__)


LONGEST = 8_000_000  # bytes of a cfg; the largest known one has 60 kB
MOST_SECTIONS = 10_000  # the largest known one has 500


def read_cfg(path: str | Path) -> s.ModelSpec:
    """Read a cfg file; what Darknet reads otherwise than it stands there is told, once.

    Raises:
        InputError: no such file, or anything `parse_cfg` refuses.
    """
    reason = no_file(path)
    if reason:
        raise InputError(f"{path}: cannot read this cfg ({reason}); check --cfg")
    try:
        if Path(path).stat().st_size > LONGEST:
            raise InputError(f"{path}: more than {LONGEST // 10**6} MB, which is no cfg; check --cfg")
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot read this cfg ({error.strerror}); check --cfg") from error
    spec, notes = _parse(text, str(path))
    for note in notes:
        _tell(note)
    return spec


@cache
def _tell(note: str) -> None:
    """Once in a process: scripts read a cfg more than once."""
    log.info("%s", note)


def parse_cfg(text: str, name: str = "cfg") -> s.ModelSpec:
    """Turn the text of a cfg into a ModelSpec and check that its layers fit together.

    Raises:
        InputError: an unknown section, key or activation (with the nearest known word), a value that is no number,
            a reference to a layer that is not there, widths that do not fit; always with file and line.
    """
    return _parse(text, name)[0]


def _parse(text: str, name: str) -> tuple[s.ModelSpec, list[str]]:
    sections = split_sections(text, name)
    if not sections or sections[0].kind not in NET_SECTIONS:
        raise InputError(f"{name} line {sections[0].line if sections else 1}: a cfg starts with [net]")
    if len(sections) > MOST_SECTIONS:
        raise InputError(f"{name}: {len(sections):,} sections; a cfg has at most {MOST_SECTIONS:,}, use a smaller one")
    net = sections[0]
    _check_kinds(sections)
    net.check_words(KEYS["net"])
    layers = _layers(sections, net)
    said = tuple((k, v) for k, (_, v) in net.options.items() if k not in NEURON)
    spec = s.ModelSpec(layers=tuple(layers), net=said, neuron=read_neuron(net, ""))
    for key in ("width", "height", "channels", "batch", "subdivisions"):
        net.integer(key, 1, least=1)
    net.integer("letter_box", 0)
    check_net(net, spec)
    wide, uneven = channels(spec, name), list(uneven_sums(spec))
    notes = [note for section in sections for note in section.notes]
    check_shared(spec, wide, name)
    if uneven:
        first = spec.layers[uneven[0]]
        given = " and ".join(str(wide[j]) for j in first.sources)
        notes.append(
            f"{name} line {first.line}: a shortcut of maps of other shapes ({given} channels; {len(uneven)} in all) "
            "adds what both have, as in Darknet"
        )
    return spec, notes


def _layers(sections: list[Section], net: Section) -> list[s.Layer]:
    """The layers of the sections behind [net], in order."""
    layers: list[s.Layer] = []
    last: list[int] = []  # of each section the layer that gives its output
    for section in sections[1:]:
        section.before = tuple(last)
        _check_kind(section)
        if section.kind in LOSSES:
            _skip_loss(section, last=section is sections[-1])
            continue
        made, options = READERS[section.kind](section, layers, net), section.passive()
        for layer in made if isinstance(made, tuple) else (made,):
            one = shared(section, layer, layers)
            check_readers(section, one, layers)
            layers += parted(section, replace(one, options=options), len(layers))
            options = ()  # of a section that is several layers the first has its other keys
        last.append(len(layers) - 1)
    return layers


def _check_kind(section: Section) -> None:
    """Refuse a section that is none of a layer, or has keys that its kind has not."""
    if section.kind not in READERS:
        raise InputError(f"{section.place}: unknown section [{section.kind}]{nearest(section.kind, READERS)}")
    section.check_words(KEYS[section.kind])


def _check_kinds(sections: list[Section]) -> None:
    """Refuse by name, before any of their keys, what has no place, and Darknet's recurrent cfgs, which read letters."""
    for section in sorted(sections[1:], key=lambda section: section.kind != "detection"):  # what YOLOv1 is, first
        section.kind = SECOND_NAMES.get(section.kind, section.kind)
        recurrent = section.kind in RECURRENT and sections[-1].kind != "sequence"
        why = NO_SEQUENCE if recurrent else NO_PLACE.get(section.kind)
        if why:
            raise InputError(f"{section.place}: [{section.kind}] {why}")


def _skip_loss(sec: Section, *, last: bool) -> None:
    """A loss of Darknet's; ours is the task's, so it is no layer."""
    if not last:
        raise InputError(f"{sec.place}: [{sec.kind}] is read as the last section only; delete it, {LOSSES[sec.kind]}")
    sec.notes.append(f"{sec.place}: [{sec.kind}] is not used; {LOSSES[sec.kind]}")


__all__ = ["nearest", "parse_cfg", "read_cfg", "write_cfg"]
