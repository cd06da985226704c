"""``runs/<script>[-name]/record.json``: what was typed, on what, with which seed, and what came out."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import free_path, shown, write_text
from utils.reporting.facts import Described, TaskFacts
from utils.reporting.files import stamps

PACKAGES = ("torch", "numpy", "opencv-python-headless", "matplotlib", "faster-coco-eval")
FILE = "record.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run. ``seconds`` is None until the run has finished; ``metrics`` uses the project-wide names.

    Metric names: those of the task's columns, and params, macs, bytes, latency_ms, spikes, sops, energy_pj; a script
    that compares nests them (``before``, ``after`` …). ``task`` says what the former are; None in records that are
    older than it, and where a script measures nothing.
    """

    folder: Path
    script: str
    command: str
    args: dict[str, Any]
    git: str | None
    seed: int | None
    versions: dict[str, str]
    device: str
    started: float
    seconds: float | None = None
    inputs: list[dict[str, str]] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    task: TaskFacts | None = None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.seconds is not None

    def paths(self, pattern: str = "*") -> list[Path]:
        """Output files whose name matches, in the order they were written."""
        return [path for path in (Path(item["path"]) for item in self.outputs) if path.match(pattern)]


def new_run_folder(root: Path | str, script: str, name: str = "", *, fresh: bool = True) -> Path:
    """Create ``root/<script>[-name]``; a taken name gets ``-2``, ``-3`` … unless ``fresh`` is False (``--resume``)."""
    wanted = Path(root) / (f"{script}-{name}" if name else script)
    while True:
        folder = free_path(wanted) if fresh else wanted
        try:
            folder.mkdir(parents=True, exist_ok=not fresh)
            return folder
        except FileExistsError:
            continue  # another run took the name between the look and the leap
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}; choose a folder that can be written") from error


def start_record(
    folder: Path,
    *,
    script: str,
    args: Mapping[str, Any],
    device: str = "cpu",
    seed: int | None = None,
    inputs: Iterable[Path | str] = (),
    task: Described | None = None,
) -> Record:
    """Write the record of a run that begins, so that a run that was cut leaves a trace too.

    Raises:
        InputError: an input file is missing, or the folder cannot be written.
    """
    record = Record(
        folder=folder,
        script=script,
        command=" ".join([Path(sys.executable).name, *sys.argv]),
        args={key: _plain(value) for key, value in args.items() if not callable(value)},
        git=git_state(),
        seed=seed,
        versions=versions(),
        device=device,
        started=time.time(),
        inputs=stamps(inputs),
        task=TaskFacts.of(task) if task else None,
    )
    write_record(record)
    return record


def finish_record(
    record: Record, *, metrics: Mapping[str, Any], outputs: Iterable[Path | str] = (), before: float = 0.0
) -> Record:
    """The same record with its metrics, its output files and the seconds it took; written.

    Args:
        record: what ``start_record`` gave.
        metrics: by the project-wide names; any scalar type, what is not finite becomes null.
        outputs: files the run left.
        before: seconds that earlier sittings of a resumed run took.
    """
    done = replace(
        record,
        metrics=_plain(dict(metrics)),
        outputs=stamps(outputs),
        seconds=round(before + time.time() - record.started, 3),
    )
    write_record(done)
    return done


def write_record(record: Record) -> Path:
    """Write ``record.json`` in the record's folder, whole or not at all."""
    content = {key: value for key, value in asdict(record).items() if key != "folder"}
    if record.task is None:
        del content["task"]
    return write_text(record.folder / FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_record(folder: Path | str) -> Record:
    """The record in a run's folder (or the path of a record.json).

    Raises:
        InputError: there is none, or it is not a record.
    """
    path = Path(folder) if Path(folder).name == FILE else Path(folder) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(Record)}
        values = {key: value for key, value in content.items() if key in known}
        task = TaskFacts.read(values.pop("task")) if values.get("task") else None
        return Record(folder=path.parent, task=task, **values)
    except FileNotFoundError:
        raise InputError(f"{path}: no such record; run the script that writes it first") from None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: not a run record ({error}); delete it or run that step again") from error


def latest_record(
    root: Path | str, pattern: str = "*", predicate: Callable[[Record], bool] = lambda record: True
) -> Record | None:
    """The newest *finished* run under ``root`` whose folder matches the pattern and whose record the predicate.

    The defaults of ``--weights`` come from it: slim_prune.py asks for the newest ``train*`` with ``args["sparse"]``.
    Folders with an unreadable record are passed over.
    """
    found = []
    for path in Path(root).glob(f"{pattern}/{FILE}"):
        try:
            record = read_record(path)
        except InputError:
            continue
        if record.finished and predicate(record):
            found.append(record)
    return max(found, key=lambda record: record.started + (record.seconds or 0.0), default=None)


def git_state() -> str | None:
    """Commit of the working tree, ``+changes`` when some are not committed; None outside a repository."""
    here = Path(__file__).parent
    try:
        commit = _git("rev-parse", "HEAD", cwd=here)
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no", cwd=here) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str, cwd: Path) -> str:
    done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, and how many threads torch uses."""
    import torch  # here: the dashboard and recipes read records without it

    result = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    result["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    result["threads"] = str(torch.get_num_threads())
    return result


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; what is not a number becomes null, so that any reader takes the file."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case Path():
            return shown(value)
        case str() | bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple() | set():
            return [_plain(item) for item in value]
    return _plain(value.item()) if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else str(value)
