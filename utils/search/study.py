"""Settings tried one after the other, each chosen by what the earlier ones scored; hopeless ones end early.

Optuna chooses (tree of Parzen estimators, Bergstra et al., NIPS 2011) and says which trial has seen enough (below the
median of the earlier ones at the same step). What was tried lies in an SQLite file, so that a search that was cut goes
on; the trial that was under way is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError

log = logging.getLogger(__name__)

FILE = "study.sqlite"
FIRST = 4  # trials that are chosen at random and seen to their end, before one is compared with them

Enough = Callable[[int, float], bool]  # step and score -> whether the trial has seen enough
Objective = Callable[
    [int, Mapping[str, Any], Enough], float
]  # a trial's number and values -> its score; more is better


@dataclass(frozen=True)
class Between:
    """A number from low to high; ``log``: its magnitude counts."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class OneOf:
    """One of some values."""

    values: tuple[Any, ...]


Space = Mapping[str, Between | OneOf]


@dataclass(frozen=True)
class TriedSettings:
    """What was tried; ``state`` is complete, pruned (it had seen enough) or failed, ``error`` why."""

    number: int
    values: Mapping[str, Any]
    state: str
    score: float | None
    error: str = ""


def check_optuna(flag: str) -> None:
    """Say so before anything begins.

    Raises:
        InputError: Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(f"{flag}: Optuna is not installed; pip install -r requirements-search.txt") from error


def search(
    folder: Path, space: Space, objective: Objective, *, trials: int, seed: int = 0, least: int = 0
) -> list[TriedSettings]:
    """Try settings until so many have been tried, those of earlier sittings among them.

    Args:
        folder: of the search; its file is there, or begins here.
        space: what may be chosen.
        objective: runs a trial.
        trials: how many in all.
        seed: of what is random.
        least: steps that every trial sees before it is compared.

    Raises:
        InputError: a trial failed before any other one came to its end.
    """
    study = _opened(folder, seed, least)
    _begin_again(study)
    while len(_counted(study)) < trials:
        trial = study.ask()
        _run(study, trial, {name: _chosen(trial, name, choice) for name, choice in space.items()}, objective)
    return [_trial(each) for each in _counted(study)]


def best(trials: Sequence[TriedSettings]) -> TriedSettings:
    """The one that scored highest, of those that were seen to their end."""
    return max((trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.score or 0.0)


def _opened(folder: Path, seed: int, least: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="search",
        storage=f"sqlite:///{(folder / FILE).resolve()}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=least),
    )
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=FIRST)
    return study


def _begin_again(study: Any) -> None:
    """What was under way when the search was cut is forgotten, and its values are tried first."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)  # without an error: it is not counted
        log.info("trial %d was cut; its settings are tried again", trial.number)


def _run(study: Any, trial: Any, values: Mapping[str, Any], objective: Objective) -> None:
    from optuna.trial import TrialState

    seen: list[bool] = []

    def enough(step: int, score: float) -> bool:
        trial.report(score, step)
        if trial.should_prune():
            seen.append(True)
        return bool(seen)

    log.info("trial %d: %s", trial.number, ", ".join(f"{name} {shown(value)}" for name, value in values.items()))
    try:
        score = objective(trial.number, values, enough)
    except InputError as error:
        if any(each.state == TrialState.COMPLETE for each in study.trials):
            trial.set_user_attr("error", str(error))  # counted
        study.tell(trial, state=TrialState.FAIL)
        if "error" not in trial.user_attrs:
            raise  # what no trial survived is no matter of settings
        log.info("trial %d: %s", trial.number, error)
        return
    trial.set_user_attr("score", score)
    study.tell(trial, state=TrialState.PRUNED) if seen else study.tell(trial, score)
    log.info("trial %d: %.4f%s", trial.number, score, ", had seen enough" if seen else "")


def _counted(study: Any) -> list[Any]:
    """Trials that came to an end; those that were cut are tried again under another number."""
    from optuna.trial import TrialState

    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in ended if trial.state != TrialState.FAIL or "error" in trial.user_attrs]


def _trial(found: Any) -> TriedSettings:
    attrs = found.user_attrs
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(found.state.name, "failed")
    return TriedSettings(found.number, dict(found.params), state, attrs.get("score"), attrs.get("error", ""))


def _chosen(trial: Any, name: str, choice: Between | OneOf) -> Any:
    match choice:
        case Between():
            return trial.suggest_float(name, choice.low, choice.high, log=choice.log)
        case OneOf():
            return trial.suggest_categorical(name, choice.values)


def shown(value: Any) -> str:
    """A setting as it is told."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
