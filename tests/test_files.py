"""Every writer: whole or not at all, readable by whom the umask says, one line when the disk is full."""

from __future__ import annotations

import os
import resource
import stat
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.darknet.weights import write_weights
from utils.data.images import save_picture
from utils.errors import InputError
from utils.files import write_text

NETWORK = Network(
    parse_cfg("[net]\nchannels=3\n[convolutional]\nfilters=64\nsize=3\n"),
    {"layers.0.conv.weight": torch.ones(64, 3, 3, 3), "layers.0.conv.bias": torch.ones(64)},
)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
WRITERS = {
    "a.pt": lambda path: save_checkpoint(path, Checkpoint(NETWORK)),
    "a.weights": lambda path: write_weights(path, NETWORK),
    "a.txt": lambda path: write_text(path, "word " * 2000),
    "a.png": lambda path: save_picture(path, NOISE),
}


@contextmanager
def files_of_at_most(limit):
    """The kernel refuses to write on beyond so many bytes a file, as it does when the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_saved_network_is_readable_by_others(tmp_path, name, umask):
    before = os.umask(umask)
    try:
        WRITERS[name](tmp_path / name)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_the_earlier_file_survives(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    assert len(before) > 4000
    with files_of_at_most(4000), pytest.raises(InputError, match="nothing there was changed") as caught:
        WRITERS[name](path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "File too large" in message and "\n" not in message
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [name]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(InputError, match=r"weights/a\.txt: (File exists|Not a directory); nothing there was changed"):
        write_text(tmp_path / "weights" / "a.txt", "text")
