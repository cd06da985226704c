"""A network run through time: two ways of running it, what its edges carry, and what is computed once."""

from __future__ import annotations

import pytest
import torch

from models import Darknet, build, network_of
from tests.temporal.nets import CFGS, HIDDEN, images, small, spiking, warmed
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.network import Network
from utils.darknet.neuron_cfg import with_neurons, with_rates
from utils.darknet.neuron_spec import reach
from utils.temporal.early_exit import StepByStep
from utils.temporal.execution import clock_of, detached, initial_gamma
from utils.temporal.neurons import let_round
from utils.temporal.spikes import analog_kernels, spike_counts, spike_units

NETS = ["plain", "residual", "csp", "spp", "transposed", "weighted", "grouped"]
NEURONS = ["lif", "plif", "ilif", "ltc", "signed lif"]


def hidden_values(model: Darknet, x: torch.Tensor) -> set[float]:
    """Every value that a hidden layer makes of spikes or for them, except currents inside a layer."""
    heads = {j for i in model.spec.heads for j in (i, model.spec.layers[i].sources[0])}
    made = {i: v for i, v in model.activations(x).items() if i >= 0 and i not in heads}
    return {value for values in made.values() for value in values.unique().tolist()}


def multiplying(model: Darknet, spikes: set[float]) -> set[int]:
    """The convolutions that are given what is none of these values; means of them are what a read-out may have."""
    found, spec, read_outs = set(), model.spec, clock_of(model.spec, frames=False).averaging
    for i in spec.kernels:
        allowed = {k / spec.timesteps for k in range(-100, 100)} if i in read_outs and i != 0 else spikes
        known = torch.tensor(sorted(allowed)).float()

        def look(_, given, out, i=i, known=known):
            if not torch.isclose(given[0].unique()[:, None], known, atol=1e-6).any(1).all():
                found.add(i)

        model.layers[str(i)].conv.register_forward_hook(look)
    model(images(spec))
    return found


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", NEURONS)
def test_layer_by_layer_is_step_by_step(name, kind):
    if (name, kind) == ("transposed", "ltc"):
        pytest.skip("an ltc has no transposed form; the cfg refuses it")
    model = warmed(spiking(name, kind))
    x, memory, total = images(model.spec), {}, None
    with torch.no_grad():
        at_once = model(x)
        for _ in range(model.timesteps):
            heads, memory = model.advance(x, memory, 1)
            total = heads if total is None else [a + b for a, b in zip(total, heads, strict=True)]
    for whole, summed in zip(at_once, total, strict=True):
        torch.testing.assert_close(summed / model.timesteps, whole, atol=1e-5, rtol=1e-4)
    fired = [values[values.abs() > 0].numel() for i, values in model.activations(x).items() if i in model.spec.neurons]
    assert min(fired) > 0, "layers without a spike would be equal in any case"


def test_frames_are_a_step_each():
    model = warmed(small())
    x = images(model.spec, 3, frames=5)
    with torch.no_grad():
        at_once, memory, heads = model.advance(x, {}, 5)[0], {}, []
        for t in range(5):
            out, memory = model.advance(x[:, t], memory, 1)
            heads.append(out[0])
    torch.testing.assert_close(torch.stack(heads).mean(0), at_once[0])
    assert not torch.equal(model.advance(x.flip(1), {}, 5)[0][0], at_once[0]), "the order of frames matters"
    still = x[:, :1].expand(-1, 5, -1, -1, -1)
    torch.testing.assert_close(model.advance(x[:, 0], {}, 5)[0], model.advance(still, {}, 5)[0])


LAST = HIDDEN.format("lif").replace("timesteps=3", "timesteps=3\nreadout=last")


def test_the_last_step_is_what_outputs_read_where_the_cfg_says_so():
    """As of the steps one by one; and what came before is in the state alone."""
    model, mean = warmed(parse_cfg(LAST)), warmed(small())
    x, memory, steps = images(model.spec), {}, []
    with torch.no_grad():
        for _ in range(3):
            heads, memory = model.advance(x, memory, 1)
            steps.append(heads[0])
        torch.testing.assert_close(model(x)[0], steps[-1])
        torch.testing.assert_close(mean(x)[0], torch.stack(steps).mean(0))
        torch.testing.assert_close(StepByStep(model, None)(x)[0], steps[-1])
    assert not torch.allclose(steps[-1], steps[0]), "steps that are alike would prove nothing"


def test_gradients_of_both_ways_are_the_same():
    model = warmed(small())
    x = images(model.spec)
    model(x)[0].square().sum().backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    memory, total = {}, 0
    for _ in range(model.timesteps):
        heads, memory = model.advance(x, memory, 1)
        total = total + heads[0] / model.timesteps
    total.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-5, rtol=1e-4)


def test_a_state_that_is_detached_stops_the_gradient():
    model = warmed(small())
    x = images(model.spec)
    _, memory = model.advance(x, {}, 2)
    assert any(value.requires_grad for values in memory.values() for value in values)
    assert not any(value.requires_grad for values in detached(memory).values() for value in values)


def test_the_same_image_twice_is_the_same_answer():
    model = warmed(small())
    x = images(model.spec)
    assert torch.equal(model(x)[0], model(x)[0])
    assert torch.equal(model(x[:1])[0], model(x)[0][:1])


def test_one_step_of_a_lif_is_a_network_of_binary_activations():
    model = warmed(spiking("plain", "lif", 1))
    block = model.layers["0"]
    x = images(model.spec)
    with torch.no_grad():
        current = block.bn(block.conv(x))
        assert torch.equal(model.activations(x)[0], (current > 0.5).float())


@pytest.mark.parametrize(
    ("kind", "values"),
    [("lif", {0, 1}), ("plif", {0, 1}), ("ltc", {0, 1}), ("ilif", set(range(5))), ("signed lif", {-1, 0, 1})],
)
def test_nothing_but_spikes_is_inside(kind, values):
    """And nothing else reaches a convolution, but the image the first one: as they are run, whatever a cfg is read as."""
    model = warmed(spiking("plain", kind))
    assert hidden_values(model, images(model.spec)) == values
    assert multiplying(model, values) == {0}


def test_sums_of_spikes_are_several_spikes():
    model = warmed(spiking("residual", "lif"))
    found = hidden_values(model, images(model.spec))
    assert found >= {0, 1, 2}
    assert all(value == int(value) for value in found)


def test_the_recipe_without_neurons_is_found_out():
    """Convolution and batch norm in the place of convolution, batch norm and neuron: nothing spikes."""
    model = warmed(small("linear"))
    assert len(hidden_values(model, images(model.spec))) > 100
    assert multiplying(model, {0, 1}) == {0, 3}
    assert analog_kernels(model.spec) == (0, 3), "its last convolution reads what is no spike"


def test_only_the_first_convolution_reads_analog_values():
    for name in ("plain", "residual", "csp", "spp"):
        spec = spiking(name, "lif")
        first = [i for i, layer in spec.kernels.items() if layer.sources == (-1,)]
        assert list(analog_kernels(spec)) == first, name
    assert analog_kernels(read_cfg(CFGS / "plain.cfg")) == tuple(read_cfg(CFGS / "plain.cfg").kernels)


def test_what_an_edge_is_said_to_carry_is_what_it_carries():
    for kind in ("lif", "ilif"):
        model = warmed(spiking("residual", kind))
        units = spike_units(model.spec)
        for i, values in model.activations(images(model.spec)).items():
            if (units[i] > 0).all():
                counts = spike_counts(values, units[i])
                torch.testing.assert_close(counts * units[i].view(1, -1, 1, 1), values, atol=1e-6, rtol=0)
            elif i >= 0 and i not in model.spec.heads:
                assert values.unique().numel() > 100


def test_a_still_image_goes_through_its_first_convolution_once():
    model = warmed(spiking("plain", "lif"))
    seen = {}
    for i in model.spec.kernels:
        conv = model.layers[str(i)].conv
        conv.register_forward_hook(lambda _, given, out, i=i: seen.setdefault(i, []).append(len(given[0])))
    model(images(model.spec, 3))
    heads = {model.spec.layers[i].sources[0] for i in model.spec.heads}
    for i, sizes in seen.items():
        once = i == 0 or i in heads  # a read-out is linear: it reads the mean over the steps
        assert sizes == [3 if once else 12], i


@pytest.mark.parametrize("kind", ["lif", "ilif"])
def test_float_weights_load_strictly(kind):
    spec = read_cfg(CFGS / "residual.cfg")
    model = build(Network(with_neurons(spec, kind, 4), network_of(Darknet(spec)).state))
    assert model.state_dict().keys() == Darknet(spec).state_dict().keys()


def test_gammas_start_at_the_threshold_and_at_a_fifth_behind_a_branch():
    spec = spiking("plain", "lif")
    model = Darknet(spec)
    assert {value for i in spec.normed for value in model.layers[str(i)].bn.weight.tolist()} == {0.5}
    branch = parse_cfg(
        "[net]\ntimesteps=2\n[convolutional]\nbatch_normalize=1\nfilters=4\nactivation=lif\n"
        "[convolutional]\nbatch_normalize=1\nfilters=4\nactivation=linear\n[shortcut]\nfrom=-2\nactivation=lif\n"
    )
    assert initial_gamma(branch, 0) == 0.5
    assert initial_gamma(branch, 1) == pytest.approx(0.1)
    assert initial_gamma(read_cfg(CFGS / "plain.cfg"), 0) is None


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 8])
def test_rates_reach_where_levels_of_least_squared_error_do(levels):
    """By a plain search over a normal current of which the lower half is cut off."""
    x = torch.linspace(0, 6, 6001, dtype=torch.float64)
    weight = torch.exp(-x.square() / 2)

    def missed(top):
        step = top / levels
        return float((((x / step).round().clamp(max=levels) * step - x).square() * weight).sum())

    best = min((0.5 + 0.005 * k for k in range(700)), key=missed)
    assert reach(levels) == pytest.approx(best, rel=0.025)
    model = Darknet(with_rates(spiking("plain", "lif", levels), start=0.0))
    norms = [model.layers[str(i)].bn for i in model.spec.normed]
    assert torch.cat([norm.weight for norm in norms]).tolist() == pytest.approx([0.5 / reach(levels)] * 32)
    assert torch.cat([norm.bias for norm in norms]).tolist() == pytest.approx([0.25 / levels] * 32)
    model = Darknet(with_rates(spiking("plain", "lif", levels)))
    assert not any(model.layers[str(i)].bn.bias.any() for i in model.spec.normed), "the membrane starts there"


def test_norms_take_their_statistics_over_time_as_over_images():
    model = Darknet(small()).train()
    x = images(model.spec, 2, frames=3)
    model.layers["2"].bn.momentum = 1.0
    model.advance(x, {}, 3)
    mean = model.layers["2"].bn.running_mean.clone()
    model.eval()
    model.layers["0"].bn.train()
    before = model.activations(x)[1]
    with torch.no_grad():
        torch.testing.assert_close(model.layers["2"].conv(before).mean((0, 2, 3)), mean, atol=1e-5, rtol=1e-4)


def test_a_network_for_frames_takes_one_image_as_many():
    spec = parse_cfg(HIDDEN.format("lif").replace("timesteps=3", "timesteps=3\ninput=frames"))
    model = warmed(spec)
    x = images(spec)
    torch.testing.assert_close(model(x), model(x[:, None].expand(-1, 3, -1, -1, -1)))


@pytest.mark.parametrize("frames", [False, True])
def test_neurons_that_send_rates_are_shown_a_still_image_once_and_frames_one_by_one(frames):
    keys = "timesteps=3\nreset=soft" + ("\ninput=frames" if frames else "")
    spec = parse_cfg(HIDDEN.format("lif").replace("timesteps=3", keys))
    model = Darknet(spec).train()
    let_round(model, rounds=False)
    seen = []
    model.layers["2"].register_forward_hook(lambda module, given, out: seen.append(len(out)))
    model(images(spec, 2))
    assert seen == [6 if frames else 2]
    let_round(model, rounds=True)
    model(images(spec, 2))
    assert seen[1:] == [6]
