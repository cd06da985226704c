from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.quantization.promised import bit_operations, input_bits
from tests.quantization.random_nets import CONV, cfg_text
from utils.darknet.cfg import parse_cfg
from utils.errors import InputError
from utils.quantization.bits import (
    as_written,
    check_layers,
    packed_bytes,
    read_bits_map,
    weight_counts,
    write_bits_map,
)
from utils.quantization.scheme import BITS, Scheme


@given(st.dictionaries(st.integers(0, 200), st.tuples(st.sampled_from(BITS), st.sampled_from(BITS)), max_size=9))
def test_a_written_map_reads_back_as_it_was(tmp_path_factory, wanted):
    layer_bits = tuple((i, *wanted[i]) for i in sorted(wanted))
    path = write_bits_map(tmp_path_factory.mktemp("map") / "bits.txt", layer_bits, "made by a test\nin two lines")
    assert read_bits_map(path) == layer_bits


def test_comments_blank_lines_and_order_do_not_matter(tmp_path):
    path = tmp_path / "bits.txt"
    path.write_text("# head\n\n12 4 6  # late\n  3\t8 2\n")
    assert read_bits_map(path) == ((3, 8, 2), (12, 4, 6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 8 8\n2 8\n", r"bits.txt line 2: '2 8'; write layer, weight bits"),
        ("1 8 eight\n", r"bits.txt line 1: '1 8 eight'"),
        ("-1 8 8\n", r"bits.txt line 1: '-1 8 8'"),
        ("1 8 8\n\n1 4 4\n", r"bits.txt line 3: layer 1 a second time"),
        ("1 9 8\n", r"bits.txt line 1: 9 bits; use 2 to 8, or 16"),
        ("1 8 1\n", r"bits.txt line 1: 1 bits"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path, text, message):
    path = tmp_path / "bits.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_bits_map(path)


def test_a_map_that_is_not_there_or_no_text_is_named(tmp_path):
    (tmp_path / "image").write_bytes(b"\xff\xfe\x00")
    for name, fact in (("none.txt", "no such file"), ("image", "cannot be read as text")):
        with pytest.raises(InputError, match=f"{name}: {fact}; check --bits-map"):
            read_bits_map(tmp_path / name)


def test_bits_of_a_layer_that_has_none_are_refused():
    spec = parse_cfg(cfg_text(("convolutional", CONV), ("maxpool", {"size": 2, "stride": 2})), "test")
    check_layers(((0, 4, 4), (2, 8, 8)), spec)
    with pytest.raises(InputError, match=r"--bits-map: layer 1 \(cfg line 12\) is a MaxPool and only moves values"):
        check_layers(((1, 4, 4),), spec)
    with pytest.raises(InputError, match=r"--bits-map: layer 9; the network has layers 0 to 3"):
        check_layers(((9, 4, 4),), spec)


def test_bytes_and_bit_operations_are_those_counted_by_hand():
    spec = parse_cfg(
        cfg_text(("convolutional", CONV), ("maxpool", {"size": 2, "stride": 2}), ("convolutional", CONV)), "t"
    )
    assert weight_counts(spec) == {0: 3 * 8 * 9, 2: 8 * 8 * 9, 3: 8 * 6}
    scheme = Scheme(w_bit=8, a_bit=4, layer_bits=((2, 3, 6),))
    assert packed_bytes(spec, scheme) == 216 + 576 * 3 // 8 + 48 + 8 * (8 + 8 + 6)
    assert input_bits(spec, scheme) == {0: 8, 2: 4, 3: 6}
    assert bit_operations(spec, scheme, {0: 10, 2: 100, 3: 1000}) == 10 * 64 + 100 * 3 * 4 + 1000 * 8 * 6


def test_a_convolution_after_a_concat_reads_the_bits_that_the_concat_agreed_on():
    spec = parse_cfg(cfg_text(("convolutional", CONV), ("convolutional", CONV), ("route", {"layers": "-1,-2"})), "test")
    assert input_bits(spec, Scheme(a_bit=4, layer_bits=((0, 8, 7),))) == {0: 8, 1: 7, 3: 7}


def test_bits_of_sections_that_one_layer_became_are_the_most_of_them():
    number = {-1: -1, 0: 0, 1: 4, 2: 5}  # layer 1 became 1, 2, 3 and 4
    assert as_written(((0, 3, 4), (2, 5, 8), (3, 8, 2), (5, 6, 6)), number) == ((0, 3, 4), (1, 8, 8), (2, 6, 6))
    same = {i: i for i in range(-1, 4)}
    assert as_written(((0, 3, 4), (3, 2, 2)), same) == ((0, 3, 4), (3, 2, 2))
