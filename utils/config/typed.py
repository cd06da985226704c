"""Words of train.py's flags that have rules of their own, as argparse reads them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from utils import cli
from utils.config.quantise import UNTRAINED
from utils.darknet.choices import parse_act
from utils.distillation.strategies import terms_of
from utils.errors import InputError
from utils.quantization.scheme import STYLES

NUMBERED = {"1": "google", "2": "dorefa", "-1": ""}  # --quantized as the reference counts; "": off


def strategy(text: str) -> str:
    """A strategy of --KDstr that exists."""
    return _that_passes(terms_of, text)


def activations(text: str) -> str:
    """What --act takes, as it is typed."""
    return _that_passes(parse_act, text)


def _that_passes(check: Callable[[str], object], text: str) -> str:
    """The text, where the room that reads it finds nothing wrong; argparse names the flag itself."""
    try:
        check(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None
    return text


def processes(text: str) -> str:
    """The word auto, or a whole number from 1 up."""
    return text if text == "auto" else str(cli.positive(text))


def share(text: str) -> float:
    """A number from 0 to 1."""
    return 1.0 if text in ("1", "1.0") else cli.fraction(text)


def style(text: str) -> str:
    """A style of --quantized, by name or the reference's number."""
    if text in UNTRAINED:
        raise argparse.ArgumentTypeError(
            f"{text} is made without training: quantize.py --style pow2 --ranges {UNTRAINED[text]}"
        )
    if text == "4":
        raise argparse.ArgumentTypeError("4 learns its clips: --quantized pow2 --learn-scales")
    name = NUMBERED.get(text, text)
    if name and name not in STYLES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(STYLES)}, 1, 2 or -1 (off), got {text}")
    return name
