"""Random graphs through the equalities that every network must hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import build
from tests.pruning.nets import assert_same, image, random_network, run
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.counts import count, parameters
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.darknet.shapes import channels, sizes
from utils.darknet.weights import read_weights, write_weights
from utils.pruning.absorb import absorb, zeroed
from utils.pruning.bias_carrier import settle, settle_and_cut
from utils.pruning.choices import Beta
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import cut, narrow, silence

ACTIVATIONS = ["leaky", "relu", "relu6", "linear", "logistic", "mish", "swish", "h_swish"]
GRID = 6  # px, so that any two layers may be joined: nothing in these graphs changes the size


@st.composite
def graphs(draw) -> s.ModelSpec:
    """Layers that read any earlier ones, then a plain convolution and a head."""
    layers: list[s.Layer] = []
    for _ in range(draw(st.integers(2, 9))):
        layers += draw(additions(layers))
    layers.append(s.Conv(sources=(len(layers) - 1,), filters=7, activation="linear"))
    layers.append(s.Yolo(sources=(len(layers) - 1,), mask=(0,), anchors=((4.0, 4.0),), classes=2))
    return s.ModelSpec(layers=tuple(layers), net=(("channels", "4"),))


@st.composite
def additions(draw, layers: list[s.Layer]) -> list[s.Layer]:
    """One layer more; a conv is put before it where it needs a certain source."""
    here, width = len(layers), channels(s.ModelSpec(layers=tuple(layers), net=(("channels", "4"),)))
    last = width[here - 1]
    kind = draw(
        st.sampled_from(
            [
                "conv",
                "conv",
                "conv",
                "depthwise",
                "grouped",
                "route",
                "slices",
                "shortcut",
                "se",
                "pool",
                "gate",
                "up",
                "up",
                "flip",
            ]
        )
    )
    act = draw(st.sampled_from(ACTIVATIONS))
    if kind == "depthwise":
        return [s.Conv(sources=(here - 1,), filters=last, groups=last, size=3, pad=1, bn=True, activation=act)]
    if kind == "grouped":
        groups = draw(st.sampled_from([g for g in range(1, last + 1) if last % g == 0]))
        return [
            s.Conv(
                sources=(here - 1,), filters=groups * draw(st.integers(1, 3)), groups=groups, bn=True, activation=act
            )
        ]
    size = sizes(s.ModelSpec(layers=tuple(layers)), GRID, GRID)
    earlier = [j for j in range(here) if size[j] == (GRID, GRID)]  # gates are not
    if kind == "route" and here:
        return [s.Route(sources=tuple(draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=3))))]
    if kind == "slices" and here:
        cuttable = [j for j in earlier if width[j] % 2 == 0]
        if cuttable:
            picked = tuple(draw(st.lists(st.sampled_from(cuttable), min_size=1, max_size=2)))
            return [s.Route(sources=picked, groups=2, group_id=draw(st.integers(0, 1)))]
    if kind == "shortcut" and here > 1:
        return draw(sums(here, width, earlier[:-1] or earlier, act))
    if kind == "se" and here:
        return [s.SqueezeExcite(sources=(here - 1,), squeeze=2)]
    if kind == "pool" and here:
        return [s.MaxPool(sources=(here - 1,), size=3, stride=1, pad=2)]
    if kind == "up" and here:
        return draw(there_and_back(here, last, act))
    if kind == "flip":
        return draw(in_place(here, last, act))
    if kind == "gate" and here:
        gate = s.Conv(sources=(here,), filters=last, bn=draw(st.booleans()), activation="logistic")
        return [s.AvgPool(sources=(here - 1,)), gate, s.ScaleChannels(sources=(here + 1, here - 1), activation=act)]
    kernel = draw(st.sampled_from([1, 3]))
    return [
        s.Conv(
            sources=(here - 1,),
            filters=draw(st.sampled_from([4, 6, 8])),
            size=kernel,
            pad=kernel // 2,
            bn=True,
            activation=act,
        )
    ]


@st.composite
def sums(draw, here: int, width: dict[int, int], earlier: list[int], act: str) -> list[s.Layer]:
    """A shortcut of two to four sources, weighted or not, behind a convolution where the last layer has another width."""
    wanted = width[draw(st.sampled_from(earlier))]
    same = [j for j in earlier if width[j] == wanted]
    n = min(len(same), draw(st.integers(1, 3)))
    others = draw(st.lists(st.sampled_from(same), min_size=n, max_size=n, unique=True))
    before: list[s.Layer] = []
    if width[here - 1] != wanted or here - 1 in others:
        before.append(s.Conv(sources=(here - 1,), filters=wanted, bn=True, activation=act))
    weights = draw(st.sampled_from(["none", "none", "per_feature", "per_channel"]))
    shares = draw(st.sampled_from(["none", "relu", "softmax"])) if weights != "none" else "none"
    sources = (here - 1 + len(before), *others)
    return [*before, s.Shortcut(sources=sources, activation=act, weights_type=weights, weights_normalization=shares)]


@st.composite
def there_and_back(draw, here: int, last: int, act: str) -> list[s.Layer]:
    """Half the size and up again, or twice the size and down again, by strided or pooling layers."""
    depthwise = draw(st.booleans())
    filters, groups = (last, last) if depthwise else (draw(st.sampled_from([4, 6])), 1)
    strided = s.Conv(
        sources=(here - 1,), filters=filters, groups=groups, size=3, stride=(2, 2), pad=1, bn=True, activation=act
    )
    size, pad = draw(st.sampled_from([(3, 1), (4, 1), (2, 0), (1, 0)]))
    upward = draw(
        st.sampled_from(
            [
                s.Upsample(sources=(here,)),
                s.Upsample(sources=(here,), zeros=True),
                s.TransposedConv(
                    sources=(here,), filters=filters, groups=groups, size=size, stride=2, pad=pad, bn=True,
                    activation=act,
                ),
                s.TransposedConv(
                    sources=(here,), filters=filters, groups=2 if filters % 2 == 0 else 1, size=size, stride=2, pad=pad,
                    bn=draw(st.booleans()), activation=act,
                ),
            ]
        )
    )  # fmt: skip
    if draw(st.booleans()):
        return [strided, upward]
    if isinstance(upward, s.TransposedConv):  # of as many channels as it reads
        groups = last if groups > 1 else 1
        upward = replace(upward, filters=last, groups=groups)
    return [
        replace(upward, sources=(here - 1,)),
        draw(st.sampled_from([s.MaxPool(sources=(here,)), replace(strided, sources=(here,))])),
    ]


@st.composite
def in_place(draw, here: int, last: int, act: str) -> list[s.Layer]:
    """A transposed convolution of stride 1."""
    groups = draw(st.sampled_from([1, last]))
    return [
        s.TransposedConv(
            sources=(here - 1,), filters=last if groups > 1 else draw(st.sampled_from([4, 6])), groups=groups, size=3,
            stride=1, pad=1, bn=draw(st.booleans()) or groups > 1, activation=act,
        )
    ]  # fmt: skip


def prunable(spec: s.ModelSpec) -> bool:
    wires = trace(spec)
    return any(not (wires.locked | wires.tied)[wires.outputs[i]].all() for i in wires.voters)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    spec=graphs().filter(prunable),
    percent=st.sampled_from([0.3, 0.6, 0.95]),
    tie=st.sampled_from(ShortcutRule),
    multiple=st.sampled_from([1, 1, 3]),
)
def test_cut_equals_silenced_and_reloads_and_counts(spec, percent, tie, multiple):
    net = random_network(spec)
    plan = plan_channels(net, percent=percent, tie=tie, multiple=multiple)
    small, x = cut(net, plan), image(net, 2, GRID)
    assert_same(run(small, x), run(silence(net, plan), x), 1e-5)
    assert sum(v.numel() for k, v in small.state.items() if "running" not in k) == parameters(narrow(spec, plan))
    again = Network(parse_cfg(write_cfg(small.spec)), small.state)
    assert again.spec == small.spec
    build(cut(absorb(again, plan_channels(again, percent=0.0, tie=tie)), plan_channels(again, percent=0.0, tie=tie)))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    spec=graphs().filter(prunable),
    percent=st.sampled_from([0.4, 0.8]),
    tie=st.sampled_from(ShortcutRule),
    multiple=st.sampled_from([1, 2, 4]),
)
def test_carried_equals_gammas_at_zero_and_comes_back_from_files_as_predicted(spec, percent, tie, multiple):
    net = random_network(spec)
    asked = plan_channels(net, percent=percent, tie=tie, multiple=multiple)
    small, plan = settle_and_cut(net, asked, Beta.CARRIER)
    wide = cut(*settle(net, asked, Beta.CARRIER))
    assert wide.state.keys() == small.state.keys()
    assert all(torch.equal(value, small.state[key]) for key, value in wide.state.items())
    x = image(net, 2, GRID)
    outputs = run(small, x)
    assert_same(outputs, run(zeroed(net, plan), x), 1e-5)
    assert not any(row.after % multiple for row in plan.rows if row.after < row.before)
    assert small.spec == narrow(spec, plan)
    assert count(small.spec, (GRID, GRID)).params == sum(
        v.numel() for k, v in small.state.items() if "running" not in k
    )
    with TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder) / "a.pt", Checkpoint(small))
        weights = write_weights(Path(folder) / "a.weights", small)
        reread = Network(parse_cfg(write_cfg(small.spec)), read_weights(weights, small.spec).state)
        for other in (load_checkpoint(checkpoint).network, reread):
            assert all(torch.equal(a, b) for a, b in zip(run(other, x), outputs, strict=True))


def test_random_graphs_have_every_kind_of_layer():
    """So that none of the kinds above is drawn in name only."""
    seen: set[str] = set()

    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(spec=graphs().filter(prunable))
    def look(spec):
        for layer in spec.layers:
            seen.add(type(layer).__name__)
            if isinstance(layer, s.Shortcut) and len(layer.sources) > 2:
                seen.add("many sources")
            if isinstance(layer, s.Shortcut) and layer.weighted:
                seen.add(layer.weights_type)
            if isinstance(layer, s.Route) and layer.groups > 1:
                seen.add("slices")
            if isinstance(layer, s.Upsample) and layer.zeros:
                seen.add("zeros")
            if isinstance(layer, s.TransposedConv) and layer.groups > 1:
                seen.add("transposed groups")
            if isinstance(layer, s.Conv) and layer.groups > 1:
                seen.add("depthwise" if layer.groups == layer.filters else "groups")

    look()
    assert seen == {
        *("Conv", "Route", "Shortcut", "SqueezeExcite", "ScaleChannels", "MaxPool", "AvgPool", "Upsample", "Yolo"),
        *("TransposedConv", "transposed groups", "zeros"),
        *("many sources", "per_feature", "per_channel", "slices", "depthwise", "groups"),
    }
