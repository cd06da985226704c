"""What a chain tries next, from scores alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from utils.chain.budget import TrainingBudget
from utils.chain.decisions import A_BITS, BackOff, CutShare, Learn, Once, Recover, Widen
from utils.chain.tries import StageView, Tried
from utils.chain.verdict import rows_of

BUDGET = TrainingBudget(160, 10, trained=True)


def seen(baseline=0.9, before=0.9, max_drop=0.05, hardest=None):
    return StageView(BUDGET, max_drop, baseline, before, hardest)


def played(decision, known, *outcomes):
    """Every try until the decision has enough, each ending as told: (score, best) or None for a refusal."""
    tried = []
    for outcome in outcomes:
        asked = decision.next(known, tried)
        if asked is None:
            return tried
        tried.append(Tried(asked, *(outcome or (None, None))))
    assert decision.next(known, tried) is None, "it wants more than was played"
    return tried


def words(tried):
    return [" ".join(map(str, each.given.flags)) for each in tried]


def test_a_first_training_is_as_long_as_the_rule_says_or_as_asked():
    assert words(played(Learn("baseline"), seen(), (0.9, 0.9))) == ["--epochs 14 --patience 10"]
    assert words(played(Learn("baseline", 2), seen(), (0.9, 0.9))) == ["--epochs 2"]
    assert words(played(Learn("baseline", 20, 3), seen(), (0.9, 0.9))) == ["--epochs 20 --patience 3"]


def test_sparse_training_that_keeps_the_bar_is_tried_once():
    (only,) = played(BackOff(), seen(), (0.86, 0.9))
    assert only.given.flags == ("--s", 0.0047, "--s-schedule", "decay", "--lr", 0.1, "--epochs", 40)
    assert only.given.taught


def test_sparse_training_that_costs_too_much_halves_s_and_goes_on_from_the_best():
    tried = played(BackOff(), seen(), (0.69, 0.91), (0.70, 0.88), (0.86, 0.86))
    assert [each.given.flags[1] for each in tried] == [0.0047, 0.0024, 0.0012]
    assert [each.given.flags[-1] for each in tried] == [40, 20, 20]
    assert [each.given.start for each in tried] == [None, 0, 0]
    assert BackOff().kept(seen(), tried) == 2
    assert "21.0 points cost more than 0.05: s halved, from its best epoch" in tried[1].given.why


def test_a_best_epoch_under_the_bar_is_not_gone_on_from():
    tried = played(BackOff(), seen(), (0.5, 0.6), (0.86, 0.86))
    assert tried[1].given.start is None and "from the baseline again" in tried[1].given.why


def test_where_no_s_keeps_the_bar_the_one_that_lost_least_is_kept():
    tried = played(BackOff(), seen(), (0.5, 0.6), (0.7, 0.7), (0.6, 0.7))
    assert len(tried) == 3 and BackOff().kept(seen(), tried) == 1


def test_a_given_s_is_an_order_and_so_are_a_percent_and_bits():
    assert words(played(BackOff(8, 0.01), seen(), (0.1, 0.1))) == ["--s 0.01 --epochs 8"]
    assert words(played(CutShare(0.65), seen(), (0.1, 0.1))) == ["--percent 0.65"]
    assert words(played(Widen(8, 3), seen(), (0.1, 0.1))) == ["--w-bit 8 --a-bit 3"]
    assert not played(BackOff(4, 0.01), seen(), (0.1, 0.1))[0].given.taught


def test_a_given_rate_and_schedule_go_to_every_training_and_are_halved_from_there():
    assert words(played(Learn("baseline", 2, None, 0.3), seen(), (0.9, 0.9))) == ["--epochs 2 --lr 0.3"]
    push = BackOff(4, 0.01, 0.3, "constant")
    assert words(played(push, seen(), (0.1, 0.1))) == ["--s 0.01 --s-schedule constant --lr 0.3 --epochs 4"]
    tried = played(Recover(3, None, 0.3), seen(), (0.1, 0.1), (0.2, 0.2), (0.1, 0.1))
    assert words(tried) == [f"--epochs 3 --lr {rate}" for rate in (0.3, 0.15, 0.075)]


def test_the_rate_falls_with_the_epochs_where_the_first_training_was_much_longer():
    masks = StageView(TrainingBudget(367, 46, trained=False), 0.02, 0.6, 0.6)
    tried = played(BackOff(), masks, (0.5, 0.5), (0.55, 0.57), (0.56, 0.58))
    assert [each.given.flags[1] for each in tried] == [0.005, 0.0025, 0.0013]
    assert [each.given.flags[each.given.flags.index("--lr") + 1] for each in tried] == [0.066, 0.033, 0.033]
    assert all(each.given.taught for each in tried)
    tried = played(Recover(), masks, (0.5, 0.5), (0.5, 0.55), (0.6, 0.6))
    assert [words(tried)[i].split("--lr ")[1] for i in range(3)] == ["0.099", "0.0495", "0.02475"]
    assert words(played(BackOff(lr=0.05), masks, (0.59, 0.59)))[0].split("--lr ")[1].startswith("0.05 ")
    assert words(played(BackOff(s=0.001), masks, (0.1, 0.1))) == ["--s 0.001 --lr 0.066 --epochs 18"]
    assert "--lr" not in words(played(Recover(learnt=20), masks, (0.6, 0.6)))[0], "as the first training's epochs say"


def test_trained_integers_are_trained_as_long_as_the_cut_is_recovered_from():
    assert words(played(Widen(4, 3, trained=True), seen(), (0.1, 0.1))) == ["--w-bit 4 --a-bit 3 --epochs 60"]
    assert words(played(Widen(4, 3, True, 2), seen(), (0.1, 0.1))) == ["--w-bit 4 --a-bit 3 --epochs 2"]


def test_every_training_behind_the_first_keeps_its_precision_and_nothing_else_is_told_of_it():
    known = replace(seen(), precision="bf16")
    cut = played(CutShare(), known, (0.9, 0.9))
    assert "--precision" not in words(cut)[0] and "--precision" not in words(played(Widen(8, 3), known, (0.9, 0.9)))[0]
    for decision in (BackOff(), Recover(), Widen(4, 3, trained=True)):
        assert words(played(decision, known, (0.9, 0.9)))[0].endswith("--precision bf16")
        assert "--precision" not in words(played(decision, seen(), (0.9, 0.9)))[0]


def test_a_plain_penalty_over_many_steps_needs_no_teacher():
    many = StageView(TrainingBudget(4000, 250, trained=False), 0.05, 0.9, 0.9)
    (only,) = played(BackOff(), many, (0.89, 0.9))
    assert only.given.flags == ("--s", 0.001, "--epochs", 9) and not only.given.taught


def test_a_cut_that_is_refused_cuts_nothing_and_the_chain_goes_on():
    assert words(played(CutShare(), seen(), (0.8, 0.8))) == ["--percent auto --max-drop 0.05"]
    tried = played(CutShare(), seen(), None, (0.9, 0.9))
    assert words(tried)[1] == "--percent 0.0" and CutShare().kept(seen(), tried) == 1
    assert tried[0].given.refusable and not tried[1].given.refusable


def test_where_sparse_training_gave_way_its_first_try_is_cut_too_and_the_larger_cut_is_kept():
    known, decision = seen(hardest=0.8), CutShare()
    tried = played(decision, known, (0.9, 0.9, "0.2", 0.2, 0.8), (0.75, 0.75, "0.5", 0.5, 0.5))
    assert words(tried)[1] == words(tried)[0] and tried[1].given.hardest and not tried[0].given.hardest
    assert "0.2 can be cut of what sparse training left; of its first try, 10.0 points under" in tried[1].given.why
    assert decision.kept(known, tried) == 1
    large, small = (0.9, 0.9, "0.5", 0.5, 0.4), (0.75, 0.75, "0.4", 0.4, 0.5)
    assert decision.kept(known, played(decision, known, large, small)) == 0
    assert decision.kept(known, played(decision, known, large, large)) == 0
    tiny = (0.9, 0.9, "0.01", 0.01, 0.99)
    assert decision.kept(known, played(decision, known, tiny, None, None)) == 0, "better than nothing"
    refused = played(decision, known, None, (0.75, 0.75, "0.5", 0.5, 0.5))
    assert "nothing can be cut of what" in refused[1].given.why and decision.kept(known, refused) == 1
    assert words(played(decision, known, None, None, (0.9, 0.9)))[2] == "--percent 0.0"


def test_a_cut_that_takes_less_than_half_of_the_parameters_is_tried_by_half_on_the_network_that_was_pushed():
    known, decision = seen(hardest=0.8), CutShare()
    small, half = (0.9, 0.9, "0.02", 0.02, 0.98), (0.7, 0.7, "0.52", 0.52, 0.499)
    tried = played(decision, known, small, (0.75, 0.75, "0.5", 0.5, 0.509), half)
    assert words(tried)[2] == "--target-params 0.5" and tried[2].given.hardest and tried[2].given.refusable
    assert "50.9% of the parameters would be left" in tried[2].given.why
    assert decision.kept(known, tried) == 2
    assert decision.kept(known, played(decision, known, small, (0.75, 0.75, "0.5", 0.5, 0.509), None)) == 1
    assert len(played(decision, known, small, (0.75, 0.75, "0.5", 0.5, 0.5))) == 2, "half is gone"
    assert len(played(decision, known, (0.9, 0.9, "0.5", 0.5, 0.4), (0.75, 0.75, "0.3", 0.3, 0.6))) == 2
    assert words(played(decision, known, small, None, half))[2] == "--target-params 0.5"
    assert len(played(CutShare(), seen(), small)) == 1, "nothing was pushed harder"
    wide = (0.9, 0.9, "0.6", 0.6, 0.55)  # most channels and not most parameters: another network's
    assert decision.kept(known, played(decision, known, wide, (0.75, 0.75, "0.4", 0.4, 0.6), half)) == 2


def test_a_first_try_that_no_training_brings_back_is_not_cut():
    assert len(played(CutShare(), seen(hardest=0.7), (0.9, 0.9, "0.01", 0.01))) == 1
    assert len(played(CutShare(), seen(hardest=0.75), (0.9, 0.9, "0.01", 0.01), (0.8, 0.8, "0.4", 0.4))) == 2
    assert len(played(CutShare(), seen(), (0.9, 0.9, "0.01", 0.01))) == 1, "it did not give way"


def test_training_after_the_cut_that_makes_it_worse_is_done_again_from_the_start_at_half_of_the_rate():
    tried = played(Recover(), seen(before=0.7), (0.6, 0.65), (0.6, 0.69), (0.88, 0.88))
    assert words(tried)[0] == "--epochs 60 --patience 30"
    assert [words(tried)[i].split("--lr ")[1] for i in (1, 2)] == ["0.1", "0.05"]
    assert all(each.given.start is None for each in tried)
    assert Recover().kept(seen(before=0.7), tried) == 2


def test_training_after_the_cut_never_ends_below_what_it_began_with():
    for scores in itertools.product((0.5, 0.69, 0.71, 0.8, 0.9), repeat=3):
        known, decision = seen(before=0.7), Recover()
        tried = []
        while (asked := decision.next(known, tried)) is not None:
            tried.append(Tried(asked, 0.0, scores[len(tried)]))
        kept = decision.kept(known, tried)
        assert len(tried) <= 3
        assert (0.7 if kept is None else tried[kept].best) == max(0.7, *(each.best for each in tried))


def test_training_after_the_cut_that_leaves_integers_nothing_to_lose_goes_on_once_from_its_best():
    tried = played(Recover(), seen(before=0.7), (0.8, 0.86), (0.84, 0.87))
    assert tried[1].given.start == 0 and words(tried)[1].endswith("--lr 0.1")
    assert "1.5 points under what leaves integers their part" in tried[1].given.why
    assert len(played(Recover(), seen(before=0.7), (0.84, 0.88))) == 1


def test_bits_go_up_until_they_hold_or_there_are_no_more():
    assert [each.given.flags[-1] for each in played(Widen(8), seen(before=0.88), (0.7, 0.7), (0.86, 0.86))] == [4, 5]
    tried = played(Widen(8), seen(before=0.88), (0.1, 0.1), (0.5, 0.5), (0.4, 0.4), (0.3, 0.3))
    assert [each.given.flags[-1] for each in tried] == list(A_BITS) and Widen(8).kept(seen(before=0.88), tried) == 1


def test_integers_of_a_network_under_the_bar_are_held_to_the_network():
    assert len(played(Widen(8), seen(before=0.80), (0.76, 0.76))) == 1
    assert len(played(Widen(8), seen(before=0.80), (0.74, 0.74), (0.79, 0.79))) == 2


@pytest.mark.parametrize("decision", [Learn("baseline"), BackOff(), CutShare(), Recover(), Widen(8), Once()])
def test_where_scores_say_nothing_nothing_is_tried_twice(decision):
    assert len(played(decision, seen(baseline=0.01, before=0.02), (0.0, 0.0))) == 1
    assert decision.kept(seen(baseline=0.01, before=0.02), [Tried(decision.next(seen(), []), 0.0, 0.0)]) == 0


def test_a_decisions_words_say_all_that_it_depends_on():
    assert repr(BackOff()) != repr(BackOff(s=0.001)) and repr(Widen(8)) != repr(Widen(8, 4))


def test_the_table_tells_the_score_of_what_a_stage_leaves():
    tried = played(BackOff(), seen(), (0.86, 0.93))
    assert [row["score"] for row in rows_of("sparse", tried, 0, best=False)] == [0.86]
    assert [row["score"] for row in rows_of("finetuned", tried, 0, best=True)] == [0.93]
    assert [row["kept"] for row in rows_of("finetuned", tried, None, best=True)] == [False]
