"""Networks trained as spikes in NIR: NIR's own text, norse and snnTorch compute what we do; the rest is refused."""

from __future__ import annotations

import pytest
import torch

from models import network_of
from tests.temporal.nets import HIDDEN, images, small, warmed
from utils.darknet.cfg import parse_cfg
from utils.errors import InputError
from utils.spiking.nir_lif import DT, write_nir_lif
from utils.spiking.nir_simulator import LIF_SEMANTICS, NirSimulator

nir = pytest.importorskip("nir")
SUBTRACT, ZERO = LIF_SEMANTICS
ROUTED = HIDDEN.replace(
    "[convolutional]\nfilters=8\nsize=1", "[route]\nlayers=-1,-2\n[convolutional]\nfilters=8\nsize=1"
)


def written(model, folder) -> str:
    return str(write_nir_lif(folder / "net.nir", network_of(model), model.spec.height, model.spec.width))


def simulated(path, semantics, x, steps):
    return NirSimulator(nir.read(path), LIF_SEMANTICS[semantics], steps)(x)[0]


@pytest.mark.parametrize("text", [HIDDEN, ROUTED], ids=["chain", "route"])
@pytest.mark.parametrize(("reset", "semantics"), [("hard", ZERO), ("soft", SUBTRACT)])
def test_the_file_is_the_network(tmp_path, text, reset, semantics):
    model = warmed(
        parse_cfg(
            text.format(f"lif\nmembrane_decay=0.875\nv_th=0.75\nreset={reset}").replace(
                "timesteps=3", f"timesteps=3\nreset={reset}"
            )
        )
    )
    x, path = images(model.spec), written(model, tmp_path)
    with torch.no_grad():
        wanted = model(x)[0]
    torch.testing.assert_close(simulated(path, semantics, x, 3), wanted, atol=1e-4, rtol=1e-4)
    other = {ZERO: SUBTRACT, SUBTRACT: ZERO}[semantics]
    assert not torch.allclose(simulated(path, other, x, 3), wanted, atol=1e-3), "the reset matters"


def test_frames_are_shown_one_a_step(tmp_path):
    model = warmed(parse_cfg(HIDDEN.format("lif").replace("timesteps=3", "timesteps=3\ninput=frames")))
    x, path = images(model.spec, 2, frames=3), written(model, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(simulated(path, ZERO, x, 3), model(x)[0], atol=1e-4, rtol=1e-4)


def test_norse_computes_it(tmp_path):
    norse = pytest.importorskip("norse.torch.utils.import_nir")
    model = warmed(small())
    x, total, state = images(model.spec), 0, None
    module = norse.from_nir(nir.read(written(model, tmp_path)), dt=DT)
    with torch.no_grad():
        for _ in range(3):
            out, state = module(x, state)
            total = total + out
        torch.testing.assert_close(total, model(x)[0], atol=1e-4, rtol=1e-4)


def test_snntorch_computes_it(tmp_path):
    snntorch, reader = pytest.importorskip("snntorch"), pytest.importorskip("snntorch.import_nir")
    model = warmed(small())
    x, total, state = images(model.spec), 0, None
    module = reader.import_from_nir(nir.read(written(model, tmp_path)))
    for neuron in module.modules():
        if isinstance(neuron, snntorch.Leaky):
            neuron.init_hidden = True
    with torch.no_grad():
        for _ in range(3):
            out, state = module(x, state)
            total = total + out
        torch.testing.assert_close(total, model(x)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HIDDEN.format("ilif"), r"layer 2 \(cfg line 14\): activation=ilif has no node in NIR; train with --spiking lif"),
        (HIDDEN.format("plif"), "activation=plif has no node"),
        (HIDDEN.format("ltc"), "activation=ltc has no node"),
        (HIDDEN.format("linear"), "layer 2 .*activation=linear sends no spikes"),
        (HIDDEN.format("lif\nmembrane_decay=1"), "membrane_decay=1 is no leak"),
        (HIDDEN.format("lif\nmembrane_bits=4"), "membrane_bits= rounds the membrane"),
        (HIDDEN.format("lif").replace("timesteps=3", "timesteps=3\nreadout=last"), "readout=last: NIR's outputs here add"),
        (HIDDEN.format("lif\nsigned=1"), "signed=1 sends -1 as well, NIR's LIF does not"),
        (HIDDEN.format("lif\nreset=soft"), "layer 2 .*another reset= than before"),
        (HIDDEN.format("lif\nweight_quant=binary"), "weight_quant=binary rounds what NIR has as floats"),
        (HIDDEN.format("lif\nmembrane_start=.5"), "membrane_start=: NIR's membranes start at 0; train with --at-rest"),
        (HIDDEN.format("lif").replace("[maxpool]\nsize=2", "[upsample]"), r"layer 1 .*\[upsample\] has no node"),
        (HIDDEN.format("lif").replace("[convolutional]\nfilters=8\nsize=1", "[activation]\nactivation=lif\n"
         "[convolutional]\nfilters=8\nsize=1"), r"\[activation\] has no node"),
    ],
)  # fmt: skip
def test_what_has_no_node_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        written(warmed(parse_cfg(text)), tmp_path)
