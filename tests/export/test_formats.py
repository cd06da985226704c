from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.export import verify
from utils.export.formats import FORMS, Word, encode, encode_bits, tiled, tiles, word_of, write_tensor
from utils.export.layers import shift_of
from utils.quantization.packing import pack

words = st.builds(Word, st.integers(2, 32), st.booleans())


@pytest.mark.parametrize("form", FORMS)
@given(word=words, seed=st.integers(0, 1000), count=st.integers(1, 40))
def test_every_form_is_read_back_to_the_same_integers(form, word, seed, count):
    values = np.random.default_rng(seed).integers(word.lowest, word.highest, count, endpoint=True)
    values[:2] = [word.lowest, word.highest][: len(values[:2])]
    ref = {"bits": word.bits, "signed": word.signed, "shape": [count]}
    np.testing.assert_array_equal(verify.decode(encode(values, word, form), form, ref), values)


@pytest.mark.parametrize("form", ["npy", "bin", "mem"])
@given(shape=st.tuples(*[st.integers(1, 4)] * 3, st.integers(1, 20)), seed=st.integers(0, 1000))
def test_bits_in_rows_are_read_back_in_every_form(form, shape, seed):
    bits = np.random.default_rng(seed).integers(0, 2, shape)
    ref = {"bits": 1, "signed": False, "shape": list(shape), "layout": "rows"}
    np.testing.assert_array_equal(verify.decode(encode_bits(bits, form), form, ref), bits.ravel())


def test_a_row_of_a_spike_train_is_one_word_with_column_0_in_its_lowest_bit():
    bits = np.array([[1, 0, 0, 0, 1, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]])
    assert encode_bits(bits, "mem") == b"231\n002\n"
    assert encode_bits(bits, "bin") == bytes([0x31, 0x0A, 0x00])
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_bits(bits, "npy"))), [[0x31, 0x02], [0x02, 0x00]])
    with pytest.raises(ValueError, match="unknown form 'coe'"):
        encode_bits(bits, "coe")


@pytest.mark.parametrize("bits", range(2, 9))
def test_bin_is_packed_as_the_weights_of_our_own_files_are(bits):
    values = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 101)
    ours = bytes(pack(torch.from_numpy(values), bits).numpy())
    assert encode(values, Word(bits, True), "bin") == ours and len(ours) == math.ceil(101 * bits / 8)


def test_the_forms_are_what_their_readers_expect():
    values, word = np.array([-1, 5, -128]), Word(8, True)
    assert encode(values, word, "mem") == b"ff\n05\n80\n"
    assert encode(values, word, "bin") == b"\xff\x05\x80"
    coe = encode(values, word, "coe").decode()
    assert coe == "memory_initialization_radix=16;\nmemory_initialization_vector=\nff,\n05,\n80;\n"
    assert encode(np.array([-2]), Word(32, True), "bin") == b"\xfe\xff\xff\xff"
    assert encode(np.array([-3]), Word(5, True), "mem") == b"1d\n"


def test_a_value_that_does_not_fit_its_word_is_refused():
    for value in (128, -129):
        with pytest.raises(ValueError, match="do not fit 8 bits"):
            encode(np.array([value]), Word(8, True), "mem")


def test_a_bias_keeps_its_32_bits_whatever_the_weights_have(tmp_path):
    """The reference rounded biases to the weights' bits."""
    bias = np.array([2**30, -(2**31), 300, -129])
    ref = write_tensor(tmp_path, "000_b", bias, Word(32, True), FORMS)
    for form in FORMS:
        content = (tmp_path / ref["files"][form]).read_bytes()
        np.testing.assert_array_equal(verify.decode(content, form, ref), bias)


@pytest.mark.parametrize(
    ("qmin", "qmax", "bits", "signed"),
    [
        (0, 255, 8, False),
        (0, 15, 4, False),
        (0, 16, 5, False),
        (-8, 7, 4, True),
        (-128, 255, 9, True),
        (0, 1, 1, False),
    ],
)
def test_a_word_is_as_small_as_its_levels_allow(qmin, qmax, bits, signed):
    word = word_of(qmin, qmax)
    assert word == Word(bits, signed) and word.lowest <= qmin and word.highest >= qmax


@settings(max_examples=60)
@given(
    o=st.integers(1, 70), i=st.integers(1, 40), k=st.sampled_from([1, 3]), tm=st.integers(1, 64), tn=st.integers(1, 40)
)
def test_every_weight_is_in_exactly_one_tile_remainders_too(o, i, k, tm, tn):
    """The reference never wrote up to a fifth of the weights of layers that no tile divides."""
    number = np.arange(o * i * k * k).reshape(o, i, k, k)
    flat, starts = tiled(number, tm, tn)
    assert sorted(flat.tolist()) == list(range(o * i * k * k))
    assert len(starts) == math.ceil(o / tm) * math.ceil(i / tn)
    np.testing.assert_array_equal(flat, verify.tile_order(number.shape, tm, tn))


def test_within_a_tile_the_order_is_ky_kx_output_input():
    weight = np.arange(3 * 5 * 2 * 2).reshape(3, 5, 2, 2)
    flat, starts = tiled(weight, 2, 4)
    at = 0
    for start, (outputs, inputs) in zip(starts, tiles(weight.shape, 2, 4), strict=True):
        assert start == at
        for ky in range(2):
            for kx in range(2):
                for o in range(outputs.start, outputs.stop):
                    for i in range(inputs.start, inputs.stop):
                        assert flat[at] == weight[o, i, ky, kx]
                        at += 1
    assert at == weight.size


@pytest.mark.parametrize("shape", [(40, 32, 3, 3), (64, 40, 1, 1), (255, 1024, 1, 1), (75, 256, 1, 1)])
def test_the_layers_whose_weights_the_reference_lost_are_whole(shape, tmp_path):
    weight = np.random.default_rng(0).integers(-127, 128, shape)
    ref = write_tensor(tmp_path, "w", weight, Word(8, True), ("npy", "bin"), (32, 32))
    content = (tmp_path / ref["tiled"]["files"]["bin"]).read_bytes()
    assert len(content) == weight.size
    back = np.full(weight.size, 999)
    back[verify.tile_order(shape, 32, 32)] = verify.decode(content, "bin", ref)
    np.testing.assert_array_equal(back.reshape(shape), weight)


def test_a_shift_is_exact_for_every_power_of_two_and_never_a_truncated_logarithm():
    """The reference took int(log2(scale)), which is one off where the logarithm ends just below a whole number."""
    for power in range(16):
        assert shift_of(torch.tensor([2**power] * 3), 40) == 40 - power
        assert shift_of(torch.tensor([2**power, 2**power + 1]), 40) is None
    for gain in (0, 3, 5, 2**15 - 1, 2**15 + 1):
        assert shift_of(torch.tensor([gain]), 20) is None
