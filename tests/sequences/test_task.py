"""The loss and the numbers of sequences, against numpy; what is said at each step; parts of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.sequences.nets import net
from utils.sequences.dataset import SequenceBatch
from utils.sequences.metrics import SequenceAnswers, evaluate, joined, measure
from utils.sequences.task import SequenceTask
from utils.task import Timing

NO_TIME = Timing(0, 0, 0)
CLASS = "data=digits\nat={}\n"


def raw(outputs: np.ndarray) -> list[torch.Tensor]:
    """[N, T, C] as a network gives it."""
    return [torch.tensor(outputs, dtype=torch.float32)[..., None, None]]


def batch_of(truth: list[float] | list[int], steps: int) -> SequenceBatch:
    count = len(truth)
    images = torch.zeros(count, steps, 1, 1, 1)
    return SequenceBatch(images=images, indices=tuple(range(count)), truth=torch.tensor(truth), whole=steps)


@pytest.mark.parametrize("at", ["last", "every"])
def test_the_loss_of_classes_is_cross_entropy_weighted_by_the_share_of_the_steps_seen(at):
    spec = net("ltc", end=CLASS.format(at))
    scores, truth = np.random.default_rng(0).normal(size=(5, 4, 3)), [0, 2, 1, 1, 0]
    shares = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    entropy = -np.log(shares[np.arange(5)[:, None], np.arange(4), np.array(truth)[:, None]])
    weighted = entropy * np.array([0.25, 0.5, 0.75, 1.0])
    wanted = weighted.mean() if at == "every" else weighted[:, -1].mean()
    loss, batch = SequenceTask.of(spec).loss(spec), batch_of(truth, 4)
    assert float(loss(raw(scores), batch)["total"]) == pytest.approx(wanted, rel=1e-5)
    part = float(loss(raw(scores[:, 1:3]), batch.between(1, 3))["total"])
    assert part == pytest.approx(weighted[:, 1:3].mean() if at == "every" else weighted[:, 2].mean(), rel=1e-5)


def test_values_are_measured_by_mean_squared_error_and_r2():
    rng = np.random.default_rng(1)
    truth = rng.random(50).astype(np.float32)
    outputs = rng.random((50, 6, 1)).astype(np.float32)
    spec = net("ltc")
    task = SequenceTask.of(spec)
    assert (task.primary, [column.name for column in task.columns]) == ("r2", ["r2", "mse"])
    batches = [batch_of(truth[:30].tolist(), 6), batch_of(truth[30:].tolist(), 6)]
    parts = iter((outputs[:30], outputs[30:]))
    found = evaluate(lambda images: raw(next(parts)), batches, task.output, progress=False)
    errors = (outputs[:, :, 0] - truth[:, None]) ** 2
    assert found.numbers["mse"] == pytest.approx(errors[:, -1].mean(), rel=1e-5)
    assert found.numbers["r2"] == pytest.approx(1 - errors[:, -1].mean() / truth.var(), rel=1e-4)
    np.testing.assert_allclose(found.course, errors.mean(0), rtol=1e-5)
    loss = task.loss(spec)(raw(outputs), batch_of(truth.tolist(), 6))["total"]
    assert float(loss) == pytest.approx(errors[:, -1].mean(), rel=1e-5)


def test_who_always_says_the_mean_explains_nothing_and_who_is_right_explains_all():
    output = SequenceTask.of(net("ltc")).output
    truth = torch.rand(40)
    for said, r2 in ((truth.mean().expand(40), 0.0), (truth, 1.0)):
        answers = SequenceAnswers(tuple(range(40)), truth, said[:, None], torch.zeros(1).double(), {})
        assert measure(answers, output, timing=NO_TIME).numbers["r2"] == pytest.approx(r2, abs=1e-6)


def test_classes_are_measured_by_top_1_whatever_the_processes_that_share_them():
    output = SequenceTask.of(net("ltc", end=CLASS.format("last"))).output
    truth = torch.tensor([0, 0, 0, 1, 2, 2])
    last = torch.eye(3)[[0, 0, 1, 1, 0, 2]]

    def part(chosen):
        index = tuple(chosen)
        return SequenceAnswers(index, truth[chosen], last[chosen], torch.ones(2).double(), {n: last[n] for n in chosen})

    found = measure(joined([part([1, 3, 5]), part([0, 2, 4])]), output, timing=NO_TIME)
    assert found.numbers == pytest.approx({"top1": 4 / 6, "balanced": (2 / 3 + 1 + 1 / 2) / 3})
    assert found.answers.indices == tuple(range(6)) and found.course == pytest.approx([2 / 6] * 2)
    assert torch.equal(found.answers.last, last)


def test_a_process_that_has_no_sequence_adds_nothing():
    one = SequenceTask.of(net("ltc", end=CLASS.format("last"))).output
    given = SequenceAnswers((0, 1), torch.tensor([0, 2]), torch.eye(3)[[0, 1]], torch.ones(2), {})
    nothing = evaluate(lambda x: [x], [], one, progress=False).answers
    alone = measure(joined([given]), one, timing=NO_TIME).numbers
    for parts in ([given, nothing], [nothing, given]):
        assert measure(joined(parts), one, timing=NO_TIME).numbers == alone
