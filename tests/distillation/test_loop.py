"""The training loop with a teacher handed in: its terms join the loss, what trains along is stepped like the rest."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from tests.training.toy import ToyLoader, toy_model, train
from utils.training.build_optimizer import make_optimizer


class ToyTeacher:
    """Wants the outputs, scaled by a parameter of its own, to be one."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(torch.tensor([0.5]))
        self.inside, self.images = 0, []

    @contextmanager
    def watching(self, model):
        handle = model.register_forward_pre_hook(lambda *_: setattr(self, "inside", self.inside + 1))
        yield
        handle.remove()

    def __call__(self, images, outputs, batch):
        self.images.append(images)
        return {"kd_one": (self.scale * outputs - 1).square().mean(), "kd_two": outputs.square().mean()}

    def parameters(self):
        return [self.scale]


def trained(batch: int, accumulate: int, teacher: ToyTeacher):
    model = toy_model(bn=False)
    optimizer = make_optimizer(model, lr=0.05)
    optimizer.add_param_group({"params": teacher.parameters(), "initial_lr": 0.05})
    result = train(model, ToyLoader(batch=batch), optimizer=optimizer, accumulate=accumulate, teacher=teacher)
    return model, result[0]


@pytest.mark.parametrize(("batch", "accumulate"), [(4, 3), (3, 4), (1, 12)])
def test_accumulated_batches_teach_what_one_large_batch_teaches(batch, accumulate):
    once, parts = ToyTeacher(), ToyTeacher()
    (whole, one), (split, other) = trained(12, 1, once), trained(batch, accumulate, parts)
    assert once.scale != 0.5
    torch.testing.assert_close(parts.scale, once.scale, rtol=1e-5, atol=1e-7)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)
    assert other.losses == pytest.approx(one.losses, rel=1e-5)


def test_terms_are_told_and_part_of_the_total():
    teacher = ToyTeacher()
    _, result = trained(4, 1, teacher)
    _, alone = toy_model(bn=False), train(toy_model(bn=False), ToyLoader(batch=12))[0]
    _, first = trained(12, 1, ToyTeacher())
    assert set(result.losses) == {"total", "kd_one", "kd_two"} and teacher.inside == 3
    taught = first.losses["kd_one"] + first.losses["kd_two"]
    assert first.losses["total"] == pytest.approx(alone.losses["total"] + taught, rel=1e-5)
    assert all(images.max() <= 1 and images.dtype == torch.float32 for images in teacher.images)


def test_gradient_of_what_trains_along_is_a_mean_per_image_too():
    teacher, seen = ToyTeacher(), []
    model, loader = toy_model(bn=False), ToyLoader(batch=12)
    outputs = model(loader.images.float() / 255)
    (expected,) = torch.autograd.grad(teacher(None, outputs, None)["kd_one"], teacher.parameters())
    optimizer = make_optimizer(model, lr=0.05)
    optimizer.add_param_group({"params": teacher.parameters(), "initial_lr": 0.05})
    penalty = lambda _: seen.append(teacher.scale.grad.clone())  # noqa: E731
    train(model, ToyLoader(batch=3), optimizer=optimizer, accumulate=4, teacher=teacher, penalty=penalty)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-7)
