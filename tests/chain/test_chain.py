"""A chain of stages that are told how they score: what it runs, what it keeps, what it says at its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import compress
from pipeline import pipeline, summary
from pipeline.pipeline import Stage, TeacherSpec, finished_chain, run_chain
from pipeline.summary import Left, check_verdict
from tests.conftest import ROOT
from tests.scenes import write_scenes
from utils.chain.budget import TrainingBudget
from utils.chain.decisions import BackOff, CutShare, Learn, Recover, Widen
from utils.chain.tries import StageView
from utils.config.run import NetworkConfig
from utils.detection.task import DetectionTask
from utils.endings import Terminated
from utils.errors import InputError, NotMet, UnsurvivableError
from utils.reporting.record import finish_record, new_run_folder, start_record


class Scripted:
    """A stage's script whose runs score what they are told, one after the other; None: refused."""

    def __init__(self, name, *outcomes):
        self.__name__, self.outcomes, self.ran = name, list(outcomes), []
        self.precision = "auto"

    def parser(self):
        return Told(self)

    def run(self, words):
        self.ran.append(words)
        outcome = self.outcomes[len(self.ran) - 1]
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, InputError):
                self.ran.pop()  # that run was cut, and will be done
            raise outcome
        last, best = outcome
        folder = new_run_folder("runs", self.__name__)
        args = {"fingerprint": words.fingerprint, "precision": self.precision}
        record = start_record(folder, script=self.__name__, args=args, task=DetectionTask())
        paths = [Path("weights") / f"{kind}_{self.__name__}_{len(self.ran)}.pt" for kind in ("last", "best")]
        paths[0].parent.mkdir(exist_ok=True)
        for path in paths:
            path.write_text(f"{path} {words.words}")
        found = (
            {"before": {"params": 100}, "after": {"percent": 0.74, "params": 20}} if self.__name__ == "pruned" else {}
        )
        return finish_record(record, metrics={"map50": last, "best": {"map50": best}} | found, outputs=paths)


class Told:
    """A parser that keeps a stage's flags as they are."""

    def __init__(self, script):
        self.script = script

    def parse_args(self, words):
        config = NetworkConfig()
        object.__setattr__(config, "words", words)
        return config


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)

    def keep_words(config, **fields):
        made = NetworkConfig(**fields)
        object.__setattr__(made, "words", config.words)
        return made

    monkeypatch.setattr(pipeline, "replace", keep_words)
    monkeypatch.setattr(pipeline, "summarise", lambda config, print_, left, taught: (left, taught))
    return tmp_path


def config(*words):
    return compress.parser().parse_args(["--data", "set.data", "--cfg", "net.cfg", *words])


def stages(**outcomes):
    """The chain of compress.py, its scripts told how they score."""
    usual = {"baseline": [(0.9, 0.9)], "sparse": [(0.9, 0.9)], "pruned": [(0.8, 0.8)], "finetuned": [(0.9, 0.9)],
             "quantised": [(0.88, 0.88)]}  # fmt: skip
    scripts = {name: Scripted(name, *ends) for name, ends in (usual | outcomes).items()}
    decisions = {"baseline": Learn("baseline"), "sparse": BackOff(10), "pruned": CutShare(), "finetuned": Recover(),
                 "quantised": Widen(8)}  # fmt: skip
    taught = TeacherSpec("baseline", "objectness")
    chain = [
        Stage(name, script, [], [Path("net.cfg")] if name == "baseline" else [], decision=decisions[name], best=name in ("baseline", "finetuned"),
              teacher=taught if name in ("sparse", "finetuned") else None)
        for name, script in scripts.items()
    ]  # fmt: skip
    return chain, scripts


def given(script, flag):
    return [each.words[each.words.index(flag) + 1] for each in script.ran]


def test_a_chain_that_keeps_its_bar_runs_each_stage_once(place):
    chain, scripts = stages()
    left, _ = run_chain(config(), chain)
    assert [len(script.ran) for script in scripts.values()] == [1] * 5
    assert [each.path.name for each in left.values()][:2] == ["last_baseline_1.pt", "last_sparse_1.pt"]


def test_later_trainings_keep_the_precision_that_the_first_one_measured(place):
    chain, scripts = stages()
    scripts["baseline"].precision = "bf16"
    run_chain(config(), chain)
    told = {
        name: given(script, "--precision") for name, script in scripts.items() if "--precision" in script.ran[0].words
    }
    assert told == {"sparse": ["bf16"], "finetuned": ["bf16"]}


def test_a_precision_that_somebody_said_goes_to_the_first_training():
    words = compress.stages(config("--precision", "fp32"))[0].flags
    assert words[words.index("--precision") + 1] == "fp32" and "--precision" not in compress.stages(config())[0].flags


def test_the_percent_that_a_cut_found_stands_among_what_was_tried(place):
    chain, _ = stages()
    left, _ = run_chain(config(), chain)
    assert [each.fact for each in left["pruned"].tries] == ["0.74"]
    assert [each.fact for each in left["sparse"].tries] == [""]


def test_the_better_of_last_and_best_goes_on_but_the_sparsest_is_the_last(place):
    chain, scripts = stages(baseline=[(0.8, 0.9)], sparse=[(0.86, 0.9)])
    left, _ = run_chain(config(), chain)
    assert left["baseline"].path.name == "best_baseline_1.pt" and left["baseline"].score == 0.9
    assert left["sparse"].path.name == "last_sparse_1.pt" and left["sparse"].score == 0.86
    assert given(scripts["sparse"], "--weights") == ["weights/best_baseline_1.pt"]


def test_sparse_training_that_backs_off_goes_on_from_its_best_epoch_and_the_baseline_teaches(place):
    chain, scripts = stages(sparse=[(0.6, 0.88), (0.86, 0.86)])
    left, taught = run_chain(config(), chain)
    assert given(scripts["sparse"], "--weights") == ["weights/last_baseline_1.pt", "weights/best_sparse_1.pt"]
    assert given(scripts["sparse"], "--t_weights") == ["weights/last_baseline_1.pt"] * 2
    assert left["sparse"].path.name == "last_sparse_2.pt" and left["sparse"].kept == 1
    assert taught.keys() == {"sparse", "finetuned"}


def test_where_nothing_can_be_cut_the_network_of_the_first_sparse_training_is(place):
    refused = UnsurvivableError("no percent keeps the drop; train sparser")
    chain, scripts = stages(sparse=[(0.8, 0.88), (0.87, 0.87)], pruned=[refused, (0.78, 0.78)])
    left, _ = run_chain(config(), chain)
    assert given(scripts["pruned"], "--weights") == ["weights/last_sparse_2.pt", "weights/last_sparse_1.pt"]
    assert given(scripts["finetuned"], "--weights") == [str(left["pruned"].path)]
    assert left["pruned"].score == 0.78 and left["pruned"].tries[0].fact == str(refused)


def test_training_that_only_harms_leaves_the_network_that_it_began_with(place):
    chain, scripts = stages(finetuned=[(0.5, 0.6), (0.5, 0.7), (0.5, 0.79)])
    left, _ = run_chain(config(), chain)
    assert left["finetuned"].path == left["pruned"].path and left["finetuned"].kept is None
    assert given(scripts["quantised"], "--weights") == [str(left["pruned"].path)]


def test_a_refused_cut_does_not_end_the_chain_and_what_a_stage_refuses_does(place):
    chain, _ = stages(pruned=[UnsurvivableError("no percent holds"), (0.9, 0.9)])
    left, _ = run_chain(config(), chain)
    assert [each.fact for each in left["pruned"].tries] == ["no percent holds", ""] and left["pruned"].kept == 1
    chain, _ = stages(baseline=[InputError("no such layer")])
    with pytest.raises(InputError, match="no such layer"):
        run_chain(config("--seed", "1"), chain)


def test_a_cut_that_fails_for_another_reason_than_the_network_ends_the_chain_and_is_not_remembered(place):
    chain, scripts = stages(pruned=[InputError("weights/x.pt: No space left on device"), (0.8, 0.8)])
    with pytest.raises(InputError, match="No space left"):
        run_chain(config(), chain)
    left, _ = run_chain(config(), chain)
    assert len(scripts["pruned"].ran) == 2 and left["pruned"].kept == 0


def test_a_chain_that_goes_on_remembers_the_cuts_that_were_refused(place):
    told = {"sparse": [(0.8, 0.88), (0.87, 0.87)], "pruned": [UnsurvivableError("none holds"), (0.78, 0.78)]}
    chain, scripts = stages(**told, finetuned=[KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        run_chain(config(), chain)
    scripts["finetuned"].outcomes = [(0.9, 0.9)]
    left, _ = run_chain(config(), chain)
    assert len(scripts["pruned"].ran) == 2
    assert [each.fact for each in left["pruned"].tries] == ["none holds", "0.74"] and left["pruned"].kept == 1


def test_run_again_nothing_is_tried_twice_and_a_sweep_finds_the_chain(place, monkeypatch):
    told = {"sparse": [(0.6, 0.88), (0.86, 0.86)], "quantised": [(0.5, 0.5), (0.88, 0.88)]}
    chain, scripts = stages(**told)
    assert finished_chain(config(), chain, pipeline.fingerprint_of_data(config())) is None
    left, _ = run_chain(config(), chain)
    counts = {name: len(script.ran) for name, script in scripts.items()}
    again, _ = run_chain(config(), chain)
    assert {name: len(script.ran) for name, script in scripts.items()} == counts
    assert [each.path for each in again.values()] == [each.path for each in left.values()]
    folder = new_run_folder("runs", "compress")
    print_ = left["quantised"].print_
    finish_record(start_record(folder, script="compress", args={"fingerprint": print_}), metrics={})
    assert finished_chain(config(), chain, pipeline.fingerprint_of_data(config())).folder == folder


def test_interrupted_it_says_where_and_how_to_go_on(place):
    chain, _ = stages(sparse=[KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt) as caught:
        run_chain(config("--seed", "3"), chain)
    assert str(caught.value) == (
        "in stage 2 of 5, sparse; the same command goes on there: "
        "python3 compress.py --data set.data --seed 3 --cfg net.cfg"
    )
    chain, _ = stages(sparse=[Terminated()])
    with pytest.raises(Terminated, match="the same command goes on there"):
        run_chain(config("--seed", "3"), chain)


def test_a_bar_that_is_not_met_is_exit_code_3_and_one_line():
    code = "from utils import cli\nfrom utils.errors import NotMet\nimport compress, sys\nsys.argv = ['compress.py']\n"
    code += "def run(config): raise NotMet('the bar is not met: x; try y')\ncli.main(run, compress.parser())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3 and done.stderr == "compress.py: the bar is not met: x; try y\n"


def test_a_finished_chain_is_judged_by_its_record(tmp_path):
    record = start_record(tmp_path, script="compress", args={})
    missed = {"met": False, "fact": "half at the end", "command": "try more"}
    with pytest.raises(NotMet, match="the bar is not met: half at the end; try more"):
        check_verdict(finish_record(record, metrics={"verdict": missed}))
    check_verdict(finish_record(record, metrics={"verdict": {**missed, "met": True}}))
    check_verdict(finish_record(record, metrics={}))  # of before there were verdicts
    assert json.loads((tmp_path / "record.json").read_text())["metrics"] == {}
    assert summary.check_verdict is check_verdict


@pytest.mark.parametrize("strategy", compress.SCRIPTS)
@pytest.mark.parametrize("more", ["", "--qat --style dorefa", "--style pow2 --act relu --lr 0.1 --s-schedule decay"])
def test_every_stage_of_every_strategy_is_a_command_line_of_its_script(strategy, more):
    config = compress.parser().parse_args(["--strategy", strategy, *more.split()])
    known = StageView(TrainingBudget(160, 10, trained=False), 0.05, 0.9, 0.9)
    for stage in compress.stages(config):
        asked = stage.decision.next(known, [])
        made = stage.script.parser().parse_args([*map(str, (*stage.flags, *asked.flags))])
        if stage.name == "sparse":
            assert made.prune == {"normal": 0, "regular": 0, "layer": 2}.get(strategy, 1)
        if stage.name == "pruned":
            assert stage.script.__name__ == f"{strategy}_prune"
        if stage.name == "quantised" and more:
            assert made.wanted_style == ("dorefa" if "--qat" in more else "pow2")


def test_strategies_of_the_same_flags_are_not_taken_for_one_another(place):
    prints = set()
    for strategy in ("normal", "regular", "shortcut"):
        config = compress.parser().parse_args(["--strategy", strategy, "--percent", "0.5", "--data", "set.data"])
        cut = next(stage for stage in compress.stages(config) if stage.name == "pruned")
        Path("last.pt").write_text("the same")
        asked = cut.decision.next(StageView(TrainingBudget(1, 1, trained=True), 0.05), [])
        left = {"sparse": Left(Path("last.pt"), record=None, score=None, print_="", command="")}
        prints.add(pipeline._Attempts(config, cut, left, "before", TrainingBudget(1, 1, True), None)._flags(asked)[0])
    assert len(prints) == 3
