"""One row a kind of layer, one walk, one union-find; and few places that still ask which kind a layer is."""

from __future__ import annotations

import ast
import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from models import Darknet
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.channel_groups import UnionFind, trace
from utils.darknet.expand import expand
from utils.darknet.forward import MOVES, VALUES
from utils.darknet.network import Network
from utils.darknet.ops import OPS, facts, is_identity
from utils.darknet.shapes import channels, densities, sizes, strides
from utils.darknet.walk import rule, run, walk
from utils.darknet.weights import tensors
from utils.errors import InputError
from utils.pruning.surgery import mixing_tensor
from utils.quantization.activation_qparams import trace_edges
from utils.quantization.validate import check_supported

ROOT = Path(__file__).parent.parent.parent
MOST_PLACES = 120


def kinds(base: type = s.Layer) -> list[type]:
    """Every kind that a cfg can have: those without subclasses; Conv, of which Connected is one; Yolo, a Gaussian one."""
    below = [kind for kind in base.__subclasses__() if kind.__module__.startswith("utils.")]
    alone = [base] if base in (s.Conv, s.Yolo) else []
    return alone + [leaf for kind in below for leaf in (kinds(kind) or [kind])]


def named(node: ast.expr, known: set[str]) -> list[str]:
    """The layer kinds that an expression names: ``s.Conv``, ``Conv``, ``s.Conv | s.Shortcut``, ``(s.Conv, s.Route)``."""
    if isinstance(node, ast.BinOp):
        return named(node.left, known) + named(node.right, known)
    if isinstance(node, ast.Tuple):
        return [name for each in node.elts for name in named(each, known)]
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return [name] if name in known else []


def places(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """Each kind that a ``case`` pattern names or that is an argument of ``isinstance``; two in one place count twice."""
    for node in ast.walk(tree):
        if isinstance(node, ast.MatchClass):
            yield from named(node.cls, known)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            yield from named(node.args[1], known)


def sources() -> list[Path]:
    return [
        *ROOT.glob("utils/**/*.py"),
        *ROOT.glob("pipeline/**/*.py"),
        *ROOT.glob("darkspike/**/*.py"),
        ROOT / "models.py",
    ]


def test_few_places_ask_which_kind_a_layer_is():
    known = {name for name, kind in vars(s).items() if isinstance(kind, type) and issubclass(kind, s.Layer)}
    assert {"Layer", "Activated", "Kernel", "Conv", "Output", "Yolo"} <= known
    found = {path: list(places(ast.parse(path.read_text()), known)) for path in sources()}
    assert sum(map(len, found.values())) < MOST_PLACES, {str(path): names for path, names in found.items() if names}


def test_the_counter_counts_patterns_unions_and_tuples():
    text = """
match layer:
    case s.Conv() | s.Shortcut() if layer.weighted:
        pass
    case Route(groups=1):
        pass
    case _:
        isinstance(layer, s.MaxPool | s.Upsample), isinstance(layer, (s.Conv, int)), isinstance(op, IntConv)
"""
    known = {"Conv", "Shortcut", "Route", "MaxPool", "Upsample"}
    assert sorted(places(ast.parse(text), known)) == ["Conv", "Conv", "MaxPool", "Route", "Shortcut", "Upsample"]


def test_every_kind_has_a_row_and_no_row_is_left_over():
    assert set(kinds()) == set(OPS)
    assert len({known.section for known in OPS.values()}) == len(OPS)


IMPLICIT = (s.ImplicitAdd, s.ImplicitMul)


def test_rows_say_where_the_values_of_a_kind_come_from():
    """What computes without tensors is in one table, what moves in the other, and each has its identity."""
    for kind, known in OPS.items():
        table = VALUES if known.computes else MOVES
        own = any(k in table for k in kind.__mro__)
        with_tensors = (s.Conv, s.Connected, s.TransposedConv, s.SqueezeExcite, s.LifRnn, s.LtcRnn, s.Lstm, *IMPLICIT)
        assert own or kind in with_tensors, kind


def test_a_kind_nobody_knows_is_refused_by_name_everywhere():
    @dataclass(frozen=True, kw_only=True)
    class Whatever(s.Layer):
        pass

    layers = (s.Conv(sources=(-1,), filters=4), Whatever(sources=(0,), line=12), s.Conv(sources=(1,), filters=4))
    spec = s.ModelSpec(layers=layers)
    for ask in (
        channels,
        strides,
        densities,
        trace,
        trace_edges,
        check_supported,
        write_cfg,
        Darknet,
        lambda x: sizes(x, 8, 8),
    ):
        with pytest.raises(InputError, match="cfg line 12: Whatever has no "):
            ask(spec)
    with pytest.raises(InputError, match="cfg line 12: Whatever has no row"):
        list(tensors(spec))


def test_a_rule_is_that_of_the_nearest_kind():
    rules = {s.Layer: "layer", s.Kernel: "kernel", s.Output: "output"}
    given = [s.Conv(sources=(-1,), filters=1), s.MaxPool(sources=(-1,)), s.Region(sources=(-1,), anchors=(), classes=1)]
    assert [rule(rules, layer, "rule") for layer in given] == ["kernel", "layer", "output"]
    with pytest.raises(InputError, match="cfg line 3: MaxPool has no rule for this"):
        rule({s.Kernel: 1}, s.MaxPool(sources=(-1,), line=3), "rule for this")


@pytest.mark.parametrize("path", sorted(ROOT.glob("cfg/*.cfg")), ids=lambda path: path.stem)
def test_rows_name_the_tensors_that_the_modules_have(path):
    spec = read_cfg(path)
    made = {key: tuple(value.shape) for key, value in Darknet(spec).state_dict().items() if "num_batches" not in key}
    assert {key: shape for _, key, shape in tensors(spec)} == made
    learned = {
        f"layers.{i}.{held.key}" for i, layer in enumerate(spec.layers) for held in held_by(spec, i) if held.learned
    }
    assert learned == {key for key, _ in Darknet(spec).named_parameters()}


def held_by(spec: s.ModelSpec, i: int):
    layer = spec.layers[i]
    return facts(layer).tensors(layer, channels(spec)[layer.sources[0]])


def test_tensors_that_mix_channels():
    conv = s.Conv(sources=(-1,), filters=4, groups=1)
    assert mixing_tensor(conv) == "conv.weight"
    assert mixing_tensor(s.Conv(sources=(-1,), filters=4, groups=4)) == ""
    assert mixing_tensor(s.SqueezeExcite(sources=(-1,), squeeze=1)) == "fc1.weight"
    assert mixing_tensor(s.MaxPool(sources=(-1,))) == ""


def test_identities():
    assert is_identity(s.Dropout(sources=(0,))) and is_identity(s.Route(sources=(0,)))
    assert not is_identity(s.Route(sources=(0, 1))) and not is_identity(s.Route(sources=(0,), groups=2))
    assert not is_identity(s.MaxPool(sources=(0,)))


CHAIN = parse_cfg(
    "[net]\nchannels=1\n" + "[convolutional]\nfilters=1\nactivation=linear\n" * 3 + "[shortcut]\nfrom=0\n[dropout]\n"
)


def test_the_walk_hands_each_layer_what_its_sources_gave():
    said = run(CHAIN, "image", lambda i, layer, given: f"{i}({','.join(given)})")
    assert said == {
        -1: "image",
        0: "0(image)",
        1: "1(0(image))",
        2: "2(1(0(image)))",
        3: "3(2(1(0(image))),0(image))",
        4: "4(3(2(1(0(image))),0(image)))",
    }


def test_the_walk_keeps_what_is_asked_for_and_lets_go_of_the_rest():
    assert CHAIN.last_readers == {-1: 0, 0: 3, 1: 2, 2: 3, 3: 4}
    alive: list[tuple[int, set[int]]] = []
    made: dict[int, weakref.ref] = {}

    def step(i: int, layer: s.Layer, given: list[torch.Tensor]) -> torch.Tensor:
        gc.collect()
        alive.append((i, {j for j, ref in made.items() if ref() is not None}))
        out = given[0] + 1
        made[i] = weakref.ref(out)
        return out

    found = run(CHAIN, torch.zeros(1), step, keep=(1,))
    assert set(found) == {1}
    assert alive == [(0, set()), (1, {0}), (2, {0, 1}), (3, {0, 1, 2}), (4, {1, 3})]
    assert [i for i, _ in walk(CHAIN, 0, lambda i, layer, given: 0)] == [-1, 0, 1, 2, 3, 4]
    assert set(run(CHAIN, 0, lambda i, layer, given: 0)) == {-1, 0, 1, 2, 3, 4}
    assert run(CHAIN, 0, lambda i, layer, given: 0, keep=()) == {}


def test_union_find_of_any_names():
    sets: UnionFind[str] = UnionFind()
    sets.add("abcde")
    sets.tie("a", "c")
    sets.tie("d", "e")
    sets.tie("e", "c")
    assert sets.sets() == {"b": ["b"], "d": ["a", "c", "d", "e"]}
    assert sets.root("a") == sets.root("e") == "d"  # what stands for the first stands for both
    sets.add("a")
    assert sets.root("c") == "d"


def test_no_other_union_find():
    """A second one would walk parents to their root itself."""
    found = [path.name for path in sources() if "parent[" in path.read_text()]
    assert found == ["channel_groups.py"]


def test_written_out_sections_are_of_known_kinds():
    spec = parse_cfg("[net]\n[transposed_convolutional]\nfilters=4\nsize=3\nstride=2\npadding=1\n[se]\nsqueeze=2\n")
    state = Darknet(spec).state_dict()
    small, number = expand(Network(spec, state))
    assert [facts(layer).section for layer in small.spec.layers] == [
        "upsample",
        "convolutional",
        "avgpool",
        "convolutional",
        "convolutional",
        "scale_channels",
    ]
    assert number == {-1: -1, 0: 1, 1: 5}
