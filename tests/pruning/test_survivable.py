"""What a cut leaves is measured; a push that is too weak names a stronger one and what it costs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import train
from models import Darknet, network_of
from pipeline.pruning_measure import tell_push
from pipeline.pruning_planner import PruningPlanner
from tests.conftest import ROOT
from tests.scenes import undrawn_runs, write_scenes
from utils.config.prune import ChannelConfig
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.errors import InputError
from utils.pruning.penalty import SparsityPenalty
from utils.pruning.plan import ShortcutRule
from utils.pruning.probe import pushed
from utils.pruning.strategy import CutStep, Strategy

TINY = ROOT / "tests/cfgs/tiny.cfg"


@pytest.fixture
def planner(monkeypatch):
    """A cut of most of the channels; what a percent leaves falls in a straight line from 0.8."""
    monkeypatch.setattr(PruningPlanner, "_left", lambda self, percent: 0.8 - percent)

    def make(force: bool = False) -> PruningPlanner:
        session = SimpleNamespace(config=ChannelConfig(percent=0.7, force=force), heading="mAP@.5")
        net = network_of(Darknet(read_cfg(TINY)))
        return PruningPlanner(SimpleNamespace(session=session), Strategy("x", ShortcutRule.ANY), net, net, CutStep())

    return make


def test_a_cut_that_leaves_less_than_half_is_refused_with_a_percent_that_was_measured(planner, caplog):
    caplog.set_level("INFO")
    message = r"^mAP@\.5 0\.1000 of 0\.8000 is left on recalibrated statistics, so it is not survivable; "
    with pytest.raises(InputError, match=message + r"--percent 0\.40 is \(mAP@\.5 0\.4000\), or --force goes on"):
        planner().check_left(0.8, 0.1)
    assert "0.1000 of 0.8000 is left on recalibrated statistics: not survivable" in caplog.text
    planner(force=True).check_left(0.8, 0.1)


def test_half_is_survivable_and_of_a_network_that_knows_nothing_nothing_is_said(planner, caplog):
    caplog.set_level("INFO")
    planner().check_left(0.8, 0.4)
    assert "0.4000 of 0.8000 is left on recalibrated statistics: survivable" in caplog.text
    planner().check_left(0.002, 0.0)
    assert "too little to say what is survivable" in caplog.text


def test_a_probe_pushes_as_far_as_it_says_and_leaves_the_model_alone():
    torch.manual_seed(0)
    spec = read_cfg(TINY)
    model = Darknet(spec)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = pushed(
        model,
        [torch.rand(2, 3, 32, 32) for _ in range(40)],
        0.4,
        SparsityPenalty(spec, ShortcutRule.ANY, 1.0),
        inputs=lambda batch: batch,
        loss=lambda outputs, batch: {"total": 0.0 * sum(output.sum() for output in outputs)},
    )
    far = 1 - float(twin.state_dict()["layers.0.bn.weight"].mean())
    assert 0.3 < far < 0.4  # momentum has not caught up wholly
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_push_that_is_too_weak_names_a_stronger_one_and_what_both_cost(tmp_path, monkeypatch, caplog):
    write_scenes(tmp_path, train=16, valid=4)
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    caplog.set_level("INFO")
    save_checkpoint("net.pt", Checkpoint(network_of(Darknet(read_cfg("net.cfg"))), ("blue", "green")))
    told = iter([0.5, 0.48, 0.1])
    evaluate = SimpleNamespace(record=lambda: {"map50": next(told)})
    real = tell_push

    def faked(run):
        with monkeypatch.context() as patch:
            patch.setattr(type(run.task), "evaluate", lambda *words, **options: evaluate)
            real(run)

    monkeypatch.setattr("pipeline.train.tell_push", faked)
    words = ["--data", "set.data", "--weights", "net.pt", "--device", "cpu", "--workers", "0", "--epochs", "1"]
    train.run(train.parser().parse_args([*words, "-sr", "--s", "0.0001", "--prune", "1"]))
    assert "times the --epochs would, or s = " in caplog.text
    (line,) = (each.getMessage() for each in caplog.records if "a probe of" in each.getMessage())
    assert "mAP@.5 0.5000 before, 0.4800 with s = 0.0001, 0.1000 with s = " in line
