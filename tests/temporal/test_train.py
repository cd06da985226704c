"""Spiking networks from train.py's command line: begun, resumed, pruned, taught, and started from integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import convert_snn
import pipeline.train
import quantize
import slim_prune
import test as measuring
import train
from models import Darknet, load_model, network_of
from pipeline.init_weights import as_spiking
from tests.scenes import undrawn_runs, write_scenes
from tests.training.test_train_script import cfg, same, state
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, load_checkpoint, save_checkpoint
from utils.errors import InputError
from utils.temporal.execution import initial_gamma
from utils.temporal.neurons import unrounded

HERE = ["--data", "set.data", "--device", "cpu", "--workers", "0"]
FPTT = ["--spiking", "ltc", "--trainer", "fptt", "--fptt-k", "2", "--lr", "0.02"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a data set of eight training and four validation images, two classes, and a cfg for it."""
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=8, valid=4, shape=(40, 80), cfg=cfg())
    return tmp_path


def run(*words: str):
    return train.run(train.parser().parse_args([*HERE, *words]))


@pytest.mark.parametrize(
    "words",
    [
        ["--spiking", "lif", "--timesteps", "2"],
        ["--spiking", "ilif", "--levels", "3"],
        ["--spiking", "plif", "--signed", "-sr", "--s", "0.1", "--adam"],
        ["--spiking", "lif", "--timesteps", "2", "--hw-friendly"],
        FPTT,
        [*FPTT, "-sr", "--s", "0.1"],
    ],
    ids=lambda words: "-".join(words[1:4:2]),
)
@pytest.mark.usefixtures("place")
def test_a_run_that_was_cut_ends_in_the_weights_of_the_unbroken_one(monkeypatch, words):
    words = ["--cfg", "net.cfg", "--epochs", "3", "--val-interval", "1", *words]
    run(*words, "--name", "whole")
    one_epoch, done = pipeline.train.one_epoch, []

    def interrupted(job, epoch):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(one_epoch(job, epoch))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.train, "one_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(*words, "--name", "cut")
    begun = state("weights/last_cut.pt")
    train.run(train.parser().parse_args(["--device", "cpu", "--workers", "0", "--resume", "weights/last_cut.pt"]))
    assert not same(state("weights/last_cut.pt"), begun)
    assert same(state("weights/last_cut.pt"), state("weights/last_whole.pt"))


@pytest.mark.usefixtures("place")
def test_what_was_trained_is_measured_pruned_taught_and_trained_on():
    run("--cfg", "net.cfg", "--epochs", "1", "--name", "float")
    run("--weights", "weights/last_float.pt", "--spiking", "lif", "--epochs", "1", "--name", "spikes",
        "--t_weights", "weights/last_float.pt", "--KDstr", "3+cwd")  # fmt: skip
    loaded = load_model("weights/last_spikes.pt")
    assert [neuron.kind for neuron in loaded.spec.neurons.values()] == ["lif", "lif"]
    assert loaded.predictor.timesteps == 4
    record = measuring.run(measuring.parser().parse_args([*HERE, "--weights", "weights/last_spikes.pt"]))
    assert 0 <= record.metrics["map50"] <= 1
    slim_prune.run(slim_prune.parser().parse_args([*HERE, "--weights", "weights/last_spikes.pt", "--percent", "0.3"]))
    pruned = load_checkpoint("weights/slim_prune_0.3.pt").network.spec
    assert min(layer.filters for layer in pruned.kernels.values()) < 8
    run("--weights", "weights/slim_prune_0.3.pt", "--epochs", "1", "--name", "tuned")
    assert load_checkpoint("weights/last_tuned.pt").network.spec == pruned


@pytest.mark.usefixtures("place")
def test_a_network_for_hardware_is_its_integers_to_the_bit_and_starts_from_floats(caplog):
    caplog.set_level("INFO")
    run("--cfg", "net.cfg", "--epochs", "1", "--name", "float")
    run("--weights", "weights/last_float.pt", "--spiking", "lif", "--hw-friendly", "--epochs", "2", "--name", "chip")
    assert "at a rate of 0.1" in caplog.text, "the usual 0.2 is too much"
    assert "learnt nothing" not in caplog.text
    spec = load_model("weights/last_chip.pt").spec
    assert {layer.weight_quant for layer in spec.kernels.values()} == {"int8"}
    found = measuring.run(measuring.parser().parse_args([*HERE, "--weights", "weights/last_chip.pt"])).metrics
    assert found["integers_equal"] is True
    assert 2 <= found["membrane_bits"] <= 25


@pytest.mark.usefixtures("place")
def test_a_rate_that_is_too_much_for_eight_bits_is_told(caplog):
    run("--cfg", "net.cfg", "--spiking", "lif", "--timesteps", "1", "--hw-friendly", "--epochs", "1", "--lr", "0.2")
    assert "--lr 0.2: 8-bit weights (--hw-friendly) learnt nothing" in caplog.text


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("script", "quantised"), [(quantize, "last_float.int.pt"), (convert_snn, "last_float.snn.pt")])
def test_a_quantised_or_converted_network_is_where_an_ilif_starts(script, quantised):
    run("--cfg", "net.cfg", "--epochs", "1", "--name", "float")
    script.run(script.parser().parse_args([*HERE, "--weights", "weights/last_float.pt", "--a-bit", "4"]))
    quantised = f"weights/{quantised}"
    grids = load_model(quantised).integer.grids
    begin = ["--weights", quantised, "--spiking", "ilif", "--epochs", "1", "--lr", "0.000001"]
    for levels in ("15", "4"):
        run(*begin, "--levels", levels, "--name", levels)
    same, fitted = (load_checkpoint(f"weights/last_{levels}.pt").network.spec.neurons for levels in ("15", "4"))
    for i, neuron in same.items():
        assert neuron.v_th == pytest.approx(grids[i].scale), "as many levels: its own"
        assert grids[i].scale < fitted[i].v_th < grids[i].scale * 15, "fewer: of least squared error"
    with pytest.raises(InputError, match="thresholds of a quantised network are those of an ilif"):
        run("--weights", quantised, "--spiking", "lif")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer", "fptt"], "--trainer fptt: the network has no steps in time; add --spiking"),
        (["--round-from", "0.2"], "--round-from: no neuron of this network has levels, or rates of"),
        (["--spiking", "plif", "--round-from", "0"], "--round-from: no neuron of this network has levels, or rates"),
        (["--hw-friendly"], "--hw-friendly: the network has no neurons; add --spiking lif"),
        (["--spiking", "ltc", "--hw-friendly"], "activation=ltc has no form in shifts; use --spiking lif"),
        (["--spiking", "lif", "--timesteps", "3", "--hw-friendly"], r"timesteps=3: outputs are means over the steps"),
        (["--spiking", "lif", "--trainer", "fptt", "--ema"], "--ema and --trainer fptt: fptt measures an average"),
        (["--spiking", "lif", "--trainer", "fptt", "--fptt-k", "5"], "--fptt-k: 5 segments of 4 steps; give 1 to 4"),
    ],
)
@pytest.mark.usefixtures("place")
def test_what_can_not_be_trained_so_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        run("--cfg", "net.cfg", *words)
    assert not list(Path("weights").glob("*.pt"))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--cfg", "net.cfg"], [False, True]),
        (["--cfg", "net.cfg", "--round-from", "0"], [True, True]),
        (["--weights", "float.pt"], [True, True]),
    ],
)
@pytest.mark.parametrize("kind", ["ilif", "lif"])
def test_what_is_fresh_sends_floats_at_first_and_what_knows_something_never(place, monkeypatch, kind, words, wanted):
    spec = read_cfg(place / "net.cfg")
    save_checkpoint(place / "float.pt", Checkpoint(network_of(Darknet(spec)), names=("blue", "green")))
    seen, learn = [], pipeline.train._learn

    def watched(job, epoch):
        result = learn(job, epoch)
        seen.append(job.model.layers["0"].neuron.rounds)
        return result

    monkeypatch.setattr(pipeline.train, "_learn", watched)
    run(*words, "--spiking", kind, "--epochs", "2", "--notest")
    assert seen == wanted


@pytest.mark.parametrize(("kind", "wanted"), [("ilif", 4), ("lif", 2)])
def test_an_ilif_learns_longer_without_rounding_than_a_lif(place, kind, wanted):
    spec = as_spiking(read_cfg(place / "net.cfg"), train.parser().parse_args(["--spiking", kind]), None, fresh=True)
    assert [unrounded(spec, epochs) for epochs in (1, 5)] == [0, wanted]
    assert unrounded(spec, 5, 0.25) == 1 and unrounded(read_cfg(place / "net.cfg"), 5) == 0


@pytest.mark.usefixtures("place")
def test_a_fresh_lif_begins_with_currents_as_large_as_in_floats():
    """At the usual threshold of 1/2 gammas would be a fifth, and learn twenty times as fast as in a float network."""
    run("--cfg", "net.cfg", "--spiking", "lif", "--epochs", "1")
    spec = load_model("weights/last.pt").spec
    assert {(n.v_th, n.surrogate_width, n.reset) for n in spec.neurons.values()} == {(2.0, 4.0, "soft")}
    assert all(0.7 < initial_gamma(spec, i) < 1.4 for i in spec.neurons)


@pytest.mark.usefixtures("place")
def test_binary_weights_sharpen_from_epoch_to_epoch(monkeypatch):
    Path("net.cfg").write_text(
        Path("net.cfg").read_text().replace("activation=relu", "weight_quant=binary\nactivation=relu")
    )
    seen, learn = [], pipeline.train._learn

    def watched(job, epoch):
        result = learn(job, epoch)
        seen.append(job.model.layers["0"].sharpness)
        return result

    monkeypatch.setattr(pipeline.train, "_learn", watched)
    run("--cfg", "net.cfg", "--spiking", "lif", "--epochs", "2")
    assert seen == pytest.approx([0.1, 1.0])
    kernel = load_model("weights/last.pt").predictor.layers["0"]
    assert torch.isfinite(kernel.conv.weight).all()


def test_a_network_with_neurons_is_sent_back_to_its_float_twin_which_quantises(place):
    run("--cfg", "net.cfg", "--epochs", "1", "--name", "twin")
    run("--cfg", "net.cfg", "--spiking", "lif", "--epochs", "1")
    words = [*HERE, "--calibration", "4"]
    with pytest.raises(InputError, match=r"=lif has no integer form; it keeps state; .* trained without --spiking"):
        quantize.run(quantize.parser().parse_args([*words, "--weights", "weights/last.pt"]))
    assert quantize.run(quantize.parser().parse_args([*words, "--weights", "weights/last_twin.pt"])).finished
