from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import ROOT
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.errors import InputError
from utils.quantization.support import check_supported, readouts


def folded(path: str) -> s.ModelSpec:
    """The cfg as it is once batch norm is folded."""
    spec = read_cfg(ROOT / path)
    layers = (replace(layer, bn=False) if isinstance(layer, s.Conv) else layer for layer in spec.layers)
    return replace(spec, layers=tuple(layers))


def test_a_reorg_is_refused_with_layer_line_and_remedy():
    with pytest.raises(InputError, match=r"layer 8 \(cfg line \d+\): Reorg has no integer form yet; use a cfg without"):
        check_supported(folded("tests/cfgs/passthrough.cfg"))


def test_a_weighted_shortcut_is_refused_with_layer_line_and_remedy():
    with pytest.raises(
        InputError, match=r"layer 2 \(cfg line \d+\): a weighted shortcut .*; use weights_type=none and"
    ):
        check_supported(folded("tests/cfgs/weighted.cfg"))


def test_a_region_head_is_read_out_like_any_other():
    spec = folded("cfg/yolov2-tiny.cfg")
    check_supported(spec)
    assert readouts(spec) == (len(spec.layers) - 2,)
