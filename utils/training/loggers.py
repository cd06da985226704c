"""Where a training's numbers go besides its own folder: one small protocol, three services behind it.

A service's package is imported only when its name was said. What each is given is a row of results.csv an epoch, the
settings before, the final numbers and the pictures after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from utils.errors import InputError
from utils.files import write_text
from utils.training.tensorboard import check_installed, write_scalars

PROJECT = "darkspike"


class RunLogger(Protocol):
    """One service that follows one training."""

    def epoch(self, row: Mapping[str, Any], scores: Sequence[str]) -> bool:
        """An epoch of results.csv; whether the training may end here.

        Args:
            row: what is None was not measured.
            scores: the columns of validation.
        """

    def result(self, metrics: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """What the training came to."""

    def close(self, *, failed: bool) -> None:
        """The training is over, well or not."""


class TensorBoardLogger:
    """Event files in the run's own folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder / "tensorboard"

    def epoch(self, row: Mapping[str, Any], scores: Sequence[str]) -> bool:
        """Scalars, in a file of their own."""
        write_scalars(self.folder, row, scores)
        return False

    def result(self, metrics: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """Nothing: the record has it."""

    def close(self, *, failed: bool) -> None:
        """Nothing is open."""


class WandbLogger:
    """A run of Weights & Biases; a resumed training goes on with the run that it had."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        known = _remembered(folder / "wandb.id")
        again: dict[str, Any] = {"id": known, "resume": "allow"} if known else {}
        self.package = wandb
        self.run = wandb.init(project=PROJECT, name=folder.name, dir=str(folder), config=dict(config), **again)
        write_text(folder / "wandb.id", f"{self.run.id}\n")

    def epoch(self, row: Mapping[str, Any], scores: Sequence[str]) -> bool:
        """Numbers under their names in results.csv."""
        self.run.log(numbers(row), step=row["epoch"])
        return False

    def result(self, metrics: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """The summary, and the pictures."""
        self.run.summary.update(numbers(metrics))
        self.run.log({path.stem: self.package.Image(str(path)) for path in pictures})

    def close(self, *, failed: bool) -> None:
        """Tell how it ended."""
        self.run.finish(exit_code=int(failed))


class MlflowLogger:
    """A run of MLflow's experiment ``darkspike``; a resumed training goes on with the run that it had."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import mlflow

        known, self.package = _remembered(folder / "mlflow.id"), mlflow
        mlflow.set_experiment(PROJECT)
        run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=folder.name)
        write_text(folder / "mlflow.id", f"{run.info.run_id}\n")
        if not known:  # what is said once cannot be said otherwise
            mlflow.log_params({key: str(value) for key, value in config.items()})

    def epoch(self, row: Mapping[str, Any], scores: Sequence[str]) -> bool:
        """Numbers under their names in results.csv."""
        self.package.log_metrics(numbers(row), step=row["epoch"])
        return False

    def result(self, metrics: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """The final numbers, and the pictures as artifacts."""
        self.package.log_metrics({f"final_{key}": value for key, value in numbers(metrics).items()})
        for path in pictures:
            self.package.log_artifact(str(path))

    def close(self, *, failed: bool) -> None:
        """Tell how it ended."""
        self.package.end_run("FAILED" if failed else "FINISHED")


LOGGERS: Mapping[str, Callable[[Path, Mapping[str, Any]], RunLogger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}


def check_loggers(names: Sequence[str]) -> None:
    """Say so before a training begins, not after its first epoch.

    Raises:
        InputError: a package is not installed.
    """
    for name in names:
        if name == "tensorboard":
            check_installed("--log tensorboard, --tensorboard")
        elif not _is_there(name):
            raise InputError(f"--log {name}: {name} is not installed; pip install {name}")


@contextmanager
def logging_to(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> Iterator[list[RunLogger]]:
    """The loggers of these names, for a run in this folder; closed when the block ends, however it ends."""
    opened: list[RunLogger] = []
    failed = True
    try:
        for name in names:
            opened.append(LOGGERS[name](folder, config))
        yield opened
        failed = False
    finally:
        for each in opened:
            each.close(failed=failed)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row or of metrics is a number."""
    return {key: value for key, value in row.items() if isinstance(value, int | float) and key != "epoch"}


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it was taken out of sys.modules on purpose
        return False


def _remembered(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
