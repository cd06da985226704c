"""Read and write Darknet cfg files; the only module that knows relative layer numbers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.shapes import channels
from utils.darknet.words import KEYS, NET_SECTIONS, PASSIVE
from utils.darknet.writer import write_cfg
from utils.errors import InputError


def read_cfg(path: str | Path) -> s.ModelSpec:
    """Read a cfg file.

    Raises:
        InputError: no such file, or anything `parse_cfg` refuses.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot read this cfg ({error.strerror}); check --cfg") from error
    return parse_cfg(text, str(path))


def parse_cfg(text: str, name: str = "cfg") -> s.ModelSpec:
    """Turn the text of a cfg into a ModelSpec and check that its layers fit together.

    Raises:
        InputError: an unknown section, key or activation (with the nearest known word), a value that is no number,
            a reference to a layer that is not there, widths that do not fit; always with file and line.
    """
    sections = _sections(text, name)
    if not sections or sections[0].kind not in NET_SECTIONS:
        raise InputError(f"{name} line {sections[0].line if sections else 1}: a cfg starts with [net]")
    net = sections[0]
    net.check_words(KEYS["net"])
    layers: list[s.Layer] = []
    for section in sections[1:]:
        if section.kind not in READERS:
            raise InputError(f"{section.place}: unknown section [{section.kind}]{nearest(section.kind, READERS)}")
        section.check_words(KEYS[section.kind])
        layers.append(READERS[section.kind](section, layers, _net_channels(net)))
    spec = s.ModelSpec(layers=tuple(layers), net=tuple((k, v) for k, (_, v) in net.options.items()))
    for key in ("width", "height", "channels", "batch", "subdivisions"):
        net.integer(key, 1, least=1)
    channels(spec, name)
    return spec


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint like ``; did you mean 'filters'?``, empty when nothing is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


@dataclass
class _Section:
    """One ``[section]`` as written: where, what, and its keys with their lines."""

    name: str
    line: int
    kind: str
    options: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.name} line {self.line}"

    def check_words(self, known: frozenset[str]) -> None:
        for key, (line, _) in self.options.items():
            if key not in known:
                raise InputError(f"{self.name} line {line}: unknown key '{key}' in [{self.kind}]{nearest(key, known)}")

    def text(self, key: str, default: str) -> str:
        return self.options.get(key, (0, default))[1]

    def numbers(self, key: str, convert: Callable[[str], float], default: str = "") -> list[float]:
        line, value = self.options.get(key, (self.line, default))
        try:
            return [convert(part) for part in value.split(",") if part.strip()]
        except ValueError:
            kind = "whole numbers" if convert is int else "numbers"
            raise InputError(f"{self.name} line {line}: {key}={value} must be {kind}") from None

    def integers(self, key: str, default: str = "") -> list[int]:
        return [int(x) for x in self.numbers(key, int, default)]

    def integer(self, key: str, default: int, least: int = 0) -> int:
        found = self.integers(key, str(default))
        line = self.options.get(key, (self.line, ""))[0]
        if len(found) != 1 or found[0] < least:
            raise InputError(
                f"{self.name} line {line}: {key}={self.text(key, '')} must be one whole number from {least} up"
            )
        return found[0]

    def real(self, key: str, default: float) -> float:
        found = self.numbers(key, float, str(default))
        if len(found) != 1:
            raise InputError(f"{self.place}: {key} must be one number")
        return found[0]

    def required(self, key: str) -> None:
        if key not in self.options:
            raise InputError(f"{self.place}: [{self.kind}] needs {key}=")

    def activation(self, default: str) -> str:
        line, name = self.options.get("activation", (self.line, default))
        if name not in ACTIVATIONS:
            raise InputError(f"{self.name} line {line}: unknown activation '{name}'{nearest(name, ACTIVATIONS)}")
        return name

    def passive(self) -> s.Options:
        return tuple((k, v) for k, (_, v) in self.options.items() if k in PASSIVE.get(self.kind, ()))

    def references(self, key: str, here: int) -> tuple[int, ...]:
        """Absolute layer numbers; Darknet counts negative ones back from this layer."""
        self.required(key)
        found = tuple(n if n >= 0 else here + n for n in self.integers(key))
        line = self.options[key][0]
        if not found:
            raise InputError(f"{self.name} line {line}: {key}= names no layer")
        for wrong in (n for n in found if not 0 <= n < here):
            before = f"only layers 0 to {here - 1} come before it" if here else "no layer comes before it"
            raise InputError(f"{self.name} line {line}: [{self.kind}] reads layer {wrong}, but {before}")
        return found


def _sections(text: str, name: str) -> list[_Section]:
    sections: list[_Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line or line.startswith(";"):
            continue
        if line.startswith("["):
            sections.append(_Section(name, number, line.strip("[] ")))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not sections:
            raise InputError(f"{name} line {number}: expected [section] or key=value, got '{line[:40]}'")
        if key in sections[-1].options:
            first = sections[-1].options[key][0]
            raise InputError(
                f"{name} line {number}: {key} stands a second time in this section (first on line {first})"
            )
        sections[-1].options[key] = (number, value)
    return sections


def _net_channels(net: _Section) -> int:
    return net.integer("channels", 3, least=1)


def _conv(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    sec.required("filters")
    size, filters = sec.integer("size", 1, 1), sec.integer("filters", 1, 1)
    stride, dilation = sec.integer("stride", 1, 1), sec.integer("dilation", 1, 1)
    pad = size // 2 if sec.integer("pad", 0) else sec.integer("padding", 0)
    groups = filters if sec.kind == "depthwise" else sec.integer("groups", 1, 1)
    return s.Conv(
        sources=(len(layers) - 1,),
        line=sec.line,
        options=sec.passive(),
        filters=filters,
        size=size,
        stride=(sec.integer("stride_y", stride, 1), sec.integer("stride_x", stride, 1)),
        pad=pad * dilation,
        groups=groups,
        dilation=dilation,
        bn=bool(sec.integer("batch_normalize", 0)),
        activation=sec.activation("logistic"),  # Darknet's default, option_find_str in parser.c
    )


def _maxpool(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    stride = sec.integer("stride", 1, 1)
    size = sec.integer("size", stride, 1)
    pad = sec.integer("padding", size - 1)
    if pad // 2 >= size or pad - pad // 2 >= size:
        raise InputError(f"{sec.place}: padding={pad} is more than a pool of size {size} can take")
    return s.MaxPool(sources=(len(layers) - 1,), line=sec.line, size=size, stride=stride, pad=pad)


def _route(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    groups, group_id = sec.integer("groups", 1, 1), sec.integer("group_id", 0)
    if group_id >= groups:
        raise InputError(f"{sec.place}: group_id={group_id} must be under groups={groups}")
    sources = sec.references("layers", len(layers))
    return s.Route(sources=sources, line=sec.line, groups=groups, group_id=group_id)


def _shortcut(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    if sec.text("weights_type", "none") != "none":
        raise InputError(f"{sec.place}: weights_type={sec.text('weights_type', '')} is not supported; use none")
    sources = (len(layers) - 1, *sec.references("from", len(layers)))
    return s.Shortcut(sources=sources, line=sec.line, options=sec.passive(), activation=sec.activation("linear"))


def _scale_channels(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    if sec.integer("scale_wh", 0):
        raise InputError(f"{sec.place}: scale_wh=1 is not supported; only scaling by channel is")
    sources = (len(layers) - 1, *sec.references("from", len(layers)))
    return s.ScaleChannels(sources=sources, line=sec.line, options=sec.passive(), activation=sec.activation("linear"))


def _squeeze_excite(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    width = channels(s.ModelSpec(layers=tuple(layers), net=(("channels", str(image)),)), sec.name)[len(layers) - 1]
    squeeze = sec.integer("squeeze", max(1, width // sec.integer("reduction", 4, 1)), 1)
    return s.SqueezeExcite(sources=(len(layers) - 1,), line=sec.line, squeeze=squeeze)


def _yolo(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    sec.required("anchors")
    sec.required("classes")
    flat = sec.numbers("anchors", float)
    anchors = tuple(zip(flat[::2], flat[1::2], strict=False))
    mask = tuple(sec.integers("mask")) or tuple(range(len(anchors)))
    if len(flat) % 2 or max(mask, default=0) >= len(anchors) or min(mask, default=0) < 0:
        raise InputError(
            f"{sec.place}: mask={sec.text('mask', '')} picks from {len(flat) / 2:g} anchors; make them fit"
        )
    if sec.integer("num", len(anchors), 1) != len(anchors):
        raise InputError(f"{sec.place}: num={sec.text('num', '')}, but anchors= lists {len(anchors)}; make them agree")
    return s.Yolo(
        sources=(len(layers) - 1,),
        line=sec.line,
        options=sec.passive(),
        mask=mask,
        anchors=anchors,
        classes=sec.integer("classes", 20, 1),
        scale_x_y=sec.real("scale_x_y", 1.0),
        new_coords=bool(sec.integer("new_coords", 0)),
    )


def _upsample(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    return s.Upsample(sources=(len(layers) - 1,), line=sec.line, stride=sec.integer("stride", 2, 1))


def _avgpool(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    return s.AvgPool(sources=(len(layers) - 1,), line=sec.line)


def _dropout(sec: _Section, layers: list[s.Layer], image: int) -> s.Layer:
    return s.Dropout(sources=(len(layers) - 1,), line=sec.line, probability=sec.real("probability", 0.5))


__all__ = ["nearest", "parse_cfg", "read_cfg", "write_cfg"]

READERS: dict[str, Callable[[_Section, list[s.Layer], int], s.Layer]] = {
    "convolutional": _conv,
    "depthwise": _conv,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "upsample": _upsample,
    "route": _route,
    "shortcut": _shortcut,
    "se": _squeeze_excite,
    "scale_channels": _scale_channels,
    "dropout": _dropout,
    "yolo": _yolo,
}
