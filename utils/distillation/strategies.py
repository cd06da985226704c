"""The terms by name, what each compares and how much it counts; the strategies that ``--KDstr`` names."""

from __future__ import annotations

from dataclasses import dataclass

from utils.distillation.pairs import FEATURES, OUTPUTS
from utils.errors import InputError


@dataclass(frozen=True)
class Term:
    """A term's constants.

    ``gain``: what its value is multiplied with; ``compares``: OUTPUTS or FEATURES; ``boxes``: it needs targets.
    """

    gain: float
    compares: str
    boxes: bool = False


# Gains bring the slope of each term to a half or less of the labels' loss's, measured on a network of the sample set
# that lost 65 % of its channels and learns from what it was (norms of the gradient over all weights; labels: 1.0).
# Features stay far below: a student of 43,000 parameters lost 0.9 points of mAP@.5 in six epochs to CWD at a gain of 10
# (the adapter between the widths has to be learned before what it shows is worth following), and attention at 10 took
# back what boxes and classes had gained.
TERMS = {
    "class": Term(0.3, OUTPUTS),  # 1.7 at a gain of 1
    "objectness": Term(2.0, OUTPUTS),  # 0.26
    "seen_class": Term(0.4, OUTPUTS),  # 1.2
    "seen_box": Term(2.0, OUTPUTS),  # 0.17
    "worse_box": Term(0.4, OUTPUTS, boxes=True),  # 0.76
    "box": Term(1.0, OUTPUTS, boxes=True),  # 0.43
    "attention": Term(3.0, FEATURES),  # 0.032; see above
    "object_attention": Term(3.0, FEATURES, boxes=True),  # 0.027
    "cwd": Term(1.0, FEATURES),  # 0.028; see above
    "mgd": Term(1.0, FEATURES),  # 0.026, while its generator knows nothing
}
STRATEGIES = {  # the first five are 1 to 5
    "soft": ("class", "seen_box"),
    "worse": ("worse_box", "class"),
    "direct": ("box", "class"),
    "attention": ("box", "class", "attention"),
    "fine": ("box", "class", "object_attention"),
    "cwd": ("cwd",),
    "mgd": ("mgd",),
    "objectness": ("objectness", "seen_class", "seen_box"),
}
NUMBERS = dict(zip("12345", STRATEGIES, strict=False))
OFF = ("", "0", "-1", "none")
USUAL, USUAL_OF_SCORES = "objectness", "soft"  # of compress.py: for boxes, and for scores of classes
KNOWN = "1 soft, 2 worse, 3 direct, 4 attention, 5 fine, cwd, mgd, objectness"


def terms_of(text: str) -> tuple[str, ...]:
    """The terms of a strategy by number or name, or of several joined by ``+`` (``3+cwd``); no term for none, 0, -1 or
    nothing.

    Raises:
        InputError: there is no such strategy.
    """
    if text in OFF:
        return ()
    found: dict[str, None] = {}
    for word in text.split("+"):
        name = NUMBERS.get(word, word)
        if name not in STRATEGIES:
            raise InputError(f"--KDstr {text}: no strategy {word!r}; known are {KNOWN}, or several as in 3+cwd")
        found |= dict.fromkeys(STRATEGIES[name])
    return tuple(found)
