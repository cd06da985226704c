"""Top-1, top-5 and the confusion matrix, against plain loops; probabilities against torch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.classification.metrics import ClassAnswers, evaluate, joined, measure, probabilities
from utils.classification.results import results_of
from utils.darknet.spec import Softmax
from utils.task import Timing
from utils.thresholds import Thresholds

NAMES = tuple("abcdefg")
NO_TIME = Timing(0, 0, 0)


def answers(images: int = 60, seed: int = 0) -> ClassAnswers:
    make = torch.Generator().manual_seed(seed)
    shares = torch.rand(images, 7, generator=make)
    shares[::4] = (shares[::4] * 3).round() / 3  # ties
    labels = torch.randint(0, 6, (images,), generator=make)  # of the last class there is no image
    return ClassAnswers(tuple(range(images)), labels, shares)


def test_the_numbers_are_those_of_a_plain_loop():
    given = answers()
    table = [[0] * 7 for _ in range(7)]
    first = fifth = 0
    for label, row in zip(given.labels.tolist(), given.probabilities.tolist(), strict=True):
        order = sorted(range(7), key=lambda k: (-row[k], k))
        first += order[0] == label
        fifth += label in order[:5]
        table[order[0]][label] += 1
    found = measure(given, NAMES, timing=NO_TIME)
    assert (found.top1, found.top5) == (first / 60, fifth / 60)
    assert found.confusion.tolist() == table
    recalls = [table[k][k] / sum(row[k] for row in table) for k in range(6)]
    assert found.balanced == pytest.approx(np.mean(recalls))
    assert found.record() == {"top1": found.top1, "top5": found.top5, "balanced": found.balanced}


def test_a_network_that_gives_all_classes_one_score_has_no_luck():
    labels = torch.arange(7).repeat(3)
    found = measure(ClassAnswers(tuple(range(21)), labels, torch.full((21, 7), 1 / 7)), NAMES, timing=NO_TIME)
    assert (found.top1, found.top5) == (1 / 7, 5 / 7)


def test_scores_are_the_mean_of_the_map_and_their_probabilities_sum_to_1_in_each_group():
    raw = torch.randn(4, 6, 3, 2)
    whole = probabilities([raw], Softmax(sources=(0,), temperature=2.0))
    torch.testing.assert_close(whole, torch.softmax(raw.mean((2, 3)) / 2, 1))
    parts = probabilities([raw], Softmax(sources=(0,), groups=3))
    torch.testing.assert_close(parts.view(4, 3, 2).sum(2), torch.ones(4, 3))
    torch.testing.assert_close(parts[:, 2:4], torch.softmax(raw.mean((2, 3))[:, 2:4], 1))


def test_parts_of_several_processes_are_one_measurement():
    given = answers()
    halves = [ClassAnswers(given.indices[k::2], given.labels[k::2], given.probabilities[k::2]) for k in (0, 1)]
    again = joined(halves)
    assert again.indices == given.indices and torch.equal(again.labels, given.labels)
    assert torch.equal(again.probabilities, given.probabilities)


def test_a_process_that_has_no_image_adds_nothing():
    given, model = answers(), torch.nn.Conv2d(3, 7, 1)
    nothing = evaluate(lambda x: [model(x)], [], Softmax(sources=(0,)), NAMES, progress=False)
    assert nothing.answers.indices == () and nothing.confusion.sum() == 0
    for parts in ([given, nothing.answers], [nothing.answers, given]):
        assert measure(joined(parts), NAMES, timing=NO_TIME).record() == measure(given, NAMES, timing=NO_TIME).record()


def test_evaluation_leaves_a_training_network_in_training_and_uses_its_running_statistics():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 7, 1)).train()
    images = torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8)
    batch = SimpleNamespace(images=images, indices=tuple(range(8)), labels=torch.zeros(8, dtype=torch.long))
    found = evaluate(lambda x: [model(x)], [batch], Softmax(sources=(0,)), NAMES, progress=False)
    assert model.training and len(found.answers.indices) == 8

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return [self.inner(x)]

    wrapped = Wrapped().train()
    mean = model[0].running_mean.clone()
    evaluate(wrapped, [batch], Softmax(sources=(0,)), NAMES, progress=False)
    assert torch.equal(model[0].running_mean, mean) and model.training


def test_answers_are_the_likeliest_classes_above_the_threshold_of_those_asked_for():
    shares = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])
    (one, other) = results_of(shares, Thresholds(confidence=0.3))
    assert [label for label, _ in one.found] == [1, 2] and other.labels() == [2]
    (one, _) = results_of(shares, Thresholds(confidence=0.0, classes=(0, 2)))
    assert [label for label, _ in one.found] == [2, 0]
    assert results_of(shares, Thresholds(confidence=0.9))[0].labels() == []
    assert one.rows(("x", "y", "z"))[0] == {"class": 2, "name": "z", "score": 0.4}
    assert one.text(5, 5).splitlines()[0] == "2 0.400000"
