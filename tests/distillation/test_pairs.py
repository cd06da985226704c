"""Heads find each other by stride; what cannot be compared is told."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.distillation.nets import cfg
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.shapes import channels
from utils.distillation.pairs import FEATURES, OUTPUTS, check, message, pair_heads
from utils.distillation.strategies import STRATEGIES, TERMS, terms_of
from utils.errors import InputError


def test_heads_pair_by_stride_in_either_order():
    pairs = pair_heads(cfg(heads=(8, 16, 32)), cfg(heads=(32, 16, 8), width=10))
    assert [(p.student, p.teacher, int(p.stride)) for p in pairs] == [(0, 2, 8), (1, 1, 16), (2, 0, 32)]
    assert {p.widths for p in pairs} == {(12, 20)} and {p.order for p in pairs} == {(0, 1)}


def test_features_are_what_the_last_convolution_before_a_head_reads():
    spec = cfg()
    width = channels(spec)
    for pair in pair_heads(spec, spec):
        layer = spec.layers[pair.layers[0]]
        assert layer.filters == 16 and width[layer.sources[0]] == pair.widths[0] == 12


def test_shipped_cfgs_of_one_family_teach_each_other():
    names = {"yolov3": 3, "yolov4": 3, "yolov3-tiny": 2, "yolov4-tiny": 2}
    for one, heads in names.items():
        specs = [read_cfg(ROOT / f"cfg/{name}.cfg") for name in (one, "yolov3-spp")]
        pairs = pair_heads(*specs)
        assert len(pairs) == heads
        assert all(bool(pair.order) == (one == "yolov3") for pair in pairs), "only yolov3 has the anchors of -spp"


def test_layer_that_is_gone_changes_nothing():
    full = read_cfg(ROOT / "cfg/yolov3.cfg")
    pairs = pair_heads(full, full)
    assert [int(pair.stride) for pair in pairs] == [32, 16, 8]


def test_anchors_in_another_order_are_put_in_order():
    pairs = pair_heads(cfg(anchors="14,9, 8,10, 12,12, 30,20, 50,50, 25,40"), cfg())
    assert [pair.order for pair in pairs] == [(1, 0), (0, 1), (1, 0)]


def test_box_formulas_may_differ():
    assert all(pair.order for pair in pair_heads(cfg(reach=2.0), cfg(reach=1.0)))


@pytest.mark.parametrize(
    ("teacher", "reason"),
    [({"classes": 80}, "3 and 80 classes"), ({"anchors": "9,9, 14,9, 12,12, 30,20, 25,40, 50,51"}, "other anchors")],
)
def test_what_cannot_be_compared_is_told_in_one_line(teacher, reason):
    pairs = pair_heads(cfg(heads=(32, 8)), cfg(heads=(16, 32), **teacher))
    line = message(pairs, [OUTPUTS, FEATURES], heads=2)
    assert line == (
        f"not the outputs at stride 32: {reason}; features before the heads at stride 32; "
        "1 of the student's heads have none of the teacher's at their stride"
    )
    with pytest.raises(InputError, match=rf"nothing can be distilled.*stride 32: {reason}\); features still can"):
        check(pairs, [OUTPUTS])
    check(pairs, [OUTPUTS, FEATURES])


def test_line_tells_what_is_distilled():
    pairs = pair_heads(cfg(), cfg(width=9))
    assert message(pairs, [OUTPUTS, FEATURES], heads=3) == (
        "outputs at stride 32 and 16 and 8; features before the heads at stride 32 and 16 and 8"
    )


def test_teacher_without_a_head_at_any_of_the_strides_is_refused():
    with pytest.raises(InputError, match="the student's heads have strides 16 and 32, the teacher's 8; choose"):
        pair_heads(cfg(heads=(16, 32)), cfg(heads=(8,)))


def test_teacher_of_other_images_is_refused():
    with pytest.raises(InputError, match="reads images of 3 channels, the student of 1"):
        pair_heads(cfg(channels=1), cfg())


def test_yolo_and_region_do_not_compare():
    region = "[net]\nwidth=64\nheight=64\nchannels=3\n" + "[maxpool]\nsize=2\nstride=2\n" * 5
    region += "[convolutional]\nfilters=16\nsize=1\n[region]\nanchors=1,1, 2,2\nclasses=3\nnum=2\n"
    (pair,) = pair_heads(cfg(heads=(32,)), parse_cfg(region, "region.cfg"))
    assert not pair.order and pair.reason == "a [yolo] and a [region]"


def test_strategies_have_numbers_names_and_sums():
    assert [terms_of(str(n)) for n in range(1, 6)] == [
        ("class", "seen_box"),
        ("worse_box", "class"),
        ("box", "class"),
        ("box", "class", "attention"),
        ("box", "class", "object_attention"),
    ]
    assert terms_of("fine") == terms_of("5") and terms_of("3+cwd+attention") == ("box", "class", "cwd", "attention")
    assert terms_of("") == terms_of("0") == terms_of("-1") == ()
    assert {name for names in STRATEGIES.values() for name in names} == set(TERMS)


@pytest.mark.parametrize("text", ["6", "box", "3+", "3,4", "CWD"])
def test_unknown_strategy_names_the_known(text):
    with pytest.raises(InputError, match=r"no strategy.*1 soft, 2 worse"):
        terms_of(text)
