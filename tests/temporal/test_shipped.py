"""The spiking networks in cfg/spiking: their sizes, what runs through their edges, one step of training, a cut."""

from __future__ import annotations

import pytest
import torch

from models import Darknet, network_of
from tests.conftest import ROOT
from tests.pruning.nets import assert_same, image, run
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.counts import parameters
from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import cut, silence
from utils.temporal.execution import initial_gamma
from utils.temporal.spikes import analog_kernels

PATHS = sorted((ROOT / "cfg" / "spiking").glob("*.cfg"))
EMS = [path for path in PATHS if path.stem.startswith("ems")]
PARAMETERS = {  # of 80 classes, as published: EMS-YOLO's res10-ee, res18-ee and resnet34; YOLOv3-tiny
    "ems-resnet10": 6_387_230,
    "ems-resnet18": 9_523_550,
    "ems-resnet34": 34_027_454,
    "yolov3-tiny-lif": 8_852_366,
}
FULL, PUBLISHED = (
    "activation=lif  # linear: the shortcut as published",
    "activation=linear  # the shortcut as published",
)
SIDE = 64


@pytest.fixture(scope="module")
def made() -> dict[str, Darknet]:
    """Each network behind one step of training at 64 px, with its gradients."""
    return {}


def trained(path, made) -> Darknet:
    if path.stem not in made:
        torch.manual_seed(0)
        model = Darknet(read_cfg(path)).train()
        x = torch.rand(2, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
        sum(head.square().mean() for head in model(x)).backward()
        made[path.stem] = model
    return made[path.stem]


def heads_of(spec: ModelSpec) -> list[int]:
    return [spec.layers[i].sources[0] for i in spec.heads]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_cfg_says_what_it_is_and_is_written_as_it_is_read(path):
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ") and len(first) < 130 and second == "[net]"
    spec = read_cfg(path)
    assert parse_cfg(write_cfg(spec)) == spec


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_a_network_has_as_many_parameters_as_published(name, count):
    spec = read_cfg(ROOT / "cfg" / "spiking" / f"{name}.cfg")
    with torch.device("meta"):
        assert parameters(spec) == count == sum(p.numel() for p in Darknet(spec).parameters())


def test_spyv4_has_nineteen_liquid_cells_with_gates_of_3x3():
    spec = read_cfg(ROOT / "cfg" / "spiking" / "spyv4.cfg")
    cells = list(spec.neurons.values())
    assert len(cells) == 19
    assert {(cell.kind, cell.gate, cell.adaptive, cell.v_th) for cell in cells} == {("ltc", "full", False, 1.0)}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_one_step_of_training_moves_every_tensor_by_what_is_finite(path, made):
    for name, parameter in trained(path, made).named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name.endswith("bn.weight") or "tau_m" in name, f"{name} learns nothing"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_neurons_send_are_spikes_and_only_membranes_are_analog(path, made):
    model = trained(path, made)
    spec = model.spec
    with torch.no_grad():  # not above: whichever test is first trains the network
        values = model.activations(torch.rand(1, 3, SIDE, SIDE))
    for i, neuron in spec.neurons.items():
        most = neuron.levels if neuron.kind == "ilif" else 1
        counts = values[i] / neuron.unit
        assert set(counts.unique().tolist()) <= set(range(most + 1)), i
        assert counts.any(), f"layer {i} is silent, and silence proves nothing"
    analog = analog_kernels(spec)
    membranes = heads_of(spec) if path in EMS else []  # EMS-YOLO reads its boxes out of membranes
    assert list(analog) == [min(spec.kernels), *membranes]
    for i in spec.kernels.keys() - set(analog):
        read = values[spec.layers[i].sources[0]]
        assert torch.equal(read, read.round()), f"layer {i} is said to read spikes, and multiplies"


@pytest.mark.parametrize("path", EMS[:2], ids=lambda path: path.stem)
def test_the_shortcut_as_published_reads_membranes(path):
    text = path.read_text()
    full, published = parse_cfg(text), parse_cfg(text.replace(FULL, PUBLISHED))
    assert parameters(full) == parameters(published)
    more = set(analog_kernels(published)) - set(analog_kernels(full))
    assert len(more) == text.count(FULL) == 3
    assert all(published.kernels[i].size == 1 for i in more)


@pytest.mark.parametrize("path", EMS, ids=lambda path: path.stem)
def test_gammas_start_at_a_fifth_of_the_threshold_at_the_end_of_a_branch_alone(path):
    spec = read_cfg(path)
    found = {i: initial_gamma(spec, i) for i in spec.normed}
    second = {i for i in spec.normed if spec.kernels[i].sources[0] in spec.kernels}  # of the two of a branch
    assert {i for i, gamma in found.items() if gamma == pytest.approx(0.1)} == second
    assert {found[i] for i in found.keys() - second} == {0.5}


@pytest.mark.parametrize("path", [PATHS[0], PATHS[-1], PATHS[-2], PATHS[-3]], ids=lambda path: path.stem)
def test_channels_that_slim_cuts_are_those_that_it_silences(path):
    torch.manual_seed(1)
    spec = read_cfg(path)
    net = network_of(Darknet(spec))
    for i in spec.normed:
        net.state[f"layers.{i}.bn.weight"].uniform_(0.2, 1)
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.ANY)
    small, x = cut(net, plan), image(net, 1)[..., :SIDE, :SIDE]
    assert parameters(small.spec) < 0.8 * parameters(spec)
    assert parse_cfg(write_cfg(small.spec)) == small.spec
    assert_same(run(Network(small.spec, small.state), x), run(silence(net, plan), x), 1e-3)
