"""Neurons: by hand, against autograd's own graph of small steps, step by step, and against another library."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from utils.darknet.firing import constant_response, fired
from utils.darknet.neuron_spec import NeuronKeys, NeuronSpec, neuron_spec
from utils.temporal.fused import slope_of
from utils.temporal.neurons import KINDS, let_round, make_neuron
from utils.temporal.straight_through import rounded_membrane
from utils.temporal.surrogates import SURROGATE

T, SHAPE = 5, (2, 3, 4, 4)
LIF = NeuronSpec(kind="lif", v_th=0.5, timesteps=T)
VARIANTS = [
    LIF,
    replace(LIF, reset_gradient=True),
    replace(LIF, reset="soft", surrogate="atan"),
    replace(LIF, membrane_start=0.5),
    replace(LIF, reset="soft", reset_gradient=True, surrogate="triangle"),
    replace(LIF, kind="plif", surrogate="sigmoid"),
    replace(LIF, kind="plif", reset="soft", reset_gradient=True, surrogate="multi-gaussian"),
    NeuronSpec(kind="ilif", v_th=0.7, timesteps=T),
    replace(LIF, signed=True),
    replace(LIF, signed=True, reset_gradient=True, surrogate="atan"),
    replace(LIF, signed=True, reset="soft", reset_gradient=True, surrogate="triangle"),
    replace(LIF, kind="plif", signed=True, surrogate="sigmoid"),
]


def current(seed=0, shape=(T, *SHAPE)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Small(torch.autograd.Function):
    """What a neuron sends, with its slope: one small node, so that autograd does the rest."""

    @staticmethod
    def forward(ctx, u, neuron):
        ctx.save_for_backward(u)
        ctx.neuron = neuron
        return fired(neuron, u, neuron.v_th)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * slope_of(ctx.neuron)(ctx.saved_tensors[0]), None


def unrolled(neuron, x, v, decay):
    """The definition, as a graph of small nodes; what is signed is two neurons of one sign."""
    out, one = [], replace(neuron, signed=False)
    for each in x:
        u = decay * v + each
        up, down = Small.apply(u, one), Small.apply(-u, one) if neuron.signed else 0
        out.append(up - down)
        fell, sent = up + down, up - down
        if not neuron.reset_gradient:
            fell, sent = fell.detach(), sent.detach()
        amount = sent if neuron.kind == "ilif" else neuron.v_th * sent
        v = u * (1 - fell) if neuron.kind != "ilif" and neuron.reset == "hard" else u - amount
    return torch.stack(out), v


def test_a_lif_by_hand():
    neuron = make_neuron(LIF, 1)
    sent = neuron(torch.tensor([0.4, 0.4, 0.6, 0.4]).view(4, 1, 1, 1, 1))
    # 0.4; 0.1 + 0.4 = 0.5, not above; 0.125 + 0.6 = 0.725 fires, back to 0; 0.4
    assert sent.flatten().tolist() == [0, 0, 1, 0]


def test_a_soft_reset_keeps_what_is_above_the_threshold():
    neuron = make_neuron(replace(LIF, reset="soft", membrane_decay=1.0), 1)
    assert neuron(torch.full((4, 1, 1, 1, 1), 0.375)).flatten().tolist() == [0, 1, 1, 0]  # .375 .75 .625 .5


ILIF = NeuronSpec(kind="ilif", v_th=0.7, timesteps=T)


@pytest.mark.parametrize("way", ["at once", "step by step"])
def test_an_ilif_that_does_not_round_yet_is_one_of_very_many_levels(way):
    """As high as its own levels reach; and in eval mode it rounds all the same."""
    open_one, fine = make_neuron(ILIF, 1), make_neuron(replace(ILIF, v_th=0.7 / 4096, levels=4 * 4096), 1)
    let_round(open_one, rounds=False)
    x = current()
    memory, sent = open_one.start(x[0]), []
    if way == "at once":
        sent = open_one(x)
    else:
        for each in x:
            out, memory = open_one.step(each, memory)
            sent.append(out)
        sent = torch.stack(sent)
    torch.testing.assert_close(sent, fine(x), atol=0.7 / 4096, rtol=0)
    assert not torch.equal(sent, make_neuron(ILIF, 1)(x))
    assert torch.equal(open_one.eval()(x), make_neuron(ILIF, 1)(x))


def test_without_rounding_the_gradient_is_the_one_that_goes_straight_through_it():
    x, weights = current(shape=(1, *SHAPE)).mul_(2).requires_grad_(), current(1, (1, *SHAPE))
    found = []
    for rounds in (False, True):
        neuron = make_neuron(ILIF, 1)
        let_round(neuron, rounds)
        found.append(torch.autograd.grad((neuron(x) * weights).sum(), x)[0])
    assert torch.equal(*found)
    assert 0 < int((found[0] == 0).sum()) < x.numel()


@pytest.mark.parametrize("choice", [LIF, replace(LIF, kind="plif", reset="soft"), replace(LIF, signed=True)])
def test_what_counts_no_rates_has_nothing_to_round(choice):
    neuron, x = make_neuron(choice, 1), current()
    wanted = neuron(x)
    let_round(neuron, rounds=False)
    assert torch.equal(neuron(x), wanted)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_lif_that_does_not_fire_yet_sends_the_rate_it_would_have(start):
    """To within half a spike, of a neuron that forgets nothing; and in eval mode it fires all the same."""
    rates = replace(LIF, reset="soft", membrane_decay=1.0, v_th=2.0, timesteps=8, membrane_start=start)
    still = torch.linspace(-1, 4, 100).view(1, 1, 1, 1, 100).expand(8, -1, -1, -1, -1)
    neuron = make_neuron(rates, 1)
    fired = neuron(still)
    let_round(neuron, rounds=False)
    sent = neuron(still)
    assert sent.std(0).max() == 0 and not torch.equal(sent, fired)
    assert float((sent - fired.mean(0)).abs().max()) <= 1 / 16 + 1e-6
    assert torch.equal(neuron.eval()(still), fired)


@pytest.mark.parametrize("surrogate", SURROGATE)
@pytest.mark.parametrize("signed", [False, True])
def test_a_threshold_and_a_surrogate_of_twice_the_width_learn_from_twice_the_current_alike(surrogate, signed):
    choice = replace(LIF, surrogate=surrogate, signed=signed, reset_gradient=True)
    wide = replace(choice, v_th=2 * choice.v_th, surrogate_width=2.0)
    x, weights = current().requires_grad_(), current(1)
    usual = torch.autograd.grad((make_neuron(choice, 1)(x) * weights).sum(), x)[0]
    sent = make_neuron(wide, 1)(2 * x)
    assert torch.equal(sent, make_neuron(choice, 1)(x))
    torch.testing.assert_close(torch.autograd.grad((sent * weights).sum(), x)[0], usual)


def test_a_membrane_that_starts_half_way_by_hand():
    choice = replace(LIF, reset="soft", membrane_start=0.5)
    sent = make_neuron(choice, 1)(torch.tensor([0.4, 0.4, 0.1, 0.2]).view(4, 1, 1, 1, 1))
    # 0.0625 + 0.4; 0.115625 + 0.4 fires, 0.015625 is left; 0.1; 0.2
    assert sent.flatten().tolist() == [0, 1, 0, 0]


def test_a_signed_lif_by_hand():
    neuron = make_neuron(replace(LIF, signed=True), 1)
    sent = neuron(torch.tensor([-0.4, -0.45, 0.4, 0.6]).view(4, 1, 1, 1, 1))
    # -0.4; -0.1 - 0.45 is below -0.5, back to 0; 0.4; 0.1 + 0.6 fires
    assert sent.flatten().tolist() == [0, -1, 0, 1]


def test_a_signed_neuron_answers_the_negative_current_with_the_negative():
    for reset in ("hard", "soft"):
        neuron, x = make_neuron(replace(LIF, signed=True, reset=reset), 3).double(), current()
        assert torch.equal(neuron(-x), -neuron(x))
        assert neuron(x).unique().tolist() == [-1, 0, 1]


@pytest.mark.parametrize("choice", VARIANTS, ids=str)
def test_the_fused_gradient_is_autograds(choice):
    neuron = make_neuron(choice, 3).double()
    x, v = current().requires_grad_(), (0.3 * current(1, SHAPE)).requires_grad_()
    weights, last = current(2), current(3, SHAPE)
    decay = torch.tensor(neuron.decay().item(), dtype=torch.float64, requires_grad=True)
    wanted, end = unrolled(choice, x, v, decay)
    expected = torch.autograd.grad((wanted * weights).sum() + (end * last).sum(), (x, v, decay))
    sent, (behind,) = neuron.unroll(x, (v,))
    assert torch.equal(sent, wanted)
    torch.testing.assert_close(behind, end)
    ((sent * weights).sum() + (behind * last).sum()).backward()
    torch.testing.assert_close(x.grad, expected[0])
    torch.testing.assert_close(v.grad, expected[1])
    if choice.kind == "plif":
        d = decay.item()
        torch.testing.assert_close(neuron.rate.grad[0], expected[2] * d * (1 - d))
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("kind", ["lif", "plif", "ilif", "ltc", "li"])
def test_all_steps_at_once_are_the_steps_one_by_one(kind):
    torch.manual_seed(0)
    neuron = make_neuron(neuron_spec(kind, NeuronKeys(), NeuronKeys(), T), 3).double()
    one, many = current().requires_grad_(), current().requires_grad_()
    sent = neuron(many)
    memory, steps = neuron.start(one[0]), []
    for each in one:
        out, memory = neuron.step(each, memory)
        steps.append(out)
    assert torch.equal(torch.stack(steps), sent)
    (sent * current(2)).sum().backward()
    (torch.stack(steps) * current(2)).sum().backward()
    torch.testing.assert_close(one.grad, many.grad)


def test_a_step_that_begins_where_another_ended_goes_on():
    neuron, x = make_neuron(LIF, 3).double(), current()
    first, memory = neuron.unroll(x[:2], neuron.start(x[0]))
    rest, _ = neuron.unroll(x[2:], memory)
    assert torch.equal(torch.cat((first, rest)), neuron(x))


@pytest.mark.parametrize("decay", [0.25, 1.0])
def test_levels_of_training_are_as_many_binary_steps_at_inference(decay):
    """An ilif sends n = 0..D times its threshold; an integrate-and-fire neuron that is charged once fires n times."""
    choice = NeuronSpec(kind="ilif", v_th=0.5, levels=4, membrane_decay=decay, timesteps=T)
    neuron, x = make_neuron(choice, 3).double(), 2 * current()
    sent = neuron(x)
    v, binary = torch.zeros(SHAPE, dtype=torch.float64), []
    for each in x:
        u = decay * v + each
        left = u + choice.v_th / 2  # rounds to the nearest level
        count = torch.zeros_like(u)
        for _ in range(choice.levels):
            spike = (left >= choice.v_th).double()
            left, count = left - choice.v_th * spike, count + spike
        v = u - choice.v_th * count
        binary.append(count)
    counts = torch.stack(binary)
    assert torch.equal(sent, counts * choice.v_th)
    assert counts.unique().tolist() == [0, 1, 2, 3, 4]


def test_a_liquid_neuron_by_hand():
    choice = NeuronSpec(kind="ltc", v_th=0.5, surrogate="multi-gaussian", reset_gradient=True)
    neuron = make_neuron(choice, 1).double()
    for gate in (neuron.tau_m, neuron.tau_adp):
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.zeros_(gate.bias)  # every gate at 1/2
    sent, (u, b, _) = neuron.unroll(
        torch.tensor([0.8, 0.8, 0.8, 0.8], dtype=torch.float64).view(4, 1, 1, 1, 1),
        neuron.start(torch.zeros(1, 1, 1, 1, dtype=torch.float64)),
    )
    # u: .4, .6 > .5 fires -> 0; then theta = .5 + 1.8 * .5 = 1.4: .4; theta = .5 + 1.8 * .25 = .95: .6
    assert sent.flatten().tolist() == [0, 1, 0, 0]
    assert u.item() == pytest.approx(0.6)
    assert b.item() == pytest.approx(0.25)


def test_a_gate_at_one_forgets_the_membrane():
    neuron = make_neuron(NeuronSpec(kind="ltc", v_th=0.5, adaptive=False, surrogate="atan"), 1)
    torch.nn.init.constant_(neuron.tau_m.bias, 50.0)
    torch.nn.init.zeros_(neuron.tau_m.weight)
    x = torch.tensor([0.4, 0.6, 0.5, 0.9]).view(4, 1, 1, 1, 1)
    assert torch.equal(neuron(x), (x > 0.5).float())


@pytest.mark.parametrize("kind", KINDS)
def test_a_neuron_at_rest_without_current_sends_nothing(kind):
    neuron = make_neuron(neuron_spec(kind, NeuronKeys(), NeuronKeys(), T), 2)
    assert not neuron(torch.zeros(T, 1, 2, 3, 3)).any()


@pytest.mark.parametrize("choice", [each for each in VARIANTS if each.kind != "plif"], ids=str)
def test_the_response_to_a_constant_is_the_mean_over_the_steps(choice):
    values = torch.linspace(-1, 4, 101, dtype=torch.float64)
    sent = make_neuron(choice, 1).double()(values.expand(T, 1, 1, 1, -1))
    torch.testing.assert_close(constant_response(choice)(values), sent.mean(0).flatten())


def test_a_membrane_of_few_bits_is_on_its_grid_and_its_gradient_that_of_tanh():
    u = torch.linspace(-2, 2, 401, dtype=torch.float64, requires_grad=True)
    rounded = rounded_membrane(u, 8)
    assert (rounded - torch.tanh(u)).abs().max().item() <= 1 / 254 + 1e-12
    rounded.sum().backward()
    torch.testing.assert_close(u.grad, 1 - torch.tanh(u.detach()).square())
    assert rounded_membrane(u, 2).unique().tolist() == [-1, 0, 1]
    limited = u.detach().requires_grad_()
    rounded_membrane(limited, 4, limit=0.5).sum().backward()
    assert torch.equal(limited.grad != 0, torch.tanh(u).abs() <= 0.5)


def test_membrane_bits_round_what_is_kept_between_steps():
    neuron = make_neuron(replace(LIF, membrane_bits=3), 3).double()
    _, (v,) = neuron.unroll(current(), neuron.start(current()[0]))
    assert torch.equal((v * 3).round(), v * 3)
    assert not torch.equal(neuron(current()), make_neuron(LIF, 3).double()(current()))


@pytest.mark.parametrize(("reset", "detach"), [("hard", True), ("soft", True), ("hard", False)])
def test_spikingjelly_computes_the_same(reset, detach):
    jelly = pytest.importorskip("spikingjelly.activation_based.neuron", reason="spikingjelly is not installed")
    surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
    choice = replace(LIF, reset=reset, reset_gradient=not detach, surrogate="sigmoid", membrane_decay=0.5, v_th=1.0)
    other = jelly.LIFNode(
        tau=2.0,
        decay_input=False,
        v_reset=0.0 if reset == "hard" else None,
        detach_reset=detach,
        surrogate_function=surrogate.Sigmoid(alpha=4.0),
        step_mode="m",
    )
    mine, theirs = (2 * current()).requires_grad_(), (2 * current()).requires_grad_()
    sent, expected = make_neuron(choice, 3).double()(mine), other(theirs)
    assert torch.equal(sent, expected)
    assert 0 < float(sent.mean()) < 1
    for out in (sent, expected):
        (out * current(2)).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
