"""NIR of the dialect "if": simulators load the file, and compute what our own reference says they compute."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import export
from models import load_model
from tests.export.nets import lowered
from tests.export.test_script import HERE, place
from tests.quantization.random_nets import CONV, cfg_text, random_images
from tests.spiking.test_equality import spiking
from utils.darknet.cfg import write_cfg
from utils.darknet.network import save_checkpoint
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.scheme import Scheme
from utils.quantization.validate import readouts
from utils.spiking.nir_if import write_nir_if
from utils.spiking.nir_report import EXACT, branches
from utils.spiking.nir_simulator import SEMANTICS, NirSimulator
from utils.spiking.spike_schedule import SpikingNetwork

assert place  # a fixture
nir = pytest.importorskip("nir")

CHAIN = cfg_text(
    ("convolutional", CONV | {"stride": 2}),
    ("convolutional", CONV | {"groups": 2}),
    ("maxpool", {"size": 2, "stride": 2}),
    ("convolutional", CONV | {"size": 1, "pad": 0}),
)
BRANCHES = cfg_text(
    ("convolutional", CONV | {"stride": 2}),
    ("convolutional", CONV),
    ("shortcut", {"from": -2, "activation": "relu"}),
    ("maxpool", {"size": 2, "stride": 1}),
    ("route", {"layers": "-1,0"}),
    ("convolutional", CONV),
)
SUBTRACT, ZERO, SINABS, SNNTORCH = SEMANTICS


@cache
def written(cfg: str, folder: Path, steps: int = 15) -> tuple[SpikingNetwork, str]:
    network = spiking(cfg)
    (path,) = write_nir_if(folder / "net.nir", network, 16, 16, steps)
    return network, str(path)


def simulated(path: str, semantics: str, x: Tensor, steps: int = 15) -> Tensor:
    return NirSimulator(nir.read(path), SEMANTICS[semantics], steps)(x)[0]


def stepped(module, x: Tensor, steps: int) -> Tensor:
    """The sum over the steps of what a module with a state puts out."""
    total, state = torch.zeros(()), None
    with torch.no_grad():
        for _ in range(steps):
            out, state = module(x, state)
            total = total + out
    return total


def in_sinabs(graph, x: Tensor) -> Tensor:
    sinabs = pytest.importorskip("sinabs.nir")
    with torch.no_grad():
        out = sinabs.from_nir(graph, batch_size=len(x))(x.repeat_interleave(15, 0))[0]
    return out.unflatten(0, (len(x), 15)).sum(1)


def in_norse(graph, x: Tensor) -> Tensor:
    return stepped(pytest.importorskip("norse.torch.utils.import_nir").from_nir(graph), x, 15)


def in_snntorch(graph, x: Tensor) -> Tensor:
    snntorch = pytest.importorskip("snntorch")
    module = pytest.importorskip("snntorch.import_nir").import_from_nir(graph)
    for neuron in module.modules():
        if isinstance(neuron, snntorch.Leaky):
            neuron.init_hidden = True  # as the README says
    return stepped(module, x, 15)


IMPORTERS = {SINABS: in_sinabs, ZERO: in_norse, SNNTORCH: in_snntorch}


@pytest.mark.parametrize("semantics", IMPORTERS)
def test_importers_load_the_file_and_give_our_numbers(tmp_path, semantics):
    _, path = written(CHAIN, tmp_path)
    x = random_images(2, seed=3)
    torch.testing.assert_close(IMPORTERS[semantics](nir.read(path), x), simulated(path, semantics, x))


def test_snntorch_runs_joined_branches_whole(tmp_path):
    _, path = written(BRANCHES, tmp_path)
    x = random_images(2, seed=3)
    torch.testing.assert_close(in_snntorch(nir.read(path), x), simulated(path, SNNTORCH, x))


def test_the_first_layer_is_exact_and_longer_runs_settle(tmp_path):
    """They settle on the network whose levels are not rounded, which is not the integers'."""
    cfg = cfg_text(*[("convolutional", CONV)] * 3)
    x, made = random_images(2, seed=1), {}
    for steps in (15, 240, 960):
        folder = tmp_path / str(steps)
        network, path = written(cfg, folder, steps)
        simulator = NirSimulator(nir.read(path), SEMANTICS[SUBTRACT], steps)
        made[steps] = simulator(x)[0]
        if steps == 15:
            assert torch.equal(simulator.counts["if_0"].int(), IntegerExecutor(network.integer).levels(x)[0])
    assert (made[240] - made[960]).abs().max() < (made[15] - made[960]).abs().max() / 4


def test_a_head_behind_exact_spikes_is_the_integers_map(tmp_path):
    network, path = written(cfg_text(("convolutional", CONV)), tmp_path)
    x = random_images(2)
    golden = IntegerExecutor(network.integer)(x)[0]
    torch.testing.assert_close(simulated(path, SUBTRACT, x), golden, rtol=1e-4, atol=1e-4)


def test_each_importers_way_is_a_way_of_its_own(tmp_path):
    _, path = written(cfg_text(*[("convolutional", CONV)] * 2), tmp_path)
    x = random_images(1)
    maps = [simulated(path, name, x) for name in SEMANTICS]
    assert not any(torch.equal(a, b) for n, a in enumerate(maps) for b in maps[:n])


def test_nodes_are_those_that_are_promised_and_joined_inputs_are_named(tmp_path):
    graph = nir.read(written(CHAIN, tmp_path)[1])
    assert {type(node).__name__ for node in graph.nodes.values()} == {"Input", "Output", "Conv2d", "IF", "SumPool2d"}
    assert {float(v) for node in graph.nodes.values() if isinstance(node, nir.IF) for v in node.v_threshold.flat} == {1}
    assert branches(graph) == [] and graph.metadata["reset"] == "subtract" and graph.metadata["steps"] == 15
    assert graph.metadata["inexact"] == "max pools of layers 2 are means"
    (tmp_path / "b").mkdir()
    assert branches(nir.read(written(BRANCHES, tmp_path / "b")[1])) == ["2", "5"]


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (cfg_text(("convolutional", CONV), ("upsample", {"stride": 2})), "NIR has no upsampling"),
        (
            cfg_text(("convolutional", CONV | {"activation": "leaky"})),
            "layer 0 .*fires negative spikes, NIR's have no sign; train.py --act relu",
        ),
    ],
    ids=["upsample", "leaky"],
)
def test_what_the_dialect_cannot_hold_is_refused_by_name(tmp_path, cfg, message):
    with pytest.raises(InputError, match=message):
        write_nir_if(tmp_path / "net.nir", spiking(cfg), 16, 16, 15)
    assert not list(tmp_path.iterdir())


SECOND = "[route]\nlayers=0\n" + cfg_text(("convolutional", CONV)).partition("\n\n")[2]
TWO_HEADS = cfg_text(("convolutional", CONV | {"stride": 2}), ("convolutional", CONV)) + "\n" + SECOND


def test_each_head_is_a_file_that_importers_open_and_together_they_are_the_network(tmp_path):
    """A head of a chain of its own behind the first convolution: the second file has no node of the first head."""
    network = spiking(TWO_HEADS)
    paths = write_nir_if(tmp_path / "net.nir", network, 16, 16, 15)
    ends = [2, 6]
    assert [path.name for path in paths] == [f"net.head{end}.nir" for end in ends]
    graphs, x = [nir.read(path) for path in paths], random_images(2, seed=3)
    assert [graph.metadata["head"] for graph in graphs] == ends
    assert set(graphs[0].nodes) ^ set(graphs[1].nodes) == {
        "if_1",
        "conv_1_0",
        "conv_2_0",
        "if_5",
        "conv_5_0",
        "conv_6_0",
    }
    maps = [NirSimulator(graph, SEMANTICS[SUBTRACT], 960)(x)[0] for graph in graphs]
    for found, golden in zip(maps, IntegerExecutor(network.integer)(x), strict=True):
        assert found.shape == golden.shape
    for path in paths:
        for semantics, run in IMPORTERS.items():
            torch.testing.assert_close(run(nir.read(path), x), simulated(str(path), semantics, x))


def typed(*words: str):
    return export.run(export.parser().parse_args(["nir", *words, *HERE]))


@pytest.fixture
def one_head(place) -> Path:
    """A network of one head and ReLU, for the data set that is there."""
    head = Path("net.cfg").read_text().partition("[convolutional]\nfilters=14")
    cfg = head[0] + head[1] + head[2].partition("[route]")[0]
    integer = lowered(cfg, random_images(2, side=64), Scheme(a_bit=3, equalise=False, correct_bias=False))
    save_checkpoint("weights/one.int.pt", to_checkpoint(integer, "quantised", ("blue", "green")))
    return place


def test_the_script_measures_what_the_dialect_makes_inexact(one_head, caplog):
    caplog.set_level("INFO")
    record = typed("--weights", "weights/one.int.pt", "--golden", "3")
    assert [path.name for path in record.paths()] == ["one.nir", "report.json"]
    report = json.loads(Path("export/one/report.json").read_text())
    found = report["dialects"]
    assert list(found) == [EXACT, *SEMANTICS] and report["steps"] == 7 and report["images"] == 3
    assert found[EXACT]["differing"] == 0 < found[SUBTRACT]["differing"] < found[ZERO]["differing"]
    graph, integer = nir.read("export/one/one.nir"), load_model("weights/one.int.pt").integer
    assert integer and len(graph.nodes) > 4
    text = Path("export/one/README.md").read_text()
    assert "{" not in text.replace('metadata["reset"]', "") and "for 7 steps" in text and EXACT in text
    assert EXACT in caplog.text and "join several inputs" in caplog.text


def test_the_script_writes_a_file_a_head_and_measures_them_together(one_head, caplog):
    caplog.set_level("INFO")
    text = write_cfg(load_model("weights/one.int.pt").spec)
    head = text[text.rindex("[convolutional]") :]
    relu = "[convolutional]\nfilters=8\nsize=3\npad=1\nstride=4\nactivation=relu\n"
    integer = lowered(
        f"{text}\n[route]\nlayers=0\n\n{relu}\n{head}",
        random_images(2, side=64),
        Scheme(a_bit=3, equalise=False, correct_bias=False),
    )
    save_checkpoint("weights/two.int.pt", to_checkpoint(integer, "quantised", ("blue", "green")))
    record = typed("--weights", "weights/two.int.pt", "--golden", "2")
    ends = readouts(integer.spec)
    names = [f"two.head{end}.nir" for end in ends]
    assert [path.name for path in record.paths()] == [*names, "report.json"]
    found = json.loads(Path("export/two/report.json").read_text())["dialects"]
    assert found[EXACT]["differing"] == 0 < found[SUBTRACT]["differing"]
    words = Path("export/two/README.md").read_text()
    assert words.startswith("# two\n") and all(name in words for name in names) and "a file a head" in words


def test_the_exact_dialect_is_what_it_was(one_head):
    record = typed("--weights", "weights/one.int.pt", "--dialect", "exact")
    (path,) = record.paths()
    graph, words = nir.read(str(path)), (path.parent / "README.md").read_text()
    assert f"After {graph.metadata['steps']} steps" in words and "{" not in words
    assert all(f"`{name}`" in words for name in graph.nodes if name.startswith("output_"))
    assert {type(node).__name__ for node in nir.read(str(path)).nodes.values()} >= {"I", "Threshold", "Scale", "Delay"}
