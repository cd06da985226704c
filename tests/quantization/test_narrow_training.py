"""Quantised training under a declared accumulator: whatever is learned, no input can overflow it."""

from __future__ import annotations

import pytest
import torch

from tests.quantization.random_nets import cfg_text, random_images, random_network, rich_cfg
from tests.quantization.test_accumulators import widest
from tests.quantization.test_fake import CONV, STYLES, off, trained
from utils.darknet.network import Network, load_checkpoint, save_checkpoint
from utils.errors import InputError
from utils.quantization.fakeconv import FakeConv
from utils.quantization.integer import IntConv
from utils.quantization.prepare import prepare, resume
from utils.quantization.qat_checkpoint import observed_in, to_trained
from utils.quantization.scheme import Scheme


@pytest.mark.parametrize("style, fold, learn", STYLES)
def test_integers_of_a_narrow_training_fit_and_are_what_it_computed(style, fold, learn):
    for seed in (0, 3):
        network = random_network(rich_cfg(seed))
        words = {"style": style, "fold": fold, "learn": learn, "w_bit": 6, "a_bit": 6}
        free = widest(trained(network, **words).integer())
        model = trained(network, acc_bits=free - 2, **words)
        assert widest(model.integer()) <= free - 2
        assert off(model, random_images()) < 0.02


@pytest.mark.parametrize("style, fold, learn", STYLES)
def test_bound_holds_for_a_moment_of_training_that_nobody_prepared_for(style, fold, learn):
    """Weights, gains and biases anywhere, dead channels among them, as a long run may leave them."""
    model = trained(random_network(cfg_text(*[("convolutional", CONV)] * 2)), 0, style=style, fold=fold, learn=learn)
    scheme = Scheme(style=style, w_bit=8, a_bit=8, acc_bits=18)
    narrow = prepare(model.float_network(), [random_images()], scheme, fold=fold, learn=learn)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in narrow.named_parameters():
            if not name.endswith("scale"):
                value.copy_(torch.randn(value.shape, generator=generator) * 3)
        for i in ("0", "1"):
            conv = narrow.layers[i]
            assert isinstance(conv, FakeConv) and conv.bn is not None
            conv.bn.weight[:3] = torch.tensor([0.0, 1e-12, 1e-38])
    integer = narrow.integer()
    assert widest(integer) <= 18
    assert max(op.acc_bits for op in integer.ops.values() if isinstance(op, IntConv)) == widest(integer)


def test_accumulator_that_everything_fits_changes_nothing():
    x, network = random_images(), random_network(2, 2)
    for style in ("google", "dorefa", "pow2"):
        free, wide = (trained(network, style=style, acc_bits=bits) for bits in (None, 32))
        assert all(torch.equal(a, b) for a, b in zip(free(x), wide(x), strict=True))
        assert all(torch.equal(value, wide.state_dict()[key]) for key, value in free.state_dict().items())


def test_narrow_training_outlives_its_file(tmp_path):
    model, x = trained(random_network(6, 6), fold=True, acc_bits=15).eval(), random_images()
    checkpoint = load_checkpoint(save_checkpoint(tmp_path / "x.pt", to_trained(model, training={}, meta={})))
    known = observed_in(checkpoint)
    assert known and known.scheme.acc_bits == 15
    again = resume(checkpoint.network, known.state, known.scheme, counts=known.counts, fold=known.fold).eval()
    assert all(torch.equal(a, b) for a, b in zip(again(x), model(x), strict=True)) and widest(again.integer()) <= 15


def test_accumulator_too_narrow_for_a_layer_is_refused_with_the_remedy():
    wide = cfg_text(("convolutional", CONV | {"filters": 64}), ("convolutional", CONV | {"filters": 64}))
    with pytest.raises(
        InputError,
        match=r"layer 0 \(cfg line 6\): accumulators of 12 bits leave only \d+% of its weights' power; use more",
    ):
        prepare(random_network(wide), [random_images()], Scheme(w_bit=8, a_bit=8, acc_bits=12))


def test_channels_that_batch_norm_has_almost_switched_off_are_no_reason_to_refuse():
    """As sparse training leaves them: their bias is large beside what is left of their weights."""
    network = random_network(cfg_text(("convolutional", CONV)))
    state = {
        k: v * torch.tensor([1.0] + [1e-6] * 7) if k == "layers.0.bn.weight" else v for k, v in network.state.items()
    }
    for style, fold in (("google", False), ("google", True), ("dorefa", False)):
        scheme = Scheme(style=style, w_bit=8, a_bit=8, acc_bits=18)
        integer = prepare(Network(network.spec, state), [random_images()], scheme, fold=fold).integer()
        assert widest(integer) <= 18 and integer.ops[0].weight[0].any()


def test_dead_layer_is_not_taken_for_one_that_the_accumulator_killed():
    network = random_network(cfg_text(*[("convolutional", CONV)] * 2))
    state = {k: torch.zeros_like(v) if k == "layers.1.conv.weight" else v for k, v in network.state.items()}
    for style in ("google", "dorefa", "pow2"):
        model = prepare(Network(network.spec, state), [random_images()], Scheme(style=style, a_bit=8, acc_bits=18))
        assert widest(model.integer()) <= 18 and all(torch.isfinite(head).all() for head in model(random_images()))
