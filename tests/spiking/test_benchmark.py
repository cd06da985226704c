"""benchmarks/spiking.py: what it trains, what it measures, and how seeds become one table; training is a stand-in."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train
from benchmarks import pruning, spiking
from benchmarks import spiking_tables as tables
from benchmarks.spiking_rows import Row, Whole
from models import Darknet, network_of
from tests.scenes import write_scenes
from tests.spiking.test_script import CFG
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, load_checkpoint, save_checkpoint
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.reporting.record import finish_record, new_run_folder, start_record


def integers(weights: str, bits: int) -> Checkpoint:
    torch.manual_seed(0)
    images = [torch.rand(2, 3, 64, 64).mul(255).round() / 255]
    return to_checkpoint(lower(calibrate(load_checkpoint(weights).network, images, Scheme(a_bit=bits))), "quantised")


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Runs the benchmark among two networks; returns the flags of the trainings that it started."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, train=6, valid=5)
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_checkpoint(f"{seed}.pt", Checkpoint(network_of(Darknet(parse_cfg(CFG, "test")).eval())))
    started = []

    def parser():
        flags = train.parser()
        if not any(action.dest == "sparsify" for action in flags._actions):
            flags.add_argument("--sparsify", type=float)
        return flags

    def run(args):
        started.append(args)
        record = start_record(new_run_folder("runs", "train", args.name), script="train", args=vars(args))
        stages = args.progressive if getattr(args, "progressive", None) else [args.a_bit]
        paths = [save_checkpoint(f"{args.name}-{b}.int.pt", integers(args.weights, b)) for b in stages]
        return finish_record(record, metrics={"map50": 0.5}, outputs=paths)

    script = SimpleNamespace(parser=parser, run=run)
    monkeypatch.setattr(pruning, "importlib", SimpleNamespace(import_module=lambda _: script))
    monkeypatch.setattr("benchmarks.spiking_rows.RATE_STEPS", (2,))

    def go(*words):
        started.clear()
        monkeypatch.setattr(sys, "argv", ["spiking.py", "--data", "set.data", "--images", "3", *words])
        spiking.main()
        return list(started)

    return go


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_one_table_holds_every_mode_of_every_seed(session, caplog):
    caplog.set_level("INFO")
    words = ["--weights", "0.pt", "1.pt", "--progressive", "--quantized google --progressive 3 2 --epochs 4"]
    trained = session(*words, "--bits", "3", "2")
    assert [(args.weights, args.seed) for args in trained] == [("0.pt", 0), ("1.pt", 1)]
    found = rows_of(Path("runs/bench_spiking/spiking.csv"))
    modes = ["integers", "layerwise", "stream, T = L", "stream, settled", "signed, T = L", "unsigned, T = L"]
    wanted = [("", "float"), *((bits, mode) for bits in "32" for mode in modes), ("", "rate, T = 2")]
    for seed in ("0.pt", "1.pt"):
        assert [(row["bits"], row["mode"]) for row in found if row["seed"] == seed] == wanted
    for row in found:
        if row["mode"] in ("layerwise", "stream, settled"):
            assert row["exact"] == "1" and float(row["sops"]) > 0
    assert "2 of 2" in caplog.text and "layerwise = integers, to the last digit" in caplog.text
    assert "where the operations are" in caplog.text and "x the integers (bar 1.5)" in caplog.text
    assert session(*words, "--bits", "3") == []  # finished trainings are kept


def test_spikes_against_map_trains_once_a_lambda_and_draws_the_curve(session, caplog):
    caplog.set_level("INFO")
    flags = "--quantized google --w-bit 8 --a-bit 3 --epochs 1"
    trained = session("--weights", "0.pt", "--sparsify", "0", "0.5", "--sparsify-flags", flags)
    assert [args.sparsify for args in trained] == [0, 0.5]
    found = rows_of(Path("runs/bench_sparsify/spikes_against_map.csv"))
    assert [float(row["lambda"]) for row in found] == [0, 0.5] and all(float(row["spikes"]) > 0 for row in found)
    assert Path("runs/bench_sparsify/spikes_against_map.png").stat().st_size > 5000


def test_given_integers_take_the_place_of_calibrated_ones(session):
    save_checkpoint("three.int.pt", integers("1.pt", 3))
    assert session("--weights", "0.pt", "--bits", "3", "--no-compare", "--trained", "3=three.int.pt") == []
    mine = {row["mode"]: row for row in rows_of(Path("runs/bench_spiking/spiking.csv"))}
    session("--weights", "0.pt", "--bits", "3", "--no-compare")
    other = {row["mode"]: row for row in rows_of(Path("runs/bench_spiking-2/spiking.csv"))}
    assert list(mine) == ["float", "integers", "layerwise", "stream, T = L", "stream, settled"]
    assert mine["float"] == other["float"] and mine["layerwise"]["spikes"] != other["layerwise"]["spikes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "0.pt", "1.pt", "--trained", "4=0.pt"], "--trained 4=: 1 for 2 networks of --weights"),
        (["--weights", "0.pt", "--seeds", "1", "2"], "--seeds: 2 for 1 networks"),
        (["--weights", "0.pt", "--bits", "4", "--trained", "4=0.pt"], "0.pt: holds no integers"),
        ([], "--weights: names no network"),
    ],
)
def test_files_that_do_not_fit_are_refused(session, words, message):
    with pytest.raises(InputError, match=message):
        session(*words)


def test_seeds_are_joined_with_their_deviation_and_bars_are_judged_by_the_mean():
    def seed(name: str, floating: float, phase: float, lost: float) -> tables.Seed:
        rows = [Row(None, "float", floating), Row(4, "layerwise", phase, 30, True)]
        return tables.Seed(name, rows, whole={4: Whole(0.9, 0.9 - lost, True)})

    seeds = [seed("a", 0.9, 0.89, 0.004), seed("b", 0.8, 0.83, 0.02)]
    table = tables.modes_table("t", seeds)
    assert "86.00 ± 4.2" in table and "+1.00 ± 2.8" in table and "30 |" in table
    assert "1.20 ± 1.1" in tables.bars_table(seeds, 5) and "misses" in tables.bars_table(seeds, 5)
    assert "0.40" in tables.bars_table(seeds[:1], 5) and "misses" not in tables.bars_table(seeds[:1], 5)
