"""What one optimizer step sees does not depend on how its images were dealt out to batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.training.toy import ToyBatch, ToyLoader, toy_loss, toy_model, toy_update, train
from utils.errors import InputError
from utils.training.device import Precision, select_device, select_precision
from utils.training.loop import train_one_epoch
from utils.training.schedule import Schedule, step_ends


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("batch", "accumulate"), [(6, 2), (4, 3), (3, 4), (1, 12), (5, 3)])
def test_accumulated_batches_learn_what_one_large_batch_learns(batch, accumulate):
    whole, parts = toy_model(bn=False), toy_model(bn=False)
    once = train(whole, ToyLoader(batch=12))
    split = train(parts, ToyLoader(batch=batch), accumulate=accumulate)
    assert once[0].steps == split[0].steps == 1 and once[0].images == split[0].images == 12
    assert split[0].losses["total"] == pytest.approx(once[0].losses["total"], rel=1e-5)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(("batch", "accumulate", "steps"), [(12, 1, 1), (4, 1, 3), (4, 3, 1), (2, 2, 3), (1, 5, 2)])
def test_penalty_is_applied_once_a_step_whatever_the_accumulation(batch, accumulate, steps):
    seen = []
    train(toy_model(), ToyLoader(batch=batch), epochs=2, accumulate=accumulate, penalty=seen.append)
    assert seen == list(range(2 * steps))


def test_penalty_adds_to_the_final_gradient():
    model = toy_model()
    gammas, gradients = model[1].weight, []
    s = 0.01

    def penalty(step: int) -> None:
        gradients.append(gammas.grad.clone())
        gammas.grad.add_(gammas.detach().sign(), alpha=s)

    plain = toy_model()
    train(plain, ToyLoader(batch=12), clip=1e-9)
    train(model, ToyLoader(batch=12), clip=1e-9, penalty=penalty)
    assert gradients[0].abs().max() < 1e-9, "the penalty sees clipped gradients, and is not clipped itself"
    rate = Schedule(steps=1, warmup=2).rate(0, 0.05)
    momentum = Schedule(steps=1, warmup=2).momentum_at(0)
    moved = plain[1].weight - gammas
    torch.testing.assert_close(moved, torch.full_like(moved, rate * s * (1 + momentum)), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize(("batches", "accumulate"), [(1, 1), (10, 4), (7, 2), (188, 4), (3, 64), (5, 1)])
def test_steps_share_out_the_batches_evenly(batches, accumulate):
    ends = step_ends(batches, accumulate)
    shares = [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    assert ends[-1] == batches and sum(shares) == batches and min(shares) >= 1 and max(shares) - min(shares) <= 1
    assert len(ends) == max(1, round(batches / accumulate))


def test_no_batches_take_no_steps():
    assert step_ends(0, 4) == []


def test_nan_loss_stops_and_names_epoch_batch_and_images():
    model, loader = toy_model(), ToyLoader()
    calls = []

    def loss(outputs, batch):
        calls.append(batch.indices)
        return {"total": toy_loss(outputs, batch)["total"] * (float("nan") if len(calls) == 5 else 1)}

    with pytest.raises(
        InputError, match=r"epoch 2, batch 2, images \d+, \d+, \d+, \d+: the loss is not finite"
    ) as message:
        train(model, loader, epochs=2, loss=loss)
    assert ", ".join(map(str, calls[-1])) in str(message.value)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_infinite_gradient_stops_before_it_reaches_the_weights():
    model = toy_model()
    before = state_of(model)

    def loss(outputs, batch):
        return {"total": (outputs * 0).abs().sqrt().sum()}  # 0, with the slope of sqrt at 0

    with pytest.raises(InputError, match=r"epoch 1, batch 1, images .*: the gradient is (nan|inf)"):
        train(model, ToyLoader(), loss=loss)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_losses_are_means_over_images_not_over_batches():
    def loss(outputs, batch):
        return {"total": outputs.sum() * 0 + len(batch.images), "one": torch.tensor(1.0)}

    result = train(toy_model(), ToyLoader(images=12, batch=5), loss=loss)[0]
    assert result.losses == {"total": pytest.approx((5 * 5 + 5 * 5 + 2 * 2) / 12), "one": 1.0}


def test_images_reach_the_model_scaled_to_one_and_in_channels_last():
    seen = []

    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = toy_model()

        def forward(self, x):
            seen.append(x.detach())
            return self.model(x)

    loader = ToyLoader(images=4)
    train(Watch(), loader)
    assert torch.equal(seen[0].sort(dim=0).values, (loader.images.float() / 255).sort(dim=0).values)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_step_moves_the_weights_by_the_gradient_of_the_mean_loss_of_an_image():
    model, plain, loader = toy_model(), toy_model(), ToyLoader(images=6, batch=6)
    batch = next(iter(loader))
    outputs = plain.train()(batch.images.float() / 255)
    toy_loss(outputs, batch)["total"].backward()
    gradients = [parameter.grad for parameter in plain.parameters()]
    weights = [parameter.detach().clone() for parameter in plain.parameters()]
    train(
        model, loader, optimizer=torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.3}], lr=0.3), clip=1e9
    )
    moved = [before - after.detach() for before, after in zip(weights, model.parameters(), strict=True)]
    rate = 0.3 * Schedule(steps=1, warmup=2).rate(0, 1.0)
    for gradient, step in zip(gradients, moved, strict=True):
        assert torch.allclose(step, rate * gradient, rtol=1e-4, atol=1e-7)


def test_a_model_that_was_measured_trains_again():
    model = toy_model().eval()
    before = model[1].running_mean.clone()
    train(model, ToyLoader())
    assert model.training and not torch.equal(model[1].running_mean, before)


def test_throughput_counts_the_waiting():
    result = train(toy_model(), ToyLoader())[0]
    assert result.images_per_second == pytest.approx(12 / result.seconds) and 0 < result.wait_share < 1


def test_scaled_fp16_gradients_and_fp32_gradients_meet_the_same_penalty():
    """A gradient scaler multiplies the loss by 65536; the penalty must not notice."""
    plain, scaled, seen = toy_model(), toy_model(), {}
    for name, model, scaler in (("plain", plain, None), ("scaled", scaled, torch.amp.GradScaler("cpu"))):
        gamma = model[1].weight
        penalty = lambda step, gamma=gamma, name=name: seen.setdefault(name, gamma.grad.clone())  # noqa: E731
        train_one_epoch(ToyLoader(), toy_loss, toy_update(model, scaler=scaler, penalty=penalty), epoch=0)
    torch.testing.assert_close(seen["scaled"], seen["plain"], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(scaled[1].weight, plain[1].weight, rtol=1e-4, atol=1e-6)


def test_autocast_trains_in_bf16_but_keeps_parameters_and_losses_in_fp32():
    model = toy_model()
    kinds = []

    def loss(outputs, batch):
        kinds.append(outputs.dtype)
        return toy_loss(outputs, batch)

    precision = Precision(torch.device("cpu"), torch.bfloat16)
    update = toy_update(precision.place(model))
    update.precision = precision
    result = train_one_epoch(ToyLoader(), loss, update, epoch=0)
    assert set(kinds) == {torch.float32} and result.images == 12
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_device_that_is_not_there_is_refused():
    assert select_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="--device 99: this machine has"):
        select_device("99")
    with pytest.raises(InputError, match="--device tpu: not a device"):
        select_device("tpu")
    assert select_precision(torch.device("cpu")).dtype in (None, torch.bfloat16)


def test_toy_batch_is_what_the_loop_asks_for():
    assert {"images", "indices"} <= set(ToyBatch.__annotations__)
