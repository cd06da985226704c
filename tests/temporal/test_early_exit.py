"""Steps until a decision: by hand, against all steps, batch by batch, from the command line, and refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import detect
import test as measuring
from models import network_of
from tests.scenes import undrawn_runs, write_scenes
from tests.temporal.nets import HIDDEN, images, small, spiking, warmed
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.darknet.neuron_cfg import with_neurons
from utils.errors import InputError
from utils.temporal.early_exit import StepByStep, margin
from utils.temporal.spike_record import SAMPLES, SpikeRecord

CLASSES = parse_cfg(
    "[net]\nwidth=8\nheight=8\ntimesteps=4\n[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\npad=1\n"
    "activation=lif\n[convolutional]\nfilters=3\nsize=8\nactivation=linear\n[softmax]\n"
)


def test_a_class_leads_by_the_difference_of_two_probabilities():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1]])
    found = margin(CLASSES, [p.log().view(2, 3, 1, 1)])
    torch.testing.assert_close(found, torch.tensor([0.5, 0.1]))


def test_boxes_are_as_sure_as_the_places_where_one_may_be():
    spec = small()
    p = torch.tensor([0.9, 0.5, 0.001])
    raw = torch.zeros(1, 8, 1, 3)
    raw[0, 4, 0] = torch.logit(p)
    expected = (0.9 * 0.8 + 0.5 * 0.0 + 0.001 * 0.998) / (0.9 + 0.5 + 0.001)
    assert float(margin(spec, [raw])) == pytest.approx(expected, rel=1e-5)
    raw[0, 4, 0] = -12.0
    assert float(margin(spec, [raw])) > 0.999, "an image without objects is sure that it has none"


@pytest.mark.parametrize("name", ["plain", "residual", "csp"])
def test_without_a_margin_it_is_the_network(name):
    model = warmed(spiking(name, "lif"))
    x, steps = images(model.spec), StepByStep(model, None)
    with torch.no_grad():
        for found, expected in zip(steps(x), model(x), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert steps.taken == [4, 4]


def test_an_image_ends_at_the_first_step_at_which_it_is_sure():
    """Against a run of each prefix of the steps, image by image; what others in the batch do changes nothing."""
    model = warmed(spiking("plain", "lif", 6))
    x = images(model.spec, 6) * torch.linspace(0.2, 1, 6).view(6, 1, 1, 1)
    with torch.no_grad():
        prefixes = [model.advance(x, {}, t)[0] for t in range(1, 7)]
        margins = torch.stack([margin(model.spec, raw) for raw in prefixes])
        least = float(margins[0].sort().values[2:4].mean())  # half of the images are sure at once
        steps = StepByStep(model, least)
        found = steps(x)
        expected = [next((t for t in range(6) if margins[t, n] >= least), 5) for n in range(6)]
        assert [t - 1 for t in steps.taken] == expected
        assert len(set(expected)) > 1, "images that all end at once would prove nothing"
        for n, t in enumerate(expected):
            for whole, part in zip(found, prefixes[t], strict=True):
                torch.testing.assert_close(whole[n], part[n], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [0, 3])
def test_a_still_image_goes_through_its_first_convolution_once_for_all_steps(frames):
    """And with it each image that is not at its end; frames go through it one by one."""
    model, seen = warmed(small()), []
    x = images(model.spec, 4, frames=frames)
    whole = StepByStep(model, None)(x)[0]
    model.layers["0"].conv.register_forward_hook(lambda _, given, out: seen.append(len(given[0])))
    model.layers["2"].conv.register_forward_hook(lambda _, given, out: seen.append(-len(given[0])))
    torch.testing.assert_close(StepByStep(model, None)(x)[0], whole)
    assert seen == ([4, -4] * 3 if frames else [4, -4, -4, -4])


def test_a_larger_margin_never_takes_fewer_steps():
    model = warmed(CLASSES)
    x, taken = images(model.spec, 8), []
    for least in (0.0, 0.1, 0.3, 0.6, 0.99):
        steps = StepByStep(model, least)
        steps(x)
        taken.append(torch.tensor(steps.taken))
    assert taken[0].tolist() == [1] * 8
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(taken))


def test_frames_are_shown_one_by_one():
    model = warmed(small())
    x = images(model.spec, 2, frames=5)
    with torch.no_grad():
        torch.testing.assert_close(StepByStep(model, None)(x)[0], model.advance(x, {}, 5)[0][0])


def test_what_is_recorded_is_what_the_neurons_sent():
    model = warmed(small("ilif\nlevels=3"))
    x, record = images(model.spec, 1), SpikeRecord(model.spec, 3)
    StepByStep(model, None, record)(x)
    out = model.activations(x)
    assert list(record.rows) == ["0 convolutional", "2 convolutional"]
    for i, (name, sample) in zip((0, 2), record.rows.items(), strict=True):
        values = out[i].flatten(1) / (3 if i == 2 else 1)
        at = torch.linspace(0, values.shape[1] - 1, min(SAMPLES, values.shape[1])).round().long()
        torch.testing.assert_close(sample, values[:, at])
        assert record.firing[name] == pytest.approx(float((out[i] != 0).float().mean()))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Images of two classes; a network of two steps for them, one of one step, and one without any."""
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=2, valid=4, shape=(64, 64))
    plain = read_cfg(tmp_path / "net.cfg")
    hidden = HIDDEN.format("ilif").replace("activation=lif", "activation=ilif").replace("classes=3", "classes=2")
    levels = parse_cfg(hidden.replace("filters=8\nsize=1", "filters=7\nsize=1").replace("timesteps=3", "timesteps=2"))
    for name, spec in (
        ("levels", levels),
        ("spikes", with_neurons(plain, "lif", 2)),
        ("once", with_neurons(plain, "lif", 1)),
        ("plain", plain),
        ("membranes", with_neurons(plain, "li", 2)),
    ):
        save_checkpoint(f"{name}.pt", Checkpoint(network_of(warmed(spec, size=64))))
    return tmp_path


@pytest.mark.usefixtures("place")
def test_levels_and_binary_steps_score_the_same():
    words = ["--data", "set.data", "--device", "cpu", "--workers", "0", "--img-size", "64", "--binary-steps"]
    found = measuring.run(measuring.parser().parse_args([*words, "--weights", "levels.pt"])).metrics
    assert found["levels"]["steps"] == 2 and found["binary steps"]["steps"] == 8
    assert found["apart"] < 1e-4
    assert found["binary steps"]["map50"] == pytest.approx(found["levels"]["map50"], abs=0.02)
    with pytest.raises(InputError, match=r"layer 0 .*activation=lif sends no levels"):
        measuring.run(measuring.parser().parse_args([*words, "--weights", "spikes.pt"]))


def test_accuracy_stands_beside_mean_steps(place, caplog):
    words = ["--weights", "spikes.pt", "--data", "set.data", "--device", "cpu", "--workers", "0", "--img-size", "64"]
    with caplog.at_level("INFO"):
        found = measuring.run(measuring.parser().parse_args([*words, "--early-exit", "0", "0.999"])).metrics
    assert list(found) == ["margin 0", "margin 0.999", "all steps"]
    assert found["margin 0"]["steps"] == 1 and found["all steps"]["steps"] == 2
    assert 1 <= found["margin 0.999"]["steps"] <= 2
    whole = measuring.run(measuring.parser().parse_args(words)).metrics
    assert found["all steps"]["map50"] == pytest.approx(whole["map50"], abs=1e-6)
    assert "mean steps" in caplog.text


@pytest.mark.usefixtures("place")
def test_a_network_that_sends_no_spikes_is_measured_in_words_that_are_so(caplog):
    words = ["--data", "set.data", "--device", "cpu", "--workers", "0", "--img-size", "64", "--weights", "membranes.pt"]
    with caplog.at_level("INFO"):
        found = measuring.run(measuring.parser().parse_args(words)).metrics
    assert found["spikes"] == found["sops"] == 0
    assert "no synapse reads spikes" in caplog.text and "nothing is accumulated" in caplog.text
    assert "at which int8 costs the same" not in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--weights plain.pt --early-exit 0.5", r"--early-exit: plain\.pt was not trained as spikes, a float network"),
        ("--weights once.pt --early-exit 0.5", r"--early-exit: once\.pt takes one step"),
        (
            "--weights membranes.pt --raster",
            r"--raster: membranes\.pt has no neuron that fires, but li; leave --raster away",
        ),
        ("--weights plain.pt --raster", r"--raster: plain\.pt was not trained as spikes, a float network has no steps"),
    ],
)
def test_what_takes_no_steps_is_refused(place, words, message):
    for script in (measuring, detect) if "raster" not in words else (detect,):
        more = ["--data", "set.data"] if script is measuring else ["--source", "images/valid"]
        with pytest.raises(InputError, match=message):
            script.run(script.parser().parse_args([*words.split(), *more, "--device", "cpu"]))
