"""Recurrent layers: by hand, against autograd's own graph, torch's LSTM, step by step, and at other lengths."""

from __future__ import annotations

import pytest
import torch

from models import Darknet
from tests.sequences.nets import UNITS, net


def model_of(kind: str, seed: int = 0, **options) -> Darknet:
    """A network whose units fire."""
    torch.manual_seed(seed)
    made = Darknet(net(kind, **options))
    with torch.no_grad():
        for parameter in made.layers["0"].neuron.parameters():
            parameter.mul_(1.5)
    return made


def sequences(n: int = 3, steps: int = 10, channels: int = 2) -> torch.Tensor:
    return torch.rand(n, steps, channels, 1, 1, generator=torch.Generator().manual_seed(n + steps))


def by_hand(units, x: torch.Tensor) -> list[list[float]]:
    """One sequence [T, C] through one layer, unit by unit in plain numbers: spikes of every step."""
    w, r, bias = units.input.weight.tolist(), units.back.weight.tolist(), units.input.bias.tolist()
    size = len(bias)
    u, b, s = [0.0] * size, [0.0] * size, [0.0] * size
    sent = []
    for step in x.tolist():
        d = [bias[i] + dot(w[i], step) + dot(r[i], s) for i in range(size)]
        if hasattr(units, "tau_m"):
            rho = [sigmoid(dot(row, d + b) + c) for row, c in zip(*lists(units.tau_adp), strict=True)]
            alpha = [sigmoid(dot(row, d + u) + c) for row, c in zip(*lists(units.tau_m), strict=True)]
            b = [rho[i] * b[i] + (1 - rho[i]) * s[i] for i in range(size)]
            u = [u[i] + alpha[i] * (d[i] - u[i]) for i in range(size)]
            s = [float(u[i] > 0.1 + 1.8 * b[i]) for i in range(size)]
        else:
            u = [0.9 * u[i] + d[i] for i in range(size)]
            s = [float(u[i] > 0.5) for i in range(size)]
        u = [(1 - s[i]) * u[i] for i in range(size)]
        sent.append(s)
    return sent


def lists(gate) -> tuple[list, list]:
    return gate.weight.tolist(), gate.bias.tolist()


def dot(row, values) -> float:
    return sum(a * b for a, b in zip(row, values, strict=True))


def sigmoid(x: float) -> float:
    return float(torch.tensor(x).double().sigmoid())


@pytest.mark.parametrize("kind", ["ltc", "lif"])
def test_units_fire_as_the_formulas_say(kind):
    units, x = model_of(kind).layers["0"].neuron, sequences(1, 20)
    sent = units(x.transpose(0, 1)).flatten(2)[:, 0]
    assert sent.tolist() == by_hand(units, x[0].flatten(1))
    assert 0.05 < sent.mean() < 0.95 and float(units.fired) == pytest.approx(float(sent.detach().mean()))


RESETS = ("", "reset=soft\n", "reset_gradient=1\n", "reset=soft\nreset_gradient=1\n", "sends=membrane\n")
LIQUID = ("", "reset_gradient=0\n", "sends=membrane\n")  # hard reset alone


@pytest.mark.parametrize(("kind", "keys"), [*(("lif", each) for each in RESETS), *(("ltc", each) for each in LIQUID)])
def test_one_node_of_the_graph_has_the_gradient_of_autograds_many(kind, keys):
    model, x = model_of(kind, keys=keys), sequences(4, 12).requires_grad_()
    units, found = model.layers["0"].neuron, []
    for fused in (True, False):
        units.fused = fused
        model.zero_grad()
        x.grad = None
        (first,), memory = model.advance(x[:, :5], {}, 5)
        (rest,), memory = model.advance(x[:, 5:], memory, 7)
        out = torch.cat((first, rest), 1)
        weights = torch.linspace(-1, 2, out.numel()).view_as(out)
        ((out * weights).sum() + sum(value.square().sum() for value in memory[0][:-1])).backward()
        found.append([out.detach(), x.grad, *(parameter.grad for parameter in model.parameters())])
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)


def test_an_lstm_is_torchs():
    model, x = model_of("lstm"), sequences()
    cell = torch.nn.LSTM(2, 6)
    cell.load_state_dict(model.layers["0"].neuron.cell.state_dict())
    wanted = model.layers["1"](cell(x.flatten(2).transpose(0, 1))[0].flatten(0, 1)[..., None, None])
    torch.testing.assert_close(model(x)[0], wanted.unflatten(0, (10, 3)).transpose(0, 1))


@pytest.mark.parametrize("keys", ["", "step_norm=10\n"])
@pytest.mark.parametrize("kind", UNITS)
def test_step_by_step_is_the_whole_sequence(kind, keys):
    model, x = model_of(kind, keys="" if kind == "lstm" else keys), sequences()
    model.train()(x)
    whole, memory, parts = model.eval()(x)[0], {}, []
    for t in range(10):
        (part,), memory = model.advance(x[:, t : t + 1], memory, 1)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)


def test_norms_of_steps_have_statistics_of_their_own_and_later_steps_those_of_the_last():
    model = model_of("ltc", keys="step_norm=10\n").train()
    rising = sequences(16) * torch.linspace(0.1, 2, 10)[None, :, None, None, None]
    for _ in range(80):
        model(rising)
    norm = model.layers["0"].neuron.input_norm
    incoming = rising.flatten(2) @ model.layers["0"].neuron.input.weight.T
    torch.testing.assert_close(norm.running_mean, incoming.mean(0), rtol=0.01, atol=1e-3)
    torch.testing.assert_close(norm.running_var, incoming.var(0), rtol=0.01, atol=1e-3)
    longer, model = torch.cat((rising, rising[:, -1:], rising[:, -1:]), 1), model.eval()
    found = model(longer)[0]
    assert found.shape == (16, 12, 1, 1, 1) and torch.equal(found[:, :10], model(rising)[0])
    before = norm.running_mean[9].clone()
    norm.running_mean[9] += 1
    changed = model(longer)[0]
    assert torch.equal(changed[:, :9], found[:, :9]) and not torch.equal(changed[:, 11], found[:, 11])
    norm.running_mean[9] = before


def test_state_stays_in_fp32_where_autocast_would_round_it():
    model, x = model_of("ltc"), sequences()
    with torch.autocast("cpu", torch.bfloat16):
        _, memory = model.advance(x, {}, 10)
    assert {value.dtype for value in memory[0][:-1]} == {torch.float32}
    torch.testing.assert_close(memory[0][0], model.advance(x, {}, 10)[1][0][0])


@pytest.mark.parametrize("kind", UNITS)
def test_what_fptt_keeps_for_gradients_does_not_grow_with_the_sequence_and_bptts_does(kind):
    from benchmarks.sequences import saved_bytes

    spec = net(kind, units=8)
    steps = (25, 50, 100)
    forward = [saved_bytes(spec, steps=t, segments=t, batch=4) for t in steps]
    back = [saved_bytes(spec, steps=t, segments=1, batch=4) for t in steps]
    assert len(set(forward)) == 1 and back[2] > 3 * back[0] > 3 * forward[0]
