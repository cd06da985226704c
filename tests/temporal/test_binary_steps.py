"""D levels in training are D binary steps at inference: over whole networks, with the same outputs."""

from __future__ import annotations

import pytest
import torch

from models import Darknet
from tests.conftest import ROOT
from tests.temporal.nets import images, small, spiking, warmed
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.errors import InputError
from utils.temporal import binary_steps
from utils.temporal.binary_steps import BinarySteps

CONV = "[convolutional]\nfilters=4\nactivation=ilif\n"
POOLED_SUM = (
    f"[net]\nwidth=8\nheight=8\ntimesteps=1\n{CONV}{CONV}[shortcut]\nfrom=-2\n[maxpool]\nsize=2\nstride=2\n{CONV}"
)


def same(model: Darknet, x: torch.Tensor) -> BinarySteps:
    binary = BinarySteps(model)
    with torch.no_grad():
        for found, expected in zip(binary(x), model(x), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    return binary


@pytest.mark.parametrize("name", ["plain", "residual", "csp", "spp"])
@pytest.mark.parametrize("steps", [1, 3])
def test_binary_steps_give_what_levels_give(name, steps):
    model = warmed(spiking(name, "ilif", steps))
    binary = same(model, images(model.spec))
    assert binary.values == {0.0, 1.0}
    out = model.activations(images(model.spec))
    levels = {float(v) for i in model.spec.neurons for v in out[i].detach().unique()}
    assert levels >= {0, 1, 2, 3}, "a network that sends 0 and 1 alone would prove nothing"


def test_convolutions_see_binary_maps_alone(monkeypatch):
    model = warmed(spiking("plain", "ilif", 2))
    seen = []

    def watched(layer, x, *tensors):
        seen.append(set(x.unique().tolist()))
        return original(layer, x, *tensors)

    original = binary_steps.convolve
    monkeypatch.setattr(binary_steps, "convolve", watched)
    same(model, images(model.spec))
    hidden = [i for i, layer in model.spec.kernels.items() if i in model.spec.neurons and layer.sources != (-1,)]
    assert len(seen) == 4 * len(hidden) > 0
    assert all(values <= {0.0, 1.0} for values in seen)


def test_membranes_that_run_along_a_trunk_are_charged_once():
    """Pre-activated blocks, whose sums are analog: as in SpikeYOLO."""
    text = (ROOT / "tests/cfgs/preact.cfg").read_text()
    text = text.replace("activation=leaky", "activation=ilif").replace("activation=relu", "activation=ilif")
    model = warmed(parse_cfg(text.replace("[net]", "[net]\ntimesteps=2")))
    same(model, images(model.spec))


def test_the_shipped_network_runs_in_binary_steps():
    torch.manual_seed(0)
    model = Darknet(read_cfg(ROOT / "cfg/spiking/spikeyolo-n.cfg")).eval()
    same(model, images(model.spec, 1, 64))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (small("lif"), r"layer 0 .*activation=lif sends no levels that binary steps could be of"),
        (spiking("transposed", "ilif", 1), "a transposed convolution"),
        (parse_cfg(POOLED_SUM), r"cfg line 13: a max pool of sums of spikes is no OR of binary steps; pool before"),
    ],
    ids=["lif", "transposed", "sum"],
)
def test_what_has_no_levels_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        BinarySteps(warmed(spec))
