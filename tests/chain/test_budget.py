"""The one rule: steps decide, on four data sets of very different size."""

from __future__ import annotations

import math

import pytest

from pipeline.chain_start import _learnt
from tests.quantization.random_nets import random_network
from utils.chain.budget import EPOCHS, FULL, LEAST, MOST, RATE, SCRATCH, Push, TrainingBudget
from utils.chain.decisions import Learn
from utils.chain.tries import StageView
from utils.config.pipeline import PipelineConfig
from utils.darknet.network import Checkpoint, save_checkpoint

SETS = {  # as pipeline.chain_start.budget_of counts them: images, steps an epoch, whether weights are given
    "sample set": TrainingBudget(4000, 250, trained=False),
    "raccoons": TrainingBudget(160, 10, trained=True),
    "bccd": TrainingBudget(19, 19, trained=True),
    "coco128": TrainingBudget(102, 10, trained=True),
}
LENGTHS = {  # epochs of the three trainings
    "sample set": (10, 9, 6),
    "raccoons": (14, 40, 60),
    "bccd": (118, 337, 506),
    "coco128": (22, 63, 95),
}


@pytest.mark.parametrize("name", SETS)
def test_the_rule_says_how_long_each_of_four_sets_trains(name):
    assert tuple(SETS[name].epochs(stage) for stage in EPOCHS) == LENGTHS[name]


@pytest.mark.parametrize("images", [1, 7, 19, 102, 160, 4000, 118_000, 10**7])
@pytest.mark.parametrize("trained", [False, True])
def test_no_training_has_fewer_steps_than_are_needed_nor_more_than_are_bearable(images, trained):
    budget = TrainingBudget(images, max(1, math.ceil(images / 64)), trained)
    for stage in EPOCHS:
        least = SCRATCH if stage == "baseline" and not trained else LEAST[stage]
        steps, seen = budget.epochs(stage) * budget.steps, budget.epochs(stage) * images
        assert steps <= max(MOST, budget.steps)
        assert steps >= min(least, MOST - budget.steps) and seen >= min(least * FULL, MOST - images)


def test_more_data_never_means_more_passes_over_it():
    for stage in EPOCHS:
        passes = [TrainingBudget(n, math.ceil(n / 16), trained=True).epochs(stage) for n in range(16, 40_000, 48)]
        assert passes == sorted(passes, reverse=True)


def test_the_sample_sets_penalty_is_the_one_it_was_measured_with_and_few_steps_push_harder():
    sample, few = SETS["sample set"], SETS["raccoons"]
    assert pushed(sample) == Push(0.001, RATE) and not pushed(sample).strong
    assert pushed(few) == Push(0.0047, 0.1) and pushed(few).strong
    strengths = [few.push(epochs, learnt).s for epochs in range(1, 3000) for learnt in (1, 14, 1000)]
    assert all(1e-4 <= s <= 1e-2 for s in strengths)


def test_weights_that_learnt_the_same_data_are_not_trained_as_if_they_knew_nothing():
    """30 epochs of CIFAR-10 know 0.7830; two more at train.py's rate of 0.2 left 0.7450."""
    fresh, known = (TrainingBudget(10_000, 79, trained=True, learnt=learnt) for learnt in (0, 30))
    flags = [Learn("baseline", 2).next(StageView(budget, 0.02), []).flags for budget in (fresh, known)]
    assert "--lr" not in flags[0] and flags[1][-2:] == ("--lr", 0.027)
    assert known.rate(10, 2) == 0.12 < fresh.rate(10, 2) == RATE
    assert Learn("baseline", 2, lr=0.1).next(StageView(known, 0.02), []).flags[-1] == 0.1


def test_a_checkpoint_says_how_long_it_learnt_from_which_data(tmp_path):
    path = save_checkpoint(tmp_path / "net.pt", Checkpoint(random_network(1), meta={"epoch": 30, "data": "mine.data"}))
    mine, others, floats = (
        PipelineConfig(weights=str(weights), data=data)
        for weights, data in ((path, "mine.data"), (path, "others.data"), ("net.weights", "mine.data"))
    )
    assert [_learnt(config) for config in (mine, others, floats)] == [30, 0, 0]


def test_what_is_much_shorter_than_the_first_training_is_gentler_and_pushes_as_far():
    masks = TrainingBudget(367, 46, trained=False)  # CamVid: 109 epochs, then 18 and 27, which at 0.2 unlearnt it
    assert pushed(masks) == Push(0.005, 0.066) and pushed(masks).strong
    assert masks.rate(masks.epochs("finetuned"), masks.epochs("baseline")) == 0.099
    for epochs in range(1, 300):
        share = min(1.0, 2 * epochs / 109)
        assert masks.rate(epochs, 109) == pytest.approx(RATE * share, rel=0.05)
        gentle, plain = masks.push(epochs, 109), masks.push(epochs, epochs)
        if gentle.s < 1e-2:
            assert gentle.s * gentle.lr == pytest.approx(plain.s * plain.lr, rel=0.1), "as far"


@pytest.mark.parametrize("name", SETS)
def test_no_training_of_the_four_sets_is_so_short_beside_the_first_that_its_rate_falls(name):
    budget = SETS[name]
    assert all(budget.rate(budget.epochs(stage), budget.epochs("baseline")) == RATE for stage in EPOCHS)


def pushed(budget):
    return budget.push(budget.epochs("sparse"), budget.epochs("baseline"))


def test_patience_is_longer_than_the_pause_between_two_measurements_of_a_short_training():
    assert [SETS["raccoons"].patience(epochs) for epochs in (5, 20, 21, 300)] == [10, 10, 11, 150]
