"""Video: one step a frame, the state handed on within a film and never from one to the next."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
from models import network_of
from tests.scenes import write_scenes
from tests.temporal.nets import images, small, warmed
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.errors import InputError
from utils.temporal.early_exit import StepByStep
from utils.temporal.spike_record import SpikeRecord
from utils.temporal.stateful_video import CarriedSteps


def test_the_same_frame_again_and_again_is_the_still_image():
    model = warmed(small())
    x = images(model.spec, 1)
    video = CarriedSteps(model)
    heads = [video(x)[0] for _ in range(model.timesteps)]
    torch.testing.assert_close(torch.stack(heads).mean(0), model(x)[0].detach())
    assert not torch.equal(heads[0], heads[1]), "the state is handed on"
    video.reset()
    assert torch.equal(video(x)[0], heads[0])


def test_the_state_is_forgotten_every_so_many_frames_and_for_another_size():
    model = warmed(small())
    x = images(model.spec, 1)
    forgets, fresh = CarriedSteps(model, every=2), CarriedSteps(model)
    first, second = (fresh(x)[0] for _ in range(2))
    found = [forgets(x)[0] for _ in range(5)]
    assert [torch.equal(each, wanted) for each, wanted in zip(found, [first, second] * 3, strict=False)] == [True] * 5
    wide = images(model.spec, 1, 32)
    assert torch.equal(fresh(wide)[0], CarriedSteps(model)(wide)[0])


def test_all_steps_of_a_window_of_events_are_recorded():
    """A window is several steps at once; the same frames one by one are the oracle."""
    model = warmed(small())
    window = images(model.spec, 1, frames=4) * torch.tensor([1.0, 0.1, 0.7, 0.4]).view(1, 4, 1, 1, 1)
    whole, each = (SpikeRecord(model.spec, 9) for _ in range(2))
    CarriedSteps(model, record=whole)(window)
    StepByStep(model, None, each)(window)
    assert whole.firing == pytest.approx(each.firing)
    assert list(whole.rows) == list(each.rows)
    assert all(torch.equal(a, b) and len(a) == 4 for a, b in zip(whole.rows.values(), each.rows.values(), strict=True))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A spiking network, an ordinary one, and two films of four frames each."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, train=2, valid=2)
    spiking, plain = small(), read_cfg(tmp_path / "net.cfg")
    for name, spec in (("spikes", spiking), ("plain", plain)):
        save_checkpoint(
            f"{name}.pt", Checkpoint(network_of(warmed(spec)), tuple(map(str, range(3 if name == "spikes" else 2))))
        )
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for name in ("one", "two"):
        film = cv2.VideoWriter(f"{name}.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (32, 32))
        for frame in frames:
            film.write(frame)
        film.release()
    return tmp_path


def run(*words: str):
    return detect.run(detect.parser().parse_args([*words, "--device", "cpu", "--conf-thres", "0.01", "--save-json"]))


@pytest.mark.usefixtures("place")
def test_a_second_film_begins_at_rest(monkeypatch):
    seen = []
    forward = CarriedSteps.forward
    monkeypatch.setattr(CarriedSteps, "forward", lambda self, x: seen.append(forward(self, x)) or seen[-1])
    run("--weights", "spikes.pt", "--carry", "--source", "one.avi", "two.avi")
    assert len(seen) == 8
    assert all(
        torch.equal(a, b)
        for first, second in zip(seen[:4], seen[4:], strict=True)
        for a, b in zip(first, second, strict=True)
    )
    alone = len(seen)
    run("--weights", "spikes.pt", "--carry", "--reset", "1", "--source", "one.avi")
    assert torch.equal(seen[alone][0], seen[0][0]) and not torch.equal(seen[alone + 1][0], seen[1][0])


@pytest.mark.usefixtures("place")
def test_a_network_without_state_is_refused():
    with pytest.raises(InputError, match=r"--carry: plain\.pt keeps no state; make a network with convert_snn\.py"):
        run("--weights", "plain.pt", "--carry", "--source", "one.avi")
