"""benchmarks/engine_spikes.py: both engines of every network in one table, one picture, and which of them wins."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch

import train
from benchmarks import engine_spikes
from benchmarks.engine_spikes import Point, verdict
from models import Darknet, network_of
from tests.scenes import write_scenes
from tests.spiking.test_script import CFG
from utils import cli
from utils.config.train import training_scheme
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.quantization.calibrate import calibrate
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.quantization.stages import stages_of


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Scenes, and one network in 4 and in 2 bits."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, train=2, valid=3)
    torch.manual_seed(0)
    network = network_of(Darknet(parse_cfg(CFG, "test")).eval())
    images = [torch.rand(2, 3, 64, 64).mul(255).round() / 255]
    for bits in (4, 2):
        integers = lower(calibrate(network, images, Scheme(w_bit=4, a_bit=bits)))
        save_checkpoint(f"bits{bits}.int.pt", to_checkpoint(integers, "quantised"))
    return tmp_path


def test_each_network_is_on_both_engines_with_one_map_and_integers_take_no_fewer_clocks_for_fewer_bits(
    place, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr(sys, "argv", ["engine_spikes.py", "bits4.int.pt", "bits2.int.pt", "--data", "set.data"])
    cli.main(engine_spikes.run, engine_spikes.parser())
    with Path("runs/bench_engines/engines.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = [(row["network"], row["bits"], row["engine"]) for row in rows]
    assert names == [(f"bits{n}", str(n), kind) for n in (4, 2) for kind in ("integer", "spikes")]
    clocks = [int(row["clocks"]) for row in rows]
    assert clocks[0] == clocks[2] and clocks[1] > clocks[3]
    assert rows[0]["score"] == rows[1]["score"] and rows[2]["score"] == rows[3]["score"]
    assert all(0 < int(row["work"]) <= int(row["clocks"]) for row in rows)
    assert Path("runs/bench_engines/clocks_against_map.png").stat().st_size > 5000
    assert "No other point has fewer clocks and a higher mAP than" in caplog.text


@pytest.mark.parametrize(
    ("train_flags", "message"),
    [
        ("--quantised", "unrecognized arguments: --quantised"),
        ("--epochs 3", "only quantised training has that; add --quantized google"),
        ("--quantized google --epochs 1", "--epochs"),
    ],
)
def test_flags_that_training_refuses_are_one_line(place, train_flags, message, monkeypatch, capsys):
    network = network_of(Darknet(parse_cfg(CFG, "test")))
    save_checkpoint("net.pt", Checkpoint(network, ("blue", "green")))
    words = ["--data", "set.data", "--sparsify", "1.5", f"--train-flags={train_flags}"]
    monkeypatch.setattr(sys, "argv", ["engine_spikes.py", "net.pt", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main(engine_spikes.run, engine_spikes.parser())
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and message in said, said
    assert not Path("runs").exists()


@pytest.mark.parametrize("bits", [(4, 3, 2), (4,)])
def test_training_goes_through_every_number_of_bits_of_the_activations(bits):
    args = engine_spikes.parser().parse_args(["net.pt", "--bits", *map(str, bits)])
    config = train.parser().parse_args(engine_spikes.flags_of(args, 1.5).split())
    stages = stages_of(config.epochs, config.progressive, training_scheme(config))
    assert len(stages) == len(bits) and config.sparsify == 1.5
    assert [stage.bits[1:] for stage in stages if stage.bits] == [(4, n) for n in bits if len(bits) > 1]


def test_the_verdict_names_the_winner_of_each_network_and_what_no_other_point_beats():
    def point(bits: int, engine: str, clocks: int, score: float) -> Point:
        return Point("a", bits, engine, clocks, 0, 1.0, 1, score)

    found = [point(4, "integer", 100, 0.9), point(4, "spikes", 300, 0.9)]
    found += [point(2, "integer", 100, 0.5), point(2, "spikes", 50, 0.5)]
    assert verdict(found) == (
        "integers win 1 of 2 networks, by 3.0 to 3.0 times; spikes win 1 of 2 networks, by 2.0 to 2.0 times. "
        "No other point has fewer clocks and a higher mAP than: a 2 bits by spikes, a 4 bits by integer"
    )
