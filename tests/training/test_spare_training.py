"""train.py --quantized with --sparsify and --acc-bits, from its command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import train
from models import load_model
from tests.quantization.test_accumulators import widest
from tests.training.test_progressive import flags, place, run, same
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.record import Record
from utils.reporting.results import read_rows

__all__ = ["place"]  # the folder of these tests too


def quantised(name: str, *words: str) -> Record:
    return train.run(
        flags("--quantized", "google", "--a-bit", "4", "--epochs", "4", "--lr", "0.03", "--name", name, *words)
    )


def mean_level(name: str) -> float:
    integer = load_model(f"weights/last_{name}.pt").integer
    assert integer is not None
    levels = IntegerExecutor(integer).levels(torch.rand(4, 3, 32, 64, generator=torch.Generator().manual_seed(0)))
    fired = [levels[i].float().abs().flatten() / integer.grids[i].qmax for i in integer.ops if i in levels]
    return float(torch.cat(fired).mean())


def test_sparsify_lowers_levels_and_tells_its_term(place):
    without, pushed = quantised("without"), quantised("pushed", "--sparsify", "20")
    assert mean_level("pushed") < 0.9 * mean_level("without")
    rows = read_rows(pushed.folder / "results.csv")
    assert rows[-1]["levels"] < rows[0]["levels"] and "levels" not in read_rows(without.folder / "results.csv")[0]
    assert pushed.metrics["mean_level"] == pytest.approx(rows[-1]["levels"] / 20)


def test_wider_ranges_lower_levels_and_are_told_in_the_scheme_as_channels_left_uneven_are(place):
    for name, words in (("plain", []), ("wide", ["--range-scale", "2"]), ("uneven", ["--no-equalise"])):
        quantised(name, *words)
        integer = load_model(f"weights/last_{name}.pt").integer
        assert integer is not None
        assert integer.scheme.range_scale == 1 + (name == "wide") and integer.scheme.equalise == (name != "uneven")
    assert mean_level("wide") < 0.8 * mean_level("plain")
    assert not same("uneven", "plain")


def test_sparsify_of_nothing_is_no_sparsify(place):
    quantised("without")
    quantised("zero", "--sparsify", "0")
    assert same("without", "zero")


def test_sparsify_goes_with_a_teacher_and_with_stages(place):
    words = ["--quantized", "google", "--a-bit", "4", "--sparsify", "2"]
    record = run("q", *words, "--KDstr", "4", "--t_weights", "weights/last_float.pt", epochs=2)
    assert record.metrics["mean_level"] > 0 and len(record.metrics["stages"]) == 2


def test_checkpoint_of_a_narrow_training_remembers_its_accumulators(place):
    free = load_model(quantised("free").paths("*.pt")[0]).integer
    assert free is not None
    bits = widest(free) - 2
    for path in quantised("narrow", "--acc-bits", str(bits)).paths("*.pt"):
        integer = load_model(path).integer
        assert integer is not None and integer.scheme.acc_bits == bits and widest(integer) <= bits


def test_stages_before_the_last_have_wider_accumulators(place):
    run("q", "--quantized", "google", "--w-bit", "4", "--a-bit", "4", "--acc-bits", "15", epochs=2)
    for name, bits in (("q-8", 23), ("q", 15)):
        integer = load_model(f"weights/last_{name}.pt").integer
        assert integer is not None and integer.scheme.acc_bits == bits and widest(integer) <= bits


@pytest.mark.parametrize(
    "words, message",
    [
        (["--sparsify", "1"], "--sparsify: only quantised training has that"),
        (["--acc-bits", "16"], "--acc-bits: only quantised training has that"),
        (["--no-equalise"], "--no-equalise: only quantised training has that"),
        (["--quantized", "google", "--acc-bits", "11"], "--acc-bits: 11 bits; use 12 to 32"),
    ],
)
def test_flags_without_sense_are_refused_before_anything_is_written(place, words, message):
    before = sorted(Path().rglob("*"))
    with pytest.raises(InputError, match=message):
        train.run(flags(*words))
    assert sorted(Path().rglob("*")) == before
