"""Two runs at once under one name: each has its own folder and files, of one number, and its record stamps its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from models import Darknet, network_of
from tests.conftest import ROOT
from tests.scenes import write_scenes
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.errors import InputError
from utils.files import alone, hold, holder, names_kept, take
from utils.reporting.files import sha256
from utils.reporting.record import read_record

TIMES = 3
# Torch is loaded once; the runs are processes forked from it, which all begin at the same moment.
AT_ONCE = """
import importlib, json, os, sys, time
import torch
torch.set_num_threads(1)
from utils import cli
from utils.reporting import latency
from matplotlib.figure import Figure

Figure.savefig = lambda figure, target, **options: open(target, "wb").close()
groups = json.loads(sys.argv[1])
modules = {script: importlib.import_module(script) for jobs in groups for script, _ in jobs}
codes = []
for jobs in groups:
    begin, children = time.time() + 0.2, []
    for script, words in jobs:
        child = os.fork()
        if child == 0:
            sys.argv, module = [f"{script}.py", *words], modules[script]
            time.sleep(max(0, begin - time.time()))
            try:
                cli.main(module.run, module.parser())
                code = 0
            except SystemExit as ended:
                code = ended.code
            sys.stdout.flush()
            os._exit(code)
        children.append(child)
    codes.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
print("CODES", codes)
"""
HERE = ["--data", "set.data", "--device", "cpu", "--workers", "0"]
TRAIN = [*HERE, "--cfg", "net.cfg", "--epochs", "1", "--name", "w"]
CONVERT = [*HERE, "--weights", "net.pt", "--calibration", "4", "--stepwise", "0", "--name", "w"]
QUANTISE = [*HERE, "--weights", "net.pt", "--calibration", "4", "--name", "w"]
PRUNE = [*HERE, "--weights", "net.pt", "--percent", "0.1", "--force", "--recalibrate", "0", "--name", "w"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return furnish(tmp_path)


def furnish(folder: Path) -> Path:
    """Data and a network for every script."""
    write_scenes(folder, train=4, valid=2)
    torch.manual_seed(0)
    save_checkpoint(folder / "net.pt", Checkpoint(network_of(Darknet(read_cfg(folder / "net.cfg"))), ("blue", "green")))
    return folder


def check_stamps(place: Path) -> None:
    """No two records name one file, each has the digests of its own, and nothing temporary is left."""
    stamped = [(r, o) for r in map(read_record, sorted(place.glob("runs/*"))) for o in r.outputs]
    assert stamped and len({output["path"] for _, output in stamped}) == len(stamped)
    for record, output in stamped:
        assert sha256(place / output["path"]) == output["sha256"], (record.folder, output)
    assert not list(place.rglob(".*.taken")) and not list(place.rglob("*.tmp*"))


Jobs = Sequence[tuple[str, list[str]]]


def at_once(place: Path, jobs: Jobs) -> tuple[list[int], str]:
    """The exit codes, and what all of them said."""
    (codes,), said = in_turn(place, [jobs])
    return codes, said


def in_turn(place: Path, groups: Sequence[Jobs]) -> tuple[list[list[int]], str]:
    """Groups one after the other, the jobs of each at the same moment: the exit codes, and what all of them said."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", AT_ONCE, json.dumps(groups)]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=200 * len(groups))
    assert "CODES" in done.stdout, done.stdout + done.stderr
    return json.loads(done.stdout.rpartition("CODES ")[2]), done.stderr


def test_every_record_stamps_its_own_files(place: Path) -> None:
    seeds = [str(seed) for seed in range(TIMES)]
    jobs = [("train", [*TRAIN, "--seed", seed]) for seed in seeds]
    jobs += [("convert_snn", [*CONVERT, "--seed", seed, "--a-bit", str(2 + int(seed))]) for seed in seeds]
    jobs += [("quantize", [*QUANTISE, "--a-bit", str(2 + int(seed))]) for seed in seeds]
    jobs += [("slim_prune", [*PRUNE, "--percent", f"0.1{seed}"]) for seed in ("1", "1")]
    codes, err = at_once(place, jobs)
    assert codes == [0] * len(jobs), err
    for script, suffixes in {"train": ("best_{}.pt", "last_{}.pt"), "convert_snn": ("net_{}.snn.pt",)}.items():
        for number in ("w", *(f"w-{n}" for n in range(2, TIMES + 1))):
            record = read_record(place / f"runs/{script}-{number}")
            left = {Path(each["path"]).name for each in record.outputs}
            assert {suffix.format(number) for suffix in suffixes} <= left, record.folder
    check_stamps(place)


def test_a_second_chain_of_one_name_names_the_first(place: Path) -> None:
    words = [*HERE, "--cfg", "net.cfg", "--epochs", "1", "--until", "baseline"]
    codes, err = at_once(place, [("compress", words), ("compress", words)])
    assert sorted(codes) == [0, 2]
    (line,) = [line for line in err.splitlines() if line.startswith("compress.py: ")]
    assert "runs/compress: process " in line and "(compress.py --data set.data" in line
    assert line.endswith("is at it; wait for its end, or give this one another --name")
    assert at_once(place, [("compress", words)])[0] == [0]  # it is gone


def test_names_of_a_run_have_one_number_and_are_let_go_of_at_its_end(tmp_path: Path) -> None:
    best, last = tmp_path / "best_w.pt", tmp_path / "last_w.pt"
    last.write_text("of an earlier run")
    with names_kept(), alone(tmp_path / "runs"):
        assert take(best, last) == (tmp_path / "best_w-2.pt", tmp_path / "last_w-2.pt")
        with names_kept():
            assert take(best, last)[0].name == "best_w-3.pt"
        assert take(best) == (best,)  # alone it is free
        assert hold(last) and holder(last) == "this process"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_w.pt", "runs"]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_begun(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(InputError, match=r"weights/last\.pt: .*; nothing was begun, make room or allow it"):
        take(tmp_path / "weights/last.pt")
