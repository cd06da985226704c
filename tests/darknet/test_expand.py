from __future__ import annotations

import pytest
import torch

from models import build
from tests.conftest import ROOT
from tests.pruning.nets import random_network
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn

WRITTEN_OUT = ("[se]", "[transposed_convolutional]")
WITH_SE = [
    path
    for path in sorted((ROOT / "tests" / "cfgs").glob("*.cfg"))
    if any(kind in path.read_text() for kind in WRITTEN_OUT)
]


@pytest.mark.parametrize("path", WITH_SE, ids=lambda path: path.stem)
@pytest.mark.parametrize("fold", [False, True], ids=["with batch norm", "folded"])
def test_the_expanded_network_is_the_same_function_at_every_layer(path, fold):
    network = random_network(path)
    network = fold_bn(network) if fold else network
    wide, number = expand(network)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = build(network).activations(x), build(wide).activations(x)
    for old, new in number.items():
        torch.testing.assert_close(after[new], before[old], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", WITH_SE, ids=lambda path: path.stem)
def test_the_expanded_cfg_reads_again_as_itself(path):
    spec = expand(random_network(path))[0].spec
    assert parse_cfg(write_cfg(spec)) == spec
    assert not any(isinstance(layer, s.SqueezeExcite | s.TransposedConv) for layer in spec.layers)


def test_every_new_section_keeps_the_line_of_the_se_it_stands_for():
    network = random_network("ghost")
    wide, number = expand(network)
    i = next(i for i, layer in enumerate(network.spec.layers) if isinstance(layer, s.SqueezeExcite))
    parts = wide.spec.layers[number[i] - 3 : number[i] + 1]
    assert [type(layer) for layer in parts] == [s.AvgPool, s.Conv, s.Conv, s.ScaleChannels]
    assert {layer.line for layer in parts} == {network.spec.layers[i].line}
    assert all(wide.spec.layers[number[j]].line == layer.line for j, layer in enumerate(network.spec.layers))


def test_a_network_without_se_keeps_its_numbers_and_tensors_and_what_was_given_is_not_edited():
    plain = random_network("residual")
    same, number = expand(plain)
    assert same.spec == plain.spec and same.state.keys() == plain.state.keys()
    assert all(old == new for old, new in number.items())
    network = random_network("ghost")
    keys, spec = set(network.state), read_cfg(ROOT / "tests/cfgs/ghost.cfg")
    expand(network)
    assert set(network.state) == keys and network.spec == spec
