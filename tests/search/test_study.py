"""A search finds what is better, ends what is hopeless, lies in its file, and goes on where it was cut."""

from __future__ import annotations

import sys

import pytest

from utils.errors import InputError
from utils.search.study import FILE, Between, OneOf, best, check_optuna, search

SPACE = {"rate": Between(0.001, 1.0), "kind": OneOf(("a", "b"))}


@pytest.fixture(autouse=True)
def installed():
    pytest.importorskip("optuna")


class Hill:
    """Scores highest at rate 0.1 of kind b; keeps what it was asked."""

    def __init__(self, steps=3, fails=(), cut=()):
        self.steps, self.fails, self.cut, self.asked = steps, fails, cut, []

    def __call__(self, number, values, enough):
        self.asked.append((number, dict(values)))
        if number in self.cut:
            raise KeyboardInterrupt
        if number in self.fails:
            raise InputError("the loss is not finite")
        score = 1 / (1 + abs(values["rate"] - 0.1)) - 0.2 * (values["kind"] == "a")
        for step in range(1, self.steps + 1):
            if enough(step, score):
                break
        return score


def test_a_search_finds_what_scores_higher_than_what_it_began_with(tmp_path):
    trials = search(tmp_path, SPACE, Hill(), trials=16)
    assert [trial.number for trial in trials] == list(range(16))
    first = max(trial.score for trial in trials[:4])
    assert best(trials).score >= first and best(trials).values["kind"] == "b"
    assert abs(best(trials).values["rate"] - 0.1) < 0.15
    assert all(0.001 <= trial.values["rate"] <= 1 and trial.values["kind"] in "ab" for trial in trials)


def test_the_same_seed_tries_the_same_and_another_one_others(tmp_path):
    tried = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        hill = Hill()
        search(tmp_path / name, SPACE, hill, trials=3, seed=seed)
        tried.append(hill.asked)
    assert tried[0] == tried[1] != tried[2]


def test_what_is_below_the_median_ends_early_and_is_never_the_best(tmp_path):
    trials = search(tmp_path, SPACE, Hill(steps=9), trials=9)
    assert {trial.state for trial in trials} == {"complete", "pruned"}
    assert all(trial.state == "complete" for trial in trials[:4]), "the first ones are seen to their end"
    whole = sorted(trial.score for trial in trials if trial.state == "complete")
    assert all(trial.score < whole[-1] for trial in trials if trial.state == "pruned")
    assert best(trials).state == "complete"


def test_every_trial_sees_the_steps_that_it_is_promised(tmp_path):
    seen = []

    def objective(number, values, enough):
        steps = [step for step in range(1, 10) if not enough(step, -float(number))]
        seen.append(len(steps))
        return -float(number)

    search(tmp_path, SPACE, objective, trials=7, least=5)
    assert seen[:4] == [9] * 4 and all(4 <= count < 9 for count in seen[4:])


def test_a_search_goes_on_in_its_file_and_tries_what_was_cut_again(tmp_path):
    first = Hill(cut=(3,))
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, SPACE, first, trials=6)
    second = Hill()
    trials = search(tmp_path, SPACE, second, trials=6)
    assert (tmp_path / FILE).is_file() and len(trials) == 6
    assert second.asked[0] == (4, first.asked[3][1]), "the settings of the one that was cut"
    assert len(second.asked) == 3 and [trial.number for trial in trials] == [0, 1, 2, 4, 5, 6]
    assert len({trial.values["rate"] for trial in trials}) == 6, "a new sitting does not repeat the old one's draws"
    third = Hill()
    assert search(tmp_path, SPACE, third, trials=6) == trials and third.asked == []


def test_a_trial_that_fails_does_not_lose_the_rest(tmp_path):
    trials = search(tmp_path, SPACE, Hill(fails=(2,)), trials=5)
    assert [(trial.state, trial.error) for trial in trials[1:4]] == [
        (trials[1].state, ""),
        ("failed", "the loss is not finite"),
        (trials[3].state, ""),
    ]
    assert len(trials) == 5 and trials[2].score is None


def test_a_mistake_that_no_setting_mends_is_told_at_once_and_costs_no_trial(tmp_path):
    hill = Hill(fails=range(99))
    with pytest.raises(InputError, match="the loss is not finite"):
        search(tmp_path, SPACE, hill, trials=5)
    assert len(hill.asked) == 1
    assert len(search(tmp_path, SPACE, Hill(), trials=5)) == 5


def test_without_optuna_it_names_the_file_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        InputError, match=r"^--evolve: Optuna is not installed; pip install -r requirements-search\.txt$"
    ):
        check_optuna("--evolve")
