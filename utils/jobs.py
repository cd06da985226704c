"""Commands side by side: in processes of our own, or through Ray; what depends on another waits for it."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from utils.errors import InputError

log = logging.getLogger(__name__)

KILLED = f"ended by {signal.SIGKILL.name}"  # by the system, for memory as a rule, or by somebody
RETRIES = 2  # of a command that was killed
ROOT = Path(__file__).parent.parent
Submit = Callable[[Sequence[str], str], "Future[str]"]  # command, file of its log -> its error, "" when all went well


class Work(Protocol):
    """What is run: under a name, for some points, after the work of another name."""

    @property
    def name(self) -> str:
        """Of this work, and of its log."""

    @property
    def points(self) -> tuple[int, ...]:
        """Numbers of the points that need it."""

    @property
    def after(self) -> str | None:
        """The name of what has to be done first."""


@dataclass(frozen=True)
class JobRunner:
    """Which one (``auto``, ``ray``, ``processes``), and how many commands at once; None: one for two cores."""

    kind: str = "auto"
    jobs: int | None = None

    @property
    def at_once(self) -> int:
        """Commands that run at the same time."""
        return self.jobs or max(1, cores() // 2)

    @property
    def threads(self) -> int:
        """Threads of each: all together as many as there are cores."""
        return max(1, cores() // self.at_once)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def started(engine: JobRunner) -> Iterator[Submit]:
    """Start the engine; when the block ends, whatever still runs is ended too.

    Raises:
        InputError: Ray is asked for and not installed.
    """
    if engine.kind == "ray" or (engine.kind == "auto" and find_spec("ray")):
        with _ray(engine) as submit:
            yield submit
        return
    live: set[subprocess.Popen[Any]] = set()
    pool = ThreadPoolExecutor(engine.at_once)
    log.info("%d at once, %d threads each", engine.at_once, engine.threads)
    try:
        yield lambda words, path: pool.submit(run_command, words, path, engine.threads, str(Path.cwd()), live)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(live):
            process.kill()


@contextmanager
def _ray(engine: JobRunner) -> Iterator[Submit]:
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray: Ray is not installed; pip install -r requirements-sweep.txt") from error
    paths = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
    quiet: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    cluster = os.environ.get("RAY_ADDRESS")  # one that is there; its machines see this folder under the same path
    room: dict[str, Any] = {"address": cluster} if cluster else {"num_cpus": engine.at_once}
    ray.init(**room, runtime_env={"env_vars": {"PYTHONPATH": paths}}, **quiet)
    at_once = f"cluster at {cluster}" if cluster else f"{engine.at_once} at once"
    log.info("Ray: %s, %d threads each", at_once, engine.threads)
    # A worker that dies is Ray's to replace: what it ran is run again, and keeps the stages that are finished.
    remote = ray.remote(num_cpus=engine.threads if cluster else 1, max_retries=RETRIES)(run_command)
    try:
        yield lambda words, path: remote.remote(words, path, engine.threads, str(Path.cwd())).future()
    finally:
        ray.shutdown()


def run_command(
    words: Sequence[str], path: str, threads: int, place: str, live: set[subprocess.Popen[Any]] | None = None
) -> str:
    """Run a command to its end; what it writes is added to a log.

    Args:
        words: the command line.
        path: of the log.
        threads: that it may use.
        place: the folder it runs in.
        live: holds the process while it runs.

    Returns:
        "" or what went wrong, in a line.
    """
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    target = Path(place, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab") as out:
        # Nothing is ever written to its standard input: that closes when we are gone, and tells it to end.
        process = subprocess.Popen(words, cwd=place, env=env, stdin=subprocess.PIPE, stdout=out, stderr=out)
        live = set() if live is None else live
        live.add(process)
        try:
            code = process.wait()
        finally:
            live.discard(process)
            if process.stdin:
                process.stdin.close()
    if code == 0:
        return ""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}; see {path}"
    lines = target.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return re.sub(r"^\w+\.py: ", "", lines[-1]) if lines else f"ended with code {code}"


def run_all(units: Sequence[Work], start: Callable[[Any], Future[str]]) -> dict[int, str]:
    """Run every unit once the one it comes after is done.

    Args:
        units: in an order in which each stands behind the one it waits for.
        start: begins a unit.

    Returns:
        Errors by point; what waits for a unit that failed is not begun, and fails with it. One that was killed from
        outside is begun again.
    """
    errors: dict[int, str] = {}
    kills: Counter[str] = Counter()
    names = {unit.name for unit in units}
    running: dict[Future[str], Work] = {start(unit): unit for unit in units if unit.after not in names}
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            unit = running.pop(future)
            error = _outcome(future)
            log.info("%s: %s", unit.name, error or "done")
            if error.startswith(KILLED) and kills[unit.name] < RETRIES:
                kills[unit.name] += 1
                log.info("%s: begun again", unit.name)
                running[start(unit)] = unit
            elif error:
                errors |= dict.fromkeys(unit.points, error)
            else:
                running |= {start(other): other for other in units if other.after == unit.name}
    return errors


def _outcome(future: Future[str]) -> str:
    error = future.exception()
    if error is None:
        return future.result()
    return f"{type(error).__name__}: {error}".splitlines()[0]
