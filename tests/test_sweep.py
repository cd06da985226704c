"""compress.py --sweep: what is shared runs once, what failed does not take the rest along, what is done stays done."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import pytest

import compress
from models import Darknet, network_of
from pipeline import pipeline, sweep
from pipeline.chain_start import check_start, with_data
from pipeline.pipeline import Stage
from pipeline.sweep import SweepUnit, command, plan, points_of
from tests.classification.test_data import write_set as write_classes
from tests.classification.test_scripts import CFG as CLASSES
from tests.conftest import ROOT
from tests.scenes import write_scenes
from tests.test_pipeline import QUICK
from utils import cli
from utils.cli import flag
from utils.config.run import NetworkConfig
from utils.darknet.cfg import read_cfg
from utils.darknet.weights import write_weights
from utils.errors import InputError
from utils.jobs import JobRunner, run_all, started
from utils.reporting.database import read_database
from utils.reporting.pareto import front
from utils.reporting.record import finish_record, new_run_folder, read_record, start_record
from utils.reporting.results import read_rows

GRID = ["--sweep", "percent=0.5,0.7,0.9", "a-bit=2,4,8"]


def parsed(*words):
    return compress.parser().parse_args([*words])


def points(*words):
    return points_of(parsed(*words), compress.parser())


def planned(*words, left=None):
    found = points(*words)
    chains = [compress.stages(point.config) for point in found]
    return plan("sweep", chains, found, range(len(found)) if left is None else left), found


def test_common_stages_are_run_once_and_before_what_needs_them():
    units, found = planned(*GRID)
    assert len(found) == 9
    assert [(unit.name, unit.until, unit.after) for unit in units[:3]] == [
        ("sweep", "sparse", None),
        ("sweep-percent0.5", "finetuned", "sweep"),
        ("sweep-percent0.5-a-bit2", None, "sweep-percent0.5"),
    ]
    assert len(units) == 1 + 3 + 9
    names = [unit.name for unit in units]
    assert len(set(names)) == len(names)
    assert all(unit.after is None or names.index(unit.after) < i for i, unit in enumerate(units))
    assert sorted(i for unit in units if unit.until is None for (i,) in [unit.points]) == list(range(9))


def test_points_that_share_nothing_stand_alone():
    units, _ = planned("--sweep", "seed=0,1", "epochs=1,2")
    assert [(unit.until, unit.after) for unit in units] == [(None, None)] * 4


def test_only_what_is_left_is_planned():
    units, _ = planned(*GRID, left=[4])
    assert [(unit.name, unit.until, unit.points) for unit in units] == [("sweep-percent0.7-a-bit4", None, (4,))]


def test_flags_that_mean_the_same_do_not_run_side_by_side():
    units, _ = planned("--sweep", "percent=0.5,0.50")
    assert [unit.after for unit in units] == [None, units[0].name]


def test_a_points_command_line_says_what_the_point_is():
    units, found = planned(*QUICK, "--kd", "3", "--img-size", "64", "96", "-pt", "--gray-scale", *GRID)
    unit, point = units[3], found[1]
    words = command(Path("compress.py"), point.config, unit)
    again = parsed(*words[2:])
    own = {"name": unit.name, "until": unit.until, "sweep": None, "jobs": None}
    assert again == replace(point.config, **own) and again.a_bit == 4 and again.point
    assert words[:2] == [sys.executable, str(Path("compress.py").resolve())]


def test_the_teacher_can_be_swept_and_is_part_of_what_a_point_is():
    units, found = planned("--sweep", "KDstr=none,objectness,3")
    assert [point.config.kd for point in found] == ["none", "objectness", "3"]
    assert [(unit.until, unit.points) for unit in units] == [("pruned", (0, 1, 2)), *[(None, (i,)) for i in range(3)]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["percent"], "percent: is not FLAG=VALUE,VALUE"),
        (["percent=0.5,"], "is not FLAG=VALUE,VALUE"),
        (["colour=red"], "colour cannot be swept; a flag with one value can"),
        (["jobs=1,2"], "jobs cannot be swept"),
        (["workers=0,1"], "workers cannot be swept"),
        (["pretrained=1"], "pretrained cannot be swept"),
        (["percent=0.5", "percent=0.7"], "percent is given twice"),
        (["data=a/b,a_b"], "two points would have one name"),
    ],
)
def test_what_cannot_be_swept_is_told(words, message):
    with pytest.raises(InputError, match=message):
        points("--sweep", *words)


def test_a_value_out_of_range_is_the_flags_own_error(capsys):
    with pytest.raises(SystemExit):
        points("--sweep", "percent=0.5,1.5")
    assert "argument --percent: must be a number from 0 up to, but not, 1, got 1.5" in capsys.readouterr().err


# The chain with stages that do nothing, in this process.


@dataclass(frozen=True, kw_only=True)
class StubConfig(NetworkConfig):
    number: str = flag("", "what the stage is about")


class Stub:
    """A stage's script that leaves a file; it fails where it is told to."""

    def __init__(self, name, ran):
        self.__name__, self.ran = name, ran

    def parser(self):
        return cli.parser("", StubConfig)

    def run(self, config):
        self.ran.append((self.__name__, config.name))
        folder = new_run_folder("runs", self.__name__, config.name)
        record = start_record(folder, script=self.__name__, args=asdict(config))
        if config.number == "8" and Path("broken").exists():
            raise InputError("layer 3: 8 bits are too many today; repair it")
        path = Path("weights") / f"{config.name}.pt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{config.number} {config.weights}")
        return finish_record(record, metrics={}, outputs=[path])


@pytest.fixture
def stubbed(tmp_path, monkeypatch):
    """A folder in which chains do nothing; returns a function that sweeps, and what was run."""
    ran: list[tuple[str, str]] = []
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)

    def stages(config):
        scripts = [Stub(name, ran) for name in ("train", "prune", "quantise")]
        numbers = (config.epochs, config.percent, config.a_bit)
        names = ("baseline", "pruned", "spiking")
        return [Stage(n, s, ["--number", x], [Path("net.cfg")] if s is scripts[0] else [])
                for n, s, x in zip(names, scripts, numbers, strict=True)]  # fmt: skip

    def finish(config, fingerprint, left, teachers):
        row = {"map50": 0.9 - config.percent / 3 + config.a_bit / 100, "map": 0.1, "params": 1, "macs": 2,
               "bytes": int(1e6 * (1 - config.percent) * config.a_bit), "energy_pj": 1e6 * config.a_bit}  # fmt: skip
        args = asdict(replace(config, fingerprint=fingerprint))
        record = start_record(new_run_folder("runs", "compress", config.name), script="compress", args=args)
        first = {**row, "map50": 0.95, "bytes": 9e6, "energy_pj": 2e8}
        return finish_record(record, metrics={"stages": {"baseline": first, "spiking": row}})

    @contextmanager
    def here(engine):
        def submit(words, path):
            future: Future[str] = Future()
            try:
                config = parsed(*words[2:])
                pipeline.run_chain(config, stages(config))
                future.set_result("")
            except InputError as error:
                future.set_result(str(error))
            return future

        yield submit

    monkeypatch.setattr(pipeline, "summarise", finish)
    monkeypatch.setattr(sweep, "started", here)

    def run(*words):
        config = parsed("--data", "set.data", "--cfg", "net.cfg", *words)
        ran.clear()
        return sweep.run_sweep(config, compress.parser(), stages, Path("compress.py"))

    return run, ran


def test_a_sweep_shares_stages_and_ends_in_a_table_and_a_picture(stubbed, caplog):
    run, ran = stubbed
    with caplog.at_level("INFO"):
        record = run(*GRID)
    assert sorted(name for name, _ in ran) == [*["prune"] * 3, *["quantise"] * 9, "train"]
    assert record.folder == Path("runs/sweep") and record.finished
    rows = read_rows(record.folder / "points.csv")
    assert [(row["percent"], row["a-bit"]) for row in rows] == [(p, a) for p in (0.5, 0.7, 0.9) for a in (2, 4, 8)]
    assert record.metrics["points"][4]["folder"] == "runs/compress-sweep-percent0.7-a-bit4"
    best = {(row["percent"], row["a-bit"]) for row in record.metrics["points"] if row["front_bytes"]}
    assert best == {(0.9, 2), (0.9, 4), (0.7, 2), (0.5, 2), (0.5, 4), (0.5, 8)}
    assert cv2.imread(str(record.folder / "pareto.png")).shape[1] > 1000
    assert "| 0.9     |     8 | 0.6800 |" in caplog.text and "* nothing smaller scores higher" in caplog.text


class StoppedError(Exception):
    pass


def test_points_of_classes_are_looked_for_with_the_teacher_that_their_own_processes_have(tmp_path, monkeypatch):
    """A point's process is taught ``soft``; a sweep that looked for boxes' teacher found no point that had ended."""
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "set")
    (tmp_path / "net.cfg").write_text(CLASSES)
    asked = []

    def look(config, stages, data):
        asked.append((config.kd, stages))
        raise StoppedError

    monkeypatch.setattr(sweep, "finished_chain", look)
    config = with_data(parsed("--data", "set", "--cfg", "net.cfg", "--sweep", "a-bit=2,4"))
    with pytest.raises(StoppedError):
        sweep.run_sweep(config, compress.parser(), lambda config: config.kd, Path("compress.py"))
    assert asked == [("soft", "soft")]


def test_finished_points_are_not_run_again_and_new_ones_join(stubbed):
    run, ran = stubbed
    run(*GRID)
    assert run(*GRID).folder == Path("runs/sweep") and ran == []
    wider = run("--sweep", "percent=0.5,0.7,0.9,0.8", "a-bit=2,4,8")
    assert [name for name, _ in ran] == ["prune", "quantise", "quantise", "quantise"]
    assert wider.folder == Path("runs/sweep-2") and len(wider.metrics["points"]) == 12


def test_a_failing_point_does_not_lose_the_rest_and_is_tried_again(stubbed, caplog):
    run, ran = stubbed
    Path("broken").touch()
    with caplog.at_level("INFO"):
        record = run(*GRID)
    rows = record.metrics["points"]
    assert [bool(row["error"]) for row in rows] == [False, False, True] * 3
    assert rows[2]["error"] == "layer 3: 8 bits are too many today; repair it" and rows[2]["map50"] is None
    assert "too many today" in caplog.text and "3 of 9 points failed; run this again" in caplog.text
    Path("broken").unlink()
    assert not any(row["error"] for row in run(*GRID).metrics["points"])
    assert [name for name, _ in ran] == ["quantise"] * 3


def test_a_sweep_of_which_nothing_is_left_says_why(stubbed):
    run, _ = stubbed
    Path("broken").touch()
    with pytest.raises(InputError, match="too many today; repair it; no point of this sweep came to its end"):
        run("--sweep", "a-bit=8")


def test_a_stage_that_all_need_fails_all(stubbed):
    run, ran = stubbed
    Path("broken").touch()
    with pytest.raises(InputError, match="no point of this sweep"):
        run("--sweep", "a-bit=2,4", "--epochs", "8")
    assert ran == [("train", "sweep-baseline")]


def future(result):
    done: Future[str] = Future()
    done.set_exception(result) if isinstance(result, Exception) else done.set_result(result)
    return done


def test_what_waits_for_a_failed_unit_is_not_begun():
    units = [
        SweepUnit("a", "sparse", (0, 1, 2)),
        SweepUnit("b", None, (0,), "a"),
        SweepUnit("c", "x", (1, 2), "a"),
        SweepUnit("d", None, (1,), "c"),
    ]
    begun = []

    def start(unit):
        begun.append(unit.name)
        return future({"b": "no room", "c": RuntimeError("worker died\nlong story")}.get(unit.name, ""))

    assert run_all(units, start) == {0: "no room", 1: "RuntimeError: worker died", 2: "RuntimeError: worker died"}
    assert sorted(begun) == ["a", "b", "c"]


# Real processes.


def python(code):
    return [sys.executable, "-c", code]


def test_a_process_that_fails_or_is_killed_is_told_in_a_line(tmp_path):
    with started(JobRunner("processes", 2)) as submit:
        message = [
            submit(python("import os; print(os.environ['OMP_NUM_THREADS'])"), str(tmp_path / "one.log")),
            submit(python("import sys; print('x'); sys.exit('compress.py: net.cfg line 3: bad; mend it')"), str(tmp_path / "two.log")),
            submit(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), str(tmp_path / "three.log")),
        ]  # fmt: skip
        results = [each.result() for each in message]
    assert results == ["", "net.cfg line 3: bad; mend it", f"ended by SIGKILL; see {tmp_path / 'three.log'}"]
    assert (tmp_path / "one.log").read_text() == f"{JobRunner('processes', 2).threads}\n"


def test_the_engine_ends_what_runs_when_it_is_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), started(JobRunner("processes", 1)) as submit:
        running = submit(python("import time; time.sleep(60)"), str(tmp_path / "log"))
        while not running.running() or not (tmp_path / "log").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        began = time.monotonic()
        raise KeyboardInterrupt
    assert "SIGKILL" in running.result(timeout=10) and time.monotonic() - began < 10


def test_points_end_when_their_sweep_is_killed(tmp_path):
    child = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pipeline.sweep import watch_parent\nwatch_parent()\n"
    )
    child += "open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'born')\nimport time; time.sleep(60)"
    parent = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom utils.jobs import run_command\n"
    parent += f"run_command([sys.executable, '-c', {child!r}], 'log', 1, {str(tmp_path)!r})"
    driver = subprocess.Popen(python(parent))
    deadline = time.monotonic() + 60
    while not (tmp_path / "born").exists():
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.05)
    pid = int((tmp_path / "born").read_text())
    driver.kill()
    driver.wait()
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z":
        assert time.monotonic() < deadline, "the point lives on"
        time.sleep(0.05)


def test_without_ray_asking_for_it_names_the_file_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--engine ray: .*requirements-sweep\.txt"), started(JobRunner("ray")):
        pass


def test_ray_runs_commands_too(tmp_path):
    pytest.importorskip("ray")
    with started(JobRunner("auto", 2)) as submit:
        results = [submit(python(f"import sys; sys.exit({code})"), str(tmp_path / "log")).result() for code in (0, 3)]
    assert results[0] == "" and results[1]


def test_two_points_of_the_real_chain(tmp_path, monkeypatch):
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    short = ["--epochs", "1", "--sparse-epochs", "1", "--finetune-epochs", "1", "--engine", "processes", "--jobs", "2"]
    record = compress.run(parsed(*QUICK, *short, "--sweep", "a-bit=4,5"))
    assert [row["error"] for row in record.metrics["points"]] == ["", ""]
    for row in record.metrics["points"]:
        point = read_record(row["folder"])
        assert point.metrics["stages"]["spiking"]["bytes"] == row["bytes"]
        page = (point.folder / "report.html").read_text()
        for stage, numbers in point.metrics["stages"].items():
            assert f'value="{json.dumps(numbers["map50"])}" data-stage="{stage}" data-name="map50"' in page
        assert page.count("<svg") == 10 and 'class="missing"' not in page
    assert len(list(tmp_path.glob("weights/*.int.pt"))) == 2, "each point has files of its own"
    assert len(list(tmp_path.glob("runs/train-sweep-*"))) == 3, "what they share was trained once"


# Where the chain starts from.


def test_weights_of_another_network_are_refused_unless_their_parts_are_wanted(tmp_path, monkeypatch):
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    full = network_of(Darknet(read_cfg("net.cfg")))
    write_weights("full.weights", full)
    Path("small.cfg").write_text(Path("net.cfg").read_text().replace("filters=16", "filters=11", 1))
    Path("small.cfg").write_text(Path("small.cfg").read_text().replace("filters=16", "filters=11", 1))
    write_weights("pruned.weights", network_of(Darknet(read_cfg("small.cfg"))))
    for cfg, weights in (("net.cfg", "pruned.weights"), ("small.cfg", "full.weights")):
        with pytest.raises(InputError, match=rf"{weights}: .*bytes.*layer.*use the cfg.*-pt to take.*cfg/pruned/"):
            check_start(parsed("--cfg", cfg, "--weights", weights))
        check_start(parsed("--cfg", cfg, "--weights", weights, "-pt"))
    check_start(parsed("--cfg", "net.cfg", "--weights", "full.weights"))
    check_start(parsed("--cfg", "small.cfg", "--weights", "pruned.weights"))


def test_a_backbone_and_heads_for_other_classes_are_welcome(tmp_path, monkeypatch):
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    full = network_of(Darknet(read_cfg("net.cfg")))
    write_weights("full.weights", full)
    first = sum(v.numel() for k, v in full.state.items() if k.split(".")[1] in ("0", "2") and "tracked" not in k)
    Path("backbone.weights").write_bytes(Path("full.weights").read_bytes()[: 20 + 4 * first])
    text = Path("net.cfg").read_text().replace("filters=14", "filters=16").replace("classes=2", "classes=3")
    Path("three.cfg").write_text(text)
    check_start(parsed("--cfg", "net.cfg", "--weights", "backbone.weights"))
    check_start(parsed("--cfg", "three.cfg", "--weights", "full.weights"))


def test_fresh_heads_can_be_asked_for_as_the_message_says(tmp_path):
    first = compress.stages(parsed("--cfg", "net.cfg", "-pt"))[0]
    assert "-pt" in first.flags and "-pt" not in compress.stages(parsed("--cfg", "net.cfg"))[0].flags
    assert "-pt" in compress.stages(parsed("--weights", "x.weights"))[0].flags


def test_the_front_is_what_nothing_beats():
    spots = [(1.0, 0.5), (2.0, 0.7), (3.0, 0.6), (2.0, 0.6), (1.0, 0.5), (0.5, 0.1)]
    assert front(spots) == {0, 1, 4, 5}
    assert front([]) == set()


def test_one_file_holds_every_point_and_every_number_of_its_stages(stubbed):
    run, _ = stubbed
    Path("broken").touch()
    record = run("--sweep", "percent=0.5,0.7", "a-bit=4,8")
    path = record.folder / "results.sqlite"
    rows = read_rows(record.folder / "points.csv")
    assert [{key: row[key] for key in rows[0]} for row in read_database(path)] == [
        row | {key: row[key] or "" for key in ("error",)} | {key: None if row[key] is None else int(row[key] == "True") for key in row if key.startswith("front")}
        for row in rows
    ]  # fmt: skip
    with closing(sqlite3.connect(path)) as base:
        found = base.execute('select p."a-bit", n.value from points p join numbers n on n.point = p.id where n.stage = ? and n.name = ?', ("spiking", "energy_pj")).fetchall()  # fmt: skip
        assert found == [(4, 4e6), (4, 4e6)], "those of 8 bits are broken today"
    assert str(path) in [item["path"] for item in record.outputs]


def test_a_unit_that_is_killed_is_begun_again_and_not_for_ever():
    units = [SweepUnit("a", "sparse", (0, 1)), SweepUnit("b", None, (0,), "a"), SweepUnit("c", None, (1,), "a")]
    endings = {"a": ["ended by SIGKILL; see a.log", ""], "b": ["ended by SIGKILL; see b.log"] * 9, "c": ["bad cfg"]}
    begun = []

    def start(unit):
        begun.append(unit.name)
        return future(endings[unit.name].pop(0))

    assert run_all(units, start) == {0: "ended by SIGKILL; see b.log", 1: "bad cfg"}
    assert [begun.count(name) for name in "abc"] == [2, 3, 1]


WAITS = """
import pathlib, time
here = pathlib.Path({place!r})
(here / "here-{own}").touch()
began = time.monotonic()
while not (here / "here-{other}").exists():
    assert time.monotonic() < began + 120, "the other one is not run beside this one"
    time.sleep(0.05)
"""
DIES = """
import os, pathlib, signal, sys
tries = pathlib.Path({place!r}) / "tries"
tries.write_text((tries.read_text() if tries.exists() else "") + "x")
if len(tries.read_text()) == 1:
    os.kill(os.getppid(), signal.SIGKILL)  # the worker that started it
    sys.stdin.read()
    sys.exit(1)
"""


def test_two_nodes_of_ray_share_a_sweep_and_what_a_killed_worker_ran_is_run_again(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        monkeypatch.setattr("utils.jobs.cores", lambda: 2)
        with started(JobRunner("ray", 2)) as submit:
            place = str(tmp_path)
            pair = [
                submit(python(WAITS.format(place=place, own=a, other=b)), str(tmp_path / f"{a}.log"))
                for a, b in ((1, 2), (2, 1))
            ]
            assert [each.result(timeout=200) for each in pair] == ["", ""], "each node has one core, so it takes both"
            assert submit(python(DIES.format(place=place)), str(tmp_path / "3.log")).result(timeout=200) == ""
    finally:
        cluster.shutdown()
    assert (tmp_path / "tries").read_text() == "xx"
