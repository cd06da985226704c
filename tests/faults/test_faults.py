"""Every fault of the list, at every script and converter: exit code 2, one line that says it, nothing left behind.

This process has everything imported and one place on disk; a fault is a copy of the place, damaged, and a fork that
runs a command in it.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import resource
import runpy
import shlex
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.faults.damage import damage
from tests.faults.place import make_place
from utils import cli

LIST = tomllib.loads(Path(__file__).with_name("faults.toml").read_text())
SCRIPTS = {name: importlib.import_module(name) for name in LIST["scripts"]}
ROOT = Path(__file__).parents[2]
MODULES = {
    "import": "utils/darknet/import.py",
    "surgery": "utils/spiking/surgery.py",
    "recipe": "darkspike/recipe.py",
    "dashboard": "darkspike/dashboard.py",
}
DATA = importlib.import_module("utils.data.__main__")
for room in ("pipeline", "utils"):  # a fork has then little to import
    for path in sorted((ROOT / room).rglob("[a-z]*.py")):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
SECONDS = 20.0  # longer than any of them takes on a busy machine: what takes more hangs
MEMORY = 6 * 2**30  # bytes of address space beside what the process has


@dataclass(frozen=True)
class Fault:
    """``run`` is typed after ``do`` was done; stderr is one line with ``says`` in it, or a ``report`` on stdout has it."""

    run: str
    says: str
    do: tuple[str, ...] = ()
    code: int = 2
    keeps: str = ""  # what may be new, or another, behind it
    report: bool = False

    def __str__(self) -> str:
        return " & ".join([*self.do, self.run])[:110]


def faults() -> Iterator[Fault]:
    """The list, its groups written out: every command of a group with every fault of it."""
    for group in LIST["group"]:
        for entry in group["faults"]:
            for run in entry.get("run", group.get("run", [])):
                words = f"{run} {entry.get('words', '')}".strip()
                do = (*group.get("do", []), *entry.get("do", []))
                more = {
                    key: entry.get(key, group.get(key))
                    for key in ("code", "keeps", "report")
                    if key in {**group, **entry}
                }
                yield Fault(words, entry["says"], do, **more)


FAULTS = list(faults())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("faults") / "place"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield make_place(folder, patch)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file's size and time."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() or path.is_symlink():
            about = path.lstat()
            found[str(path.relative_to(folder))] = about.st_size, about.st_mtime_ns
    return found


def typed(command: str, out: Path) -> None:
    """In the fork: the command as a shell would run it; never returns."""
    name, *words = shlex.split(command)
    with (out / "out").open("wb") as stdout, (out / "err").open("wb") as stderr:
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
    sys.argv = [name if name.startswith("-m") else f"{name}.py", *words]
    code: object = 0
    try:
        if name == "data":
            sys.argv[0] = "utils/data/__main__.py"
            sys.exit(DATA.main(words))
        elif name == "verify":
            sys.argv = [words[0], *words[1:]]
            runpy.run_path(words[0], run_name="__main__")
        elif name in MODULES:
            runpy.run_path(str(ROOT / MODULES[name]), run_name="__main__")
        else:
            cli.main(SCRIPTS[name].run, SCRIPTS[name].parser())
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # as Python itself ends
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def run(command: str, folder: Path, out: Path) -> tuple[int, str]:
    """Exit code and stderr of a command in a folder."""
    child = os.fork()
    if not child:
        gc.freeze()  # what is not collected yet may join threads that a fork does not have
        os.chdir(folder)
        os.setsid()
        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        typed(command, out)
    end, status = time.monotonic() + SECONDS, (0, 0)
    while status[0] == 0:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1, f"hung: {(out / 'err').read_text()}"
        time.sleep(0.005)
        status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status[1]), (out / "err").read_text()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_one_line(fault: Fault, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    shutil.copytree(place, here, symlinks=True)
    for file in (here / "train.txt", here / "valid.txt"):
        file.write_text(file.read_text().replace(str(place), str(here)))
    monkeypatch.chdir(here)
    for line in fault.do:
        damage(line)
    before = tree(here)
    code, err = run(fault.run, here, tmp_path)
    assert code == fault.code, err
    assert len(err.splitlines()) == (not fault.report) and "Traceback" not in err, err
    assert re.search(fault.says, (tmp_path / "out").read_text() if fault.report else err), err
    after = tree(here)
    touched = [name for name in {**before, **after} if after.get(name) != before.get(name)]
    assert not [name for name in touched if not (fault.keeps and re.match(fault.keeps, name))], touched


def test_the_list_is_long_and_of_every_script() -> None:
    assert set(SCRIPTS) == {path.stem for path in ROOT.glob("*.py")} - {"models"}
    assert len(FAULTS) == len({str((f.do, f.run)) for f in FAULTS}) >= 250
    assert {fault.run.split()[0] for fault in FAULTS} == {
        *SCRIPTS,
        "data",
        "dashboard",
        "import",
        "recipe",
        "surgery",
        "verify",
    }
    assert torch.get_num_threads() == 1, "a fork has only the thread that forks"
