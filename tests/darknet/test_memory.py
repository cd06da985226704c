"""What fits the memory is known before anything is allocated."""

from __future__ import annotations

import pytest
import torch

from models import Darknet
from tests.scenes import CFG
from utils.darknet import memory
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.memory import check_memory, kept_values, live_values
from utils.errors import InputError

CPU = torch.device("cpu")


def test_what_training_keeps_is_every_value_the_network_makes():
    spec = parse_cfg(CFG)
    made = Darknet(spec).activations(torch.rand(1, 3, 64, 64))
    normed = {i for i, layer in spec.convs.items() if layer.bn}
    assert kept_values(spec, (64, 64)) == sum(y.numel() * (1 + (i in normed)) for i, y in made.items())


def test_what_is_live_at_once_is_less_and_at_least_the_largest_layer_with_its_input():
    spec = parse_cfg(CFG)
    made = Darknet(spec).activations(torch.rand(1, 3, 64, 64))
    least = max(made[i].numel() + made[layer.sources[0]].numel() for i, layer in enumerate(spec.layers))
    assert least <= live_values(spec, (64, 64)) < kept_values(spec, (64, 64))


@pytest.mark.parametrize(
    ("change", "size", "batch", "remedy"),
    [
        (("filters=8", "filters=1000000000"), 64, 1, "filters= or size= in the cfg"),
        (("filters=8", "filters=8"), 16384, 64, "--img-size or --batch-size"),
        (("filters=8", "filters=8"), 64, 10**8, "--img-size or --batch-size"),
        (("[route]\nlayers=4\n", "[route]\nlayers=4\n" + "[route]\nlayers=-1,-1\n" * 5000), 64, 1, "over 1,000,000,000 GB"),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_in_one_line_with_the_number_and_what_to_lower(change, size, batch, remedy):
    spec = parse_cfg(CFG.replace(*change, 1))
    with pytest.raises(InputError, match=r"^memory: .* GB of weights and .* GB of activations") as caught:
        check_memory(spec, (size, size), batch, CPU, training=True)
    assert remedy in str(caught.value) and "\n" not in str(caught.value)


def test_what_fits_is_taken_and_one_byte_less_is_not(monkeypatch):
    spec = parse_cfg(CFG)
    need = 4 * (sum(p.numel() for p in Darknet(spec).parameters()) + 2 * live_values(spec, (64, 64)))
    monkeypatch.setattr(memory, "free_memory", lambda: need)
    check_memory(spec, (64, 64), 2, CPU)
    monkeypatch.setattr(memory, "free_memory", lambda: need - 1)
    with pytest.raises(InputError, match="memory: "):
        check_memory(spec, (64, 64), 2, CPU)


def test_a_cfg_of_100_000_sections_is_refused_at_once(tmp_path):
    (tmp_path / "long.cfg").write_text(CFG + "[dropout]\n" * 100_000)
    with pytest.raises(InputError, match=r"long\.cfg: 100,015 sections; a cfg has at most 10,000"):
        read_cfg(tmp_path / "long.cfg")
