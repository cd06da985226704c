"""Flags of the project whose job is taken over: each works, or is refused with what to use instead."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest

import train
from utils.config.reference import MEASURED
from utils.errors import InputError

REFUSED = [
    ("train", "-mpt", "bf16 where the processor multiplies it"),
    ("train", "--mixedprecision", "bf16 where"),
    ("test", "-mas", r"pixels are 0 to 1, .*train\.py --act leaky-pow2 --FPGA"),
    ("detect", "--maxabsscaler", "pixels are 0 to 1"),
    ("slim_prune", "-mas", "pixels are 0 to 1"),
    ("train", "--shortcut_way 2", "a sum has a scale of its own"),
    ("detect", "--shortcut_way=1", "a sum has a scale of its own"),
    ("test", "--augment", "an image is looked at once"),
    ("detect", "--quantizer_output", r"quantize\.py, then export\.py fpga --golden 1 --tile 64x8"),
    ("detect", "--TN 32 --TM 32", "export.py fpga --golden 1"),
    ("detect", "--quantized 1", "a checkpoint carries its own quantisation"),
    ("test", "--a-bit 8", "a checkpoint carries its own quantisation"),
    ("detect", "--names data/coco.names", "a checkpoint carries its names"),
    ("train", "--quantized 3", r"3 is made without training: quantize\.py --style pow2 --ranges minmax"),
    ("train", "--quantized 5", r"5 is made without training: quantize\.py --style pow2 --ranges cosine"),
    ("train", "--quantized 4", r"4 learns its clips: --quantized pow2 --learn-scales"),
    ("quantize", "--quantized 5", "5 is --style pow2 --ranges cosine here"),
    ("quantize", "--quantized -1", "-1 is for a float network"),
    ("convert_snn", "--quantized 3", "3 is --style pow2 --ranges minmax here"),
    ("train", "--a_bit 8", "--a_bit: is --a-bit here"),
    ("slim_prune", "--batch_size 8", "--batch_size: is --batch-size here"),
]


@pytest.mark.parametrize(("script", "words", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_flag_that_is_absent_is_refused_in_one_line_with_what_to_use(capsys, script, words, message):
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).parser().parse_args(words.split())
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.count("\n") == 1 and re.search(message, said), said


def commands() -> list[str]:
    told = " ".join([*MEASURED.values(), *(message.replace("\\", "") for _, _, message in REFUSED)])
    return sorted(set(re.findall(r"\w+\.py(?: (?:--?[\w-]+|fpga)(?: [\w-]+(?=[ ,;]|$))?)+", told)))


def test_the_remedies_are_command_lines_that_there_are():
    found = [shlex.split(command) for command in commands()]
    assert len(found) >= 4
    for script, *words in found:
        parser = importlib.import_module(script.removesuffix(".py")).parser()
        known = {option for action in parser._actions for option in action.option_strings}
        assert {word for word in words if word.startswith("-")} <= known, (script, words)


def parsed(words: str):
    return train.parser().parse_args(words.split())


def test_off_is_off_however_it_is_said(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert parsed("--prune -1 --quantized -1 --local_rank -1") == parsed("")
    with pytest.raises(InputError, match=r"^-sr and --prune -1: this one is for no sparse training"):
        parsed("-sr --prune -1")


def test_a_launchers_rank_is_taken_where_it_is_this_processs(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert parsed("--local_rank 1") == parsed("--local-rank=1") == parsed("")
    with pytest.raises(InputError, match=r"^--local_rank 0: the launcher says LOCAL_RANK=1"):
        parsed("--local_rank 0")
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(InputError, match=r"^--local_rank 0: no launcher started this process; .* torchrun"):
        parsed("--local_rank 0")


def test_least_and_largest_side_are_what_multi_scale_trains_on():
    assert parsed("--img-size 320 640").size_asked == (320, 640) and parsed("--img-size 320 640").sides is None
    two, three = parsed("--multi-scale --img-size 320 640"), parsed("--multi-scale --img-size 320 640 416")
    assert two.sides == three.sides == (320, 640)
    assert two.size_asked == (640,) and three.size_asked == (416,)
    assert parsed("--multi-scale --img-size 416").size_asked == (416,)
    for wrong in ("640 320", "320 416 640 5"):
        with pytest.raises(InputError, match=rf"^--img-size {wrong}: with --multi-scale give MIN MAX or MIN MAX TEST"):
            parsed(f"--multi-scale --img-size {wrong}")
