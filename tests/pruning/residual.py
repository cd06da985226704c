"""Residual networks for this room's tests: random graphs full of blocks, thin copies of published ones."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from tests.pruning.nets import ROOT
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg

WIDTH = 6
ACTIVATIONS = ["leaky", "relu", "linear", "logistic", "h_swish", "relu6"]
SUMS = ["linear", "linear", "leaky", "relu", "relu6", "swish", "logistic"]


def thin(name: str, by: int = 16) -> s.ModelSpec:
    """A shipped cfg with a sixteenth of the channels, its heads whole: the graph is what these tests are about."""
    spec = read_cfg(ROOT / "cfg" / f"{name}.cfg")
    layers = (
        replace(layer, filters=layer.filters // by) if isinstance(layer, s.Conv) and layer.bn else layer
        for layer in spec.layers
    )
    return replace(spec, layers=tuple(layers))


class Grower:
    """Appends layers that draw what they are; all maps have the same size but those of gates."""

    def __init__(self, draw) -> None:
        self.draw = draw
        self.layers: list[s.Layer] = []
        self.joinable: list[int] = []  # layers of WIDTH channels and full size

    @property
    def last(self) -> int:
        return len(self.layers) - 1

    def put(self, layer: s.Layer) -> int:
        self.layers.append(layer)
        return self.last

    def conv(self, filters: int = WIDTH, bn: bool = True, groups: int = 1) -> int:
        size = self.draw(st.sampled_from([1, 3]))
        act = self.draw(st.sampled_from(ACTIVATIONS))
        return self.put(
            s.Conv(
                sources=(self.last,), filters=filters, size=size, pad=size // 2, groups=groups, bn=bn, activation=act
            )
        )

    def at(self, j: int) -> None:
        """Go on from layer ``j``."""
        if j != self.last:
            self.put(s.Route(sources=(j,)))

    def branch(self, trunk: int, deep: int = 1) -> int:
        """A branch of WIDTH channels that starts from ``trunk``; the number of its end."""
        self.at(trunk)
        wide = self.draw(st.sampled_from([4, WIDTH, 8]))
        self.conv(wide)
        kind = self.draw(st.sampled_from(["plain", "depthwise", "se", "gate", "inner", "ghost", "pool", "bare"]))
        if kind == "inner" and deep:
            self.add(self.last, deep - 1)
        elif kind in ("depthwise", "se", "gate", "pool"):
            getattr(self, kind)(wide)
        if kind == "ghost":
            self.conv(WIDTH // 2)
            self.conv(WIDTH // 2, groups=WIDTH // 2)
            return self.put(s.Route(sources=(self.last, self.last - 1)))
        return self.conv(bn=kind != "bare")

    def depthwise(self, wide: int) -> None:
        self.conv(wide, groups=wide)

    def se(self, wide: int) -> None:
        self.put(s.SqueezeExcite(sources=(self.last,), squeeze=2))

    def pool(self, wide: int) -> None:
        self.put(s.MaxPool(sources=(self.last,), size=3, stride=1, pad=2))

    def gate(self, wide: int) -> None:
        features = self.last
        self.put(s.AvgPool(sources=(features,)))
        self.put(s.Conv(sources=(self.last,), filters=wide, activation="logistic"))
        self.put(s.ScaleChannels(sources=(self.last, features)))

    def add(self, trunk: int, deep: int = 1) -> int:
        """A sum of one or two branches and their trunk, spelled in one of many ways."""
        width = self.width(trunk)
        ends = [self.branch_of(trunk, width, deep) for _ in range(self.draw(st.integers(1, 2)))]
        if deep and self.draw(st.booleans()):  # something else lies between the branches and their sum
            self.at(trunk)
            self.conv(width)
            self.head()
        first = self.draw(st.sampled_from([trunk, *ends]))
        self.at(first)
        rest = [j for j in (trunk, *ends) if j != first]
        sources = (self.last, *self.draw(st.permutations(rest)))
        return self.put(s.Shortcut(sources=sources, activation=self.draw(st.sampled_from(SUMS))))

    def branch_of(self, trunk: int, width: int, deep: int) -> int:
        end = self.branch(trunk, deep)
        return end if width == WIDTH else self.conv(width)

    def width(self, j: int) -> int:
        layer = self.layers[j]
        return layer.filters if isinstance(layer, s.Conv) else WIDTH

    def head(self) -> None:
        self.put(s.Conv(sources=(self.last,), filters=7))
        self.put(s.Yolo(sources=(self.last,), mask=(0,), anchors=((4.0, 4.0),), classes=2))

    def step(self) -> None:
        kind = self.draw(st.sampled_from(["add", "add", "add", "conv", "route", "back"]))
        self.at(self.joinable[-1])
        if kind == "add":
            self.add(self.last)
        elif kind == "route":
            others = self.draw(st.lists(st.sampled_from(self.joinable), min_size=1, max_size=2))
            self.put(s.Route(sources=(*others, self.last)))
            self.conv()
        elif kind == "back":
            self.put(s.Route(sources=(self.draw(st.sampled_from(self.joinable)),)))
        else:
            self.conv()
        self.joinable.append(self.last)


@st.composite
def residual_graphs(draw) -> s.ModelSpec:
    """Random residual networks on 4 image channels."""
    grower = Grower(draw)
    grower.joinable.append(grower.conv())
    for _ in range(draw(st.integers(2, 6))):
        grower.step()
    grower.at(grower.joinable[-1])
    grower.head()
    return s.ModelSpec(layers=tuple(grower.layers), net=(("channels", "4"),))


def respelled(text: str, coins) -> str:
    """A cfg's text with each reference written relatively or absolutely, as ``coins`` (an iterator of bools) say."""
    lines, here = [], -2  # [net] is no layer
    for line in text.splitlines():
        here += line.startswith("[")
        key, _, value = line.partition("=")
        if key in ("layers", "from"):
            absolute = [n if n >= 0 else here + n for n in map(int, value.split(","))]
            value = ",".join(str(n if next(coins) else n - here) for n in absolute)
            line = f"{key}={value}"
        lines.append(line)
    return "\n".join(lines)
