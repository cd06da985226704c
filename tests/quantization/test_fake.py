"""Quantised training: what is trained is what the integers compute."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.quantization.random_nets import cfg_text, random_images, random_network
from utils.darknet.cfg import parse_cfg
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network, load_checkpoint, save_checkpoint
from utils.quantization.executor import IntegerExecutor
from utils.quantization.fake import FREEZE_RANGES, FREEZE_STATISTICS, FakeQuantised, is_observer
from utils.quantization.fakeconv import FakeConv
from utils.quantization.prepare import prepare, resume
from utils.quantization.qat_checkpoint import observed_in, to_trained, trained_integer
from utils.quantization.scheme import Scheme

CONV = {"batch_normalize": 1, "filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "relu"}
STYLES = [("google", False, False), ("google", True, False), ("google", False, True), ("dorefa", False, False)]
STYLES += [("dorefa", True, False), ("pow2", True, False), ("pow2", True, True)]


def still(network: Network) -> Network:
    """Without dropout, which would make every training pass another one."""
    layers = tuple(replace(x, probability=0.0) if hasattr(x, "probability") else x for x in network.spec.layers)
    return Network(replace(network.spec, layers=layers), network.state)


def trained(network: Network, steps: int = 5, *, fold: bool = False, learn: bool = False, **words) -> FakeQuantised:
    """A few steps of something, so that nothing is where calibration left it; in training mode, all frozen."""
    x = random_images(side=network.spec.height)
    model = prepare(still(network), [x], Scheme(**({"w_bit": 8, "a_bit": 8} | words)), fold=fold, learn=learn).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(steps):
        sum(head.square().mean() for head in model(x)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.at(1.0)
    return model


def both(model: FakeQuantised, x: Tensor) -> tuple[Tensor, Tensor]:
    """The heads' values in training, all frozen, and by the integers; flat."""
    ours, theirs = model.train()(x), IntegerExecutor(model.integer())(x)
    return torch.cat([head.detach().flatten() for head in ours]), torch.cat([head.flatten() for head in theirs])


def off(model: FakeQuantised, x: Tensor) -> float:
    """Their mean difference as a share of their mean size.

    A sum near a tie is rounded by an integer gain there and by a quotient here, so now and then a level is another one,
    and every value that reads it moves.
    """
    ours, theirs = both(model, x)
    return float((ours - theirs).abs().mean() / theirs.abs().mean())


@pytest.mark.parametrize("style, fold, learn", STYLES)
def test_frozen_training_is_the_integers(style, fold, learn):
    for seed in range(4):
        model = trained(random_network(seed, seed), style=style, fold=fold, learn=learn, w_bit=4 if seed % 2 else 8)
        assert off(model, random_images(seed=seed)) < 0.01


@pytest.mark.parametrize("learn", [False, True])
def test_frozen_training_is_the_integers_to_the_last_bit_where_scales_are_powers_of_two(learn):
    network = random_network(cfg_text(*[("convolutional", CONV)] * 3, ("shortcut", {"from": -2})))
    for bits in (8, 4):
        model = trained(network, style="pow2", learn=learn, w_bit=bits, a_bit=bits)
        ours, theirs = both(model, random_images())
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("activation", ["leaky", "leaky_pow2", "relu6", "mish", "swish", "logistic", "h_swish"])
def test_every_activation_trains_as_its_integers(activation):
    text = cfg_text(*[("convolutional", CONV | {"activation": activation})] * 2)
    assert off(trained(random_network(text)), random_images()) < 0.01


@pytest.mark.parametrize(
    "sections",
    [
        [("convolutional", CONV), ("se", {"reduction": 4})],
        [("convolutional", CONV), ("convolutional", CONV), ("shortcut", {"from": -2, "activation": "leaky"})],
        [("convolutional", CONV), ("convolutional", CONV), ("route", {"layers": "-1,-2"})],
        [("convolutional", CONV), ("convolutional", CONV | {"groups": 8}), ("reorg", {"stride": 2})],
        [("convolutional", CONV | {"stride": 2}), ("transposed_convolutional", CONV | {"stride": 2})],
        [
            ("convolutional", CONV | {"stride": 2}),
            ("transposed_convolutional", CONV | {"size": 4, "stride": 2, "pad": 0, "padding": 1, "groups": 2}),
            ("upsample", {"stride": 2, "zeros": 1}),
            ("convolutional", CONV),
        ],
    ],
    ids=["se", "shortcut", "concat", "depthwise-reorg", "transposed", "transposed-zeros"],
)
def test_every_section_trains_as_its_integers(sections):
    from models import build, network_of

    torch.manual_seed(3)
    spec = parse_cfg(cfg_text(*sections), "net")
    from models import Darknet

    network = network_of(Darknet(spec))
    assert build(network) is not None
    assert off(trained(network), random_images()) < 0.01


@pytest.mark.parametrize("style", ["google", "pow2"])
def test_eight_bits_compute_almost_what_the_float_network_does(style):
    from models import build

    network = still(random_network(5, 5))
    x = random_images()
    model = prepare(network, [x], Scheme(style=style, w_bit=8, a_bit=8)).eval()
    for head, wanted in zip(model(x), build(network)(x), strict=True):
        assert (head - wanted).abs().mean() < 0.08 * wanted.abs().mean()


def test_parameters_have_the_names_of_the_float_network():
    from models import build

    network = random_network(1, 1)
    model = trained(network, 0)
    floats = {name for name in model.state_dict() if not is_observer(name)}
    assert floats == set(build(network).state_dict())
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in build(network).named_parameters()}


def test_evaluation_moves_no_observer():
    model = trained(random_network(3, 3), 2)
    model.frozen.zero_()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for seed in range(6):
        model.eval()(random_images(seed=seed) * 0.5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_training_moves_scales_until_they_freeze_and_statistics_until_later():
    model = trained(random_network(0, 0), 0)
    model.frozen.zero_()
    x = random_images(seed=7) * 0.5

    def moved(kind) -> bool:
        before = {key: value.clone() for key, value in model.state_dict().items() if kind(key)}
        for _ in range(4):
            model.train()(x)
        return any(not torch.equal(model.state_dict()[key], value) for key, value in before.items())

    def scales(key: str) -> bool:
        return is_observer(key) and key.endswith("scale")

    assert moved(scales) and moved(lambda key: "running" in key)
    model.at(FREEZE_RANGES)
    assert not moved(scales) and moved(lambda key: "running" in key)
    model.at(FREEZE_STATISTICS)
    assert not moved(lambda key: "running" in key)
    model.at(0.0)
    assert model.frozen.tolist() == [1, 1]  # nothing thaws


def test_integers_are_made_again_when_a_tensor_changes():
    model, x = trained(random_network(1, 1), 1).eval(), random_images()
    first = model(x)[0]
    assert model.executor() is model.executor()
    kept = model.executor()
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    assert model.executor() is not kept and not torch.equal(model(x)[0], first)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(twin.parameters()).mul_(0.5)
    assert not torch.equal(twin(x)[0], model(x)[0])
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x)[0], model(x)[0])


def test_pow2_requantises_by_shifts_alone():
    network = random_network(cfg_text(*[("convolutional", CONV | {"activation": "leaky_pow2"})] * 3))
    integer = trained(network, style="pow2", w_bit=4, a_bit=4).integer()
    for op in integer.ops.values():
        if op.requantiser is not None:
            assert op.requantiser.multiplier.unique().tolist() in (
                [1],
                [8],
            ) and op.requantiser.multiplier_neg.unique().tolist() == [1]
            assert op.requantiser.multiplier.max() in (1, 8)  # 8 : 1 is the slope; both are shifts


def test_pow2_range_is_never_below_what_the_calibration_asked_for():
    network = random_network(2, 2)
    x = random_images()
    real = prepare(network, [x], Scheme(style="google", a_bit=8, equalise=False))
    power = prepare(network, [x], Scheme(style="pow2", a_bit=8, equalise=False))
    for name, edge in power.edges.items():
        asked, used = float(real.edges[name].step()), float(edge.step())
        if name != "group-1":
            assert asked <= used < 2 * asked


@pytest.mark.parametrize("style", ["google", "pow2"])
def test_evening_out_channels_beforehand_changes_nothing(style):
    from models import build

    for seed in range(5):
        network = still(random_network(seed, seed))
        x = random_images()
        model = prepare(network, [x], Scheme(style=style))
        for a, b in zip(build(model.float_network())(x), build(network)(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_pow2_edges_are_stretched_until_their_power_of_two_fits():
    network = random_network(cfg_text(*[("convolutional", CONV)] * 3))
    for name, edge in prepare(network, [random_images()], Scheme(style="pow2")).edges.items():
        if name != "group-1":
            assert 1 <= float(edge.step()) / float(edge.scale) < 1.05


def test_dead_channels_and_silent_layers_stay_finite():
    network = random_network(cfg_text(*[("convolutional", CONV)] * 2))
    state = dict(network.state)
    state["layers.0.bn.weight"] = state["layers.0.bn.weight"].clone()
    state["layers.0.bn.weight"][:3] = 0
    state["layers.1.conv.weight"] = torch.zeros_like(state["layers.1.conv.weight"])
    for style, fold, learn in STYLES:
        model = trained(Network(network.spec, state), style=style, fold=fold, learn=learn)
        assert all(torch.isfinite(value).all() for value in model.state_dict().values()), style
        assert all(torch.isfinite(head).all() for head in model.eval()(random_images()))


def test_bias_is_rounded_to_the_accumulator_and_not_to_the_weights_bits():
    model = trained(random_network(cfg_text(("convolutional", CONV))), w_bit=2, a_bit=8)
    quantised, integer = model.quantised(), model.integer()
    bias = quantised.network.state["layers.0.conv.bias"].double()
    unit = quantised.grids[-1].scale * quantised.weight_scales[0]
    assert ((integer.ops[0].bias * unit - bias).abs() <= unit / 2 + 1e-9).all()
    assert integer.ops[0].bias.abs().max() > 2  # far more than two bits


def test_batch_norm_is_absorbed_exactly_without_folding():
    model = trained(random_network(4, 4), w_bit=4)
    quantised = model.quantised()
    folded = fold_bn(model.float_network()).state
    for i, layer in enumerate(model.spec.layers):
        if getattr(layer, "bn", False):
            conv = model.layers[str(i)]
            assert isinstance(conv, FakeConv)
            level = quantised.network.state[f"layers.{i}.conv.weight"] / quantised.weight_scales[i].view(-1, 1, 1, 1)
            assert (level - level.round()).abs().max() < 1e-4 and level.abs().max() <= 7 + 1e-4
            bias = quantised.network.state[f"layers.{i}.conv.bias"]
            torch.testing.assert_close(bias, folded[f"layers.{i}.conv.bias"], rtol=1e-5, atol=1e-6)


def test_batch_norm_is_folded_once_however_often_the_file_is_reloaded(tmp_path):
    model, x = trained(random_network(6, 6), fold=True).eval(), random_images()
    wanted = model(x)
    for turn in range(3):
        path = save_checkpoint(tmp_path / f"{turn}.pt", to_trained(model, training={}, meta={}))
        checkpoint = load_checkpoint(path)
        known = observed_in(checkpoint)
        model = resume(checkpoint.network, known.state, known.scheme, counts=known.counts, fold=known.fold).eval()
        for executor in (model, IntegerExecutor(trained_integer(checkpoint))):
            assert all(torch.equal(a, b) for a, b in zip(executor(x), wanted, strict=True))


def test_no_images_are_refused():
    from utils.errors import InputError

    with pytest.raises(InputError, match="calibration: no images"):
        prepare(random_network(0), [], Scheme())
    known = trained(random_network(0), 0).observers()
    with pytest.raises(InputError, match="its scales are of another"):
        resume(random_network(2), known, Scheme())


def test_dorefa_network_at_other_bits_starts_from_the_tanhs_that_it_computes():
    network = random_network(cfg_text(*[("convolutional", CONV)] * 3))
    state = {key: value * 4 if key.endswith("conv.weight") else value for key, value in network.state.items()}
    x = random_images()
    # Untrained: the scales fit, so that the weights alone make a difference.
    model = trained(Network(network.spec, state), steps=0, style="dorefa", w_bit=8, a_bit=8).eval()
    wanted = torch.cat([head.flatten() for head in model(x)])

    def error(known: bool) -> float:
        again = prepare(model.float_network(), [x], replace(model.scheme, w_bit=7), trained=known).eval()
        return float((torch.cat([head.flatten() for head in again(x)]) - wanted).norm() / wanted.norm())

    assert error(True) < 0.03 < 0.1 < error(False)
