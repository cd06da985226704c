"""A file that was damaged, or a network that diverged, is refused when it is opened, and by name."""

from __future__ import annotations

import random

import pytest
import torch

from models import Darknet, build, load_model, network_of
from utils.darknet.cfg import parse_cfg
from utils.darknet.integrity import digest
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.darknet.weights import read_weights, write_weights
from utils.detection.decode import decode
from utils.errors import InputError

CFG = """[net]
width=32
height=32
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
activation=relu
[convolutional]
filters=7
size=1
activation=linear
[yolo]
mask=0
anchors=8,8
classes=2
num=1
"""


def network(**changed: torch.Tensor) -> Network:
    from models import Darknet, network_of

    torch.manual_seed(0)
    made = network_of(Darknet(parse_cfg(CFG)))
    return Network(made.spec, made.state | changed)


WRONG = [
    ("layers.1.conv.bias", 4, float("nan"), "a value of nan"),
    ("layers.0.conv.weight", 2, float("inf"), "a value of inf"),
    ("layers.0.bn.weight", 1, 3e38, "a value of 3e\\+38"),
    ("layers.0.bn.running_var", 3, -0.5, "a variance of -0.5"),
]


@pytest.mark.parametrize(("name", "channel", "value", "fact"), WRONG)
@pytest.mark.parametrize("suffix", ["pt", "weights"])
def test_a_network_nothing_can_be_computed_with_is_refused_by_tensor_and_channel(
    tmp_path, name, channel, value, fact, suffix
):
    tensor = network().state[name].clone()
    tensor[channel] = value
    wrong, path = network(**{name: tensor}), tmp_path / f"net.{suffix}"
    message = rf"net\.{suffix}: {name.replace('.', '[.]')}, channel {channel} has {fact}; .* use an earlier checkpoint"
    if suffix == "pt":
        save_checkpoint(path, Checkpoint(wrong))
        with pytest.raises(InputError, match=message):
            load_model(path)
    else:
        write_weights(path, wrong)
        with pytest.raises(InputError, match=message):
            read_weights(path, wrong.spec)


def test_maps_that_are_not_finite_are_no_detections():
    made = network()
    raw = build(made)(torch.rand(1, 3, 32, 32))
    raw[0][0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="head 0: its map is not finite"):
        decode(raw, [made.spec.layers[i] for i in made.spec.heads], (32, 32))


def test_no_flipped_bit_of_a_checkpoint_is_accepted_with_another_content(tmp_path):
    path = save_checkpoint(tmp_path / "net.pt", Checkpoint(network(), ("a", "b"), meta={"size": [32, 32]}))
    good, whole = path.read_bytes(), load_checkpoint(path)
    chosen = random.Random(0)
    refused = 0
    for _ in range(300):
        at = chosen.randrange(len(good) * 8)
        bad = bytearray(good)
        bad[at // 8] ^= 1 << at % 8
        path.write_bytes(bytes(bad))
        try:
            found = load_checkpoint(path)
        except InputError:
            refused += 1
            continue
        assert found.network.spec == whole.network.spec and found.meta == whole.meta and found.names == whole.names
        assert digest(found.network.state) == digest(whole.network.state)
    assert refused > 100


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"PK\x03\x04", b"\x80\x02}q\x00.", bytes(range(256))],
    ids=["none", "text", "zip", "pickle", "bytes"],
)
def test_a_foreign_file_is_one_line(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pt: (cannot be read as|is not) a "):
        load_checkpoint(tmp_path / "x.pt")


def test_files_of_before_are_read_and_newer_ones_refused(tmp_path):
    path = save_checkpoint(tmp_path / "net.pt", Checkpoint(network()))
    content = torch.load(path, weights_only=True)
    torch.save({**{k: v for k, v in content.items() if k != "digest"}, "format": "darkspike-1"}, path)
    assert digest(load_checkpoint(path).network.state) == digest(network().state)
    torch.save({**content, "format": "darkspike-9"}, path)
    with pytest.raises(InputError, match="is of a newer format, darkspike-9; update Darkspike"):
        load_checkpoint(path)
    torch.save({k: v for k, v in content.items() if k != "state"}, path)
    with pytest.raises(InputError, match="has no 'state'; the file is damaged"):
        load_checkpoint(path)


def test_no_flipped_bit_of_a_checkpoint_is_accepted(tmp_path):
    """Also where nobody reads: the padding and the names in its zip."""
    spec = parse_cfg("[net]\nwidth=8\nheight=8\n[convolutional]\nfilters=1\nsize=1\nactivation=linear\n")
    path = save_checkpoint(tmp_path / "net.pt", Checkpoint(network_of(Darknet(spec))))
    whole = path.read_bytes()
    load_checkpoint(path)
    for at in range(0, len(whole), 7):
        bad = bytearray(whole)
        bad[at] ^= 1 << at % 8
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"net\.pt: "):
            load_checkpoint(path)
    for end in range(1, len(whole), 97):
        path.write_bytes(whole[:-end])
        with pytest.raises(InputError, match=r"net\.pt: "):
            load_checkpoint(path)
