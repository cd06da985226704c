"""train.py --evolve N: a search over the settings of a training that nobody said, with Optuna."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.chain_start import fingerprint_of_data, task_of_start
from pipeline.train import train
from utils.config.space import space_of
from utils.config.train import TrainConfig
from utils.errors import InputError
from utils.files import names_kept
from utils.flag_words import words_of
from utils.reporting.facts import TaskFacts
from utils.reporting.plots import plot_trials
from utils.reporting.record import FILE, Record, finish_record, new_run_folder, read_record, start_record
from utils.reporting.results import write_rows
from utils.reporting.runs import RUNS, check_alone
from utils.reporting.tables import plain_table
from utils.search import study
from utils.search.study import Enough, TriedSettings, check_optuna, search

log = logging.getLogger(__name__)

LEAST = 3  # a third of its epochs each training sees before it may be ended
HERE = ("device", "workers", "evolve")  # fields that another sitting may change without its being another search


class TrialFollower:
    """Tells a search of a training's scores, and ends it where the search has seen enough."""

    def __init__(self, primary: str, enough: Enough) -> None:
        self.primary, self.enough = primary, enough

    def epoch(self, row: Mapping[str, Any], scores: Sequence[str]) -> bool:
        """A validated epoch is compared with the same one of earlier trials."""
        score = row.get(self.primary)
        return score is not None and self.enough(row["epoch"], score)

    def result(self, metrics: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """The search reads the record."""

    def close(self, *, failed: bool) -> None:
        """Nothing is open."""


@names_kept()
def evolve(config: TrainConfig) -> Record:
    """Try settings until ``config.evolve`` trainings were run, those of earlier sittings among them.

    Args:
        config: of the trainings; what was said stays as it was said.

    Raises:
        InputError: Optuna is not installed, nothing is left to choose, or no training came to its end.
    """
    check_optuna("--evolve")
    if "WORLD_SIZE" in os.environ:
        raise InputError("--evolve: is for one process; leave torchrun away, or train with settings that you know")
    check_alone("search", config.name)
    task = task_of_start(config)
    space = space_of(config, task.idle)
    if not space:
        raise InputError("--evolve: every setting was said, so nothing is left to choose; leave some of them away")
    record = _record(config, TaskFacts.of(task))
    log.info("%d trainings over %s; %s", config.evolve, ", ".join(space), record.folder)

    def trained(number: int, values: Mapping[str, Any], enough: Enough) -> float:
        one = _config(config, values, f"{record.folder.name}-{number}")
        done = train(one, [TrialFollower(task.primary, enough)])
        return float(done.metrics["best"][task.primary])

    least = config.epochs // LEAST
    trials = search(record.folder, space, trained, trials=config.evolve or 1, seed=config.seed, least=least)
    return _told(config, record, TaskFacts.of(task), trials)


def _config(config: TrainConfig, values: Mapping[str, Any], name: str) -> TrainConfig:
    """A training of the search: what was said, what is tried, and its name."""
    said = {key: getattr(config, key) for key in config.given if key not in ("evolve", "name")}
    return TrainConfig.from_given({**said, **values, "name": name}, {})


def _record(config: TrainConfig, task: TaskFacts) -> Record:
    """The record of this search: in the folder of an earlier sitting of it, or a new one."""
    said = {key: getattr(config, key) for key in config.given if key not in HERE}
    message = json.dumps([said, fingerprint_of_data(config)], default=str, sort_keys=True)
    print_ = hashlib.sha256(message.encode()).hexdigest()
    before = [path.parent for path in sorted(RUNS.glob(f"search*/{FILE}"))]
    same = [folder for folder in before if read_record(folder).args.get("fingerprint") == print_]
    folder = same[0] if same else new_run_folder(RUNS, "search", config.name)
    args = replace(config, fingerprint=print_).values
    return start_record(folder, script="search", args=args, seed=config.seed, task=task)


def _told(config: TrainConfig, record: Record, task: TaskFacts, trials: Sequence[TriedSettings]) -> Record:
    """The table, the picture, and the command that trains so again."""
    chosen = study.best(trials)
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    rows = [
        {"trial": each.number, **{name: each.values.get(name) for name in names}, task.primary: each.score,
         "state": each.state, "error": each.error or None}
        for each in trials
    ]  # fmt: skip
    head = ["trial", *names, task.primary_heading, ""]
    cells = [
        [str(each.number), *(study.shown(each.values.get(name)) for name in names),
         "-" if each.score is None else f"{each.score:.4f}",
         "*" if each is chosen else each.error or ("" if each.state == "complete" else "had seen enough")]
        for each in trials
    ]  # fmt: skip
    one = _config(config, chosen.values, "")
    words = " ".join(["python3 train.py", *words_of(one, sorted(one.given))])
    log.info("%s", plain_table("search", [head, *cells]))
    outputs = [write_rows(record.folder / "trials.csv", rows), record.folder / study.FILE]
    scores = [(each.number, each.score, each.state) for each in trials if each.score is not None]
    outputs.append(plot_trials(record.folder / "trials.png", scores, task.primary_heading))
    log.info("* the best, by the images that chose it; train so again, and measure on others: %s", words)
    metrics = {"trials": rows, "best": dict(chosen.values) | {"trial": chosen.number, task.primary: chosen.score}}
    return finish_record(record, metrics=metrics | {"command": words}, outputs=outputs)
