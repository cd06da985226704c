"""Whether a chain kept its bar, which stage lost it, and what would help."""

from __future__ import annotations

import pytest

from utils.chain.verdict import judge_chain

STAGES = ("baseline", "sparse", "pruned", "finetuned", "quantised", "spiking")
USED = {"epochs": 14, "sparse_epochs": 40, "finetune_epochs": 30, "w_bit": 8}
PARAMS = {"baseline": 100, "sparse": 100, "pruned": 40}


def judged(*scores, params=PARAMS, given=(), used=USED):
    return judge_chain(dict(zip(STAGES, scores, strict=True)), params, 0.05, used, given, "mAP@.5")


def test_an_end_within_the_drop_is_met_whatever_lay_between():
    assert judged(0.9, 0.7, 0.6, 0.86, 0.85, 0.85).met


def test_an_end_one_step_under_the_bar_is_not():
    verdict = judged(0.9, 0.9, 0.9, 0.9, 0.9, 0.8499)
    assert not verdict.met and verdict.stage == "spiking" and "0.8499 at the end, 0.8500 was asked for" in verdict.fact


@pytest.mark.parametrize(
    ("scores", "stage", "flags"),
    [
        ((0.9, 0.7, 0.7, 0.7, 0.7, 0.7), "sparse", ("--sparse-epochs", "80")),
        ((0.9, 0.9, 0.5, 0.8, 0.8, 0.8), "pruned", ("--finetune-epochs", "60")),
        ((0.9, 0.9, 0.9, 0.8, 0.8, 0.8), "finetuned", ("--finetune-epochs", "60")),
        ((0.9, 0.6, 0.6, 0.9, 0.6, 0.6), "quantised", ()),
        ((0.04, 0.04, 0.04, 0.04, 0.04, 0.04), "baseline", ("--epochs", "28")),
    ],
)
def test_the_stage_that_lost_it_is_named_with_what_would_help(scores, stage, flags):
    verdict = judged(*scores)
    assert (verdict.met, verdict.stage, verdict.flags) == (False, stage, flags)


def test_an_order_that_lost_it_is_left_to_the_rule():
    verdict = judged(0.9, 0.9, 0.5, 0.5, 0.5, 0.5, given=("percent",))
    assert verdict.without == ("percent",) and verdict.flags == ()
    assert judged(0.9, 0.9, 0.9, 0.9, 0.5, 0.5, used=USED | {"w_bit": 4}).flags == ("--w-bit", "8")


def test_a_network_of_which_nothing_was_cut_is_no_success():
    verdict = judged(*[0.9] * 6, params={"sparse": 100, "pruned": 100})
    assert not verdict.met and verdict.stage == "pruned" and "nothing was cut" in verdict.fact
