"""What is asked before a training run begins: its memory, its batch norm, and whether its classes are the data's."""

from __future__ import annotations

import logging

import pytest
import torch

import train
from models import Darknet, network_of
from pipeline.images import check_room
from pipeline.init_weights import fitted, read_initial
from tests.scenes import CFG, write_scenes
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.data.manifest import read_manifest
from utils.data.text import same_names
from utils.errors import InputError
from utils.tasks import task_of

MEAN = "[avgpool]\n[convolutional]\nbatch_normalize=1\nfilters=4\nsize=1\nactivation=relu\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_scenes(tmp_path, train=5, valid=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*words: str):
    return train.parser().parse_args(["--data", "set.data", "--device", "cpu", *words])


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batch_norm_of_one_value_is_refused_before_the_first_step(place, batch):
    spec = parse_cfg(CFG.replace("[route]\nlayers=4\n", f"{MEAN}[route]\nlayers=4\n", 1))
    with pytest.raises(
        InputError, match=r"layer 9 \(cfg line 47\): batch norm would see one value.*5 images in batches"
    ):
        check_room(config("--batch-size", str(batch)), spec, task_of(spec), read_manifest("set.data"))
    check_room(config("--batch-size", "5"), spec, task_of(spec), read_manifest("set.data"))
    check_room(config("--batch-size", str(batch)), parse_cfg(CFG), task_of(spec), read_manifest("set.data"))


def start(place, names: tuple[str, ...], *words: str):
    network = network_of(Darknet(read_cfg("net.cfg")))
    save_checkpoint("other.pt", Checkpoint(network, names))
    told = config("--weights", "other.pt", *words)
    read = read_initial(told)
    return network, fitted(read, told, task_of(read.network.spec, "other.pt"), read_manifest("set.data"))


@pytest.mark.parametrize("names", [("cat", "dog"), ("green", "blue")])
def test_weights_for_other_classes_are_refused_and_get_fresh_heads_where_that_is_asked_for(place, caplog, names):
    with pytest.raises(InputError, match=rf"other\.pt: knows {names[0]}, {names[1]}, .*set\.data has blue, green"):
        start(place, names)
    with caplog.at_level(logging.INFO):
        network, made = start(place, names, "-pt")
    assert "replaced by fresh ones for blue, green" in caplog.text and made.new_outputs
    same = {key for key, value in network.state.items() if torch.equal(value, made.network.state[key])}
    assert "layers.0.conv.weight" in same and not {"layers.6.conv.weight", "layers.12.conv.weight"} & same


def test_weights_for_the_same_classes_go_on_however_they_are_written(place):
    network, made = start(place, ("Blue", "GREEN"))
    assert not made.new_outputs
    assert all(torch.equal(value, made.network.state[key]) for key, value in network.state.items())
    assert same_names(("traffic_light",), ("Traffic light",)) and not same_names(("a", "b"), ("b", "a"))
