"""benchmarks/darknet_library.py: a library's values are compared with ours, and one that is not there is one line."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from benchmarks import darknet_library
from benchmarks.random_network import random_network
from models import build
from tests.conftest import ROOT
from utils.darknet.cfg import read_cfg
from utils.errors import InputError

HANDS_ON = """
void *load_network(char *cfg, char *weights, int clear) { return cfg; }
void set_batch_network(void *net, int batch) {}
float *network_predict(void *net, float *image) { return image; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs cc")
def test_a_library_that_hands_its_image_on_computes_a_dropout_and_no_convolution(tmp_path, monkeypatch, capsys):
    (tmp_path / "net.c").write_text(HANDS_ON)
    library = tmp_path / "lib.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "net.c"], check=True)
    monkeypatch.setattr(sys, "argv", ["darknet_library.py", "--library", str(library)])
    monkeypatch.setattr(darknet_library, "SECTIONS", {"nothing": "[dropout]\n"})
    assert darknet_library.main() == 0 and "| nothing | 0.0e+00 |" in capsys.readouterr().out
    wide = {"convolution": darknet_library.CONV.format(3, 1, "linear")}
    monkeypatch.setattr(darknet_library, "SECTIONS", wide)
    assert darknet_library.main() == 1 and "| convolution | " in capsys.readouterr().out


def test_a_file_that_is_no_library_of_darknets_is_one_line(tmp_path):
    for path in (tmp_path / "none.so", ROOT / "README.md"):
        with pytest.raises(InputError, match=rf"^{path}: no library of Darknet's .*; apt-get install darknet, or"):
            darknet_library.opened(path)


def test_the_maps_that_are_compared_are_those_of_every_head():
    net = random_network(read_cfg(ROOT / "cfg" / "yolov3-tiny-digits.cfg"))
    parts = darknet_library.heads(net)
    assert len(parts) == len(net.spec.heads) == 2
    assert [len(part.spec.layers) for part in parts] == list(net.spec.heads)
    assert all(build(part) for part in parts)
