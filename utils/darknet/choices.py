"""What train.py --act may say. Nothing here needs torch."""

from __future__ import annotations

from utils.errors import InputError

TO_HAVE = {"leaky-pow2": "leaky_pow2", "relu": "relu", "relu6": "relu6"}  # --act -> what the cfg says
GATES = "gates"  # of [se], and whatever [scale_channels] scales by
STAY = ("h_swish", GATES)  # until they are named
RARE = tuple("elu gelu hard_mish hardtan lhtan loggy plse ramp relie selu stair tanh".split())  # of old Darknets
CURVED = ("h_swish", "hard_sigmoid", "leaky", "leaky_pow2", "logistic", "mish", "relu", "relu6", "swish", *RARE)
WORDS = {name: name.replace("leaky_pow2", "leaky-pow2") for name in CURVED}  # `activations.ACTIVATIONS` but linear


def parse_act(act: str) -> tuple[str, tuple[str, ...]]:
    """``relu=mish,leaky-pow2`` -> ("relu", ("mish", "leaky_pow2")); no names: all but those that stay.

    Raises:
        InputError: a word that is unknown, or is in its own place.
    """
    to, equals, words = act.partition("=")
    if to not in TO_HAVE:
        raise InputError(f"--act: {to!r} is unknown; use one of {', '.join(TO_HAVE)}")
    known = {word: name for name, word in WORDS.items()} | {name: name for name in (*WORDS, GATES)}
    names = tuple(known.get(word.strip(), word.strip()) for word in words.split(",")) if equals else ()
    for name in names:
        if name not in known:
            choice = ", ".join((*WORDS.values(), GATES))
            raise InputError(f"--act {act}: {name!r} is unknown; behind the = use some of {choice}")
        if name == TO_HAVE[to]:
            raise InputError(f"--act {act}: puts {to} in its own place; leave {to} out behind the =")
    return TO_HAVE[to], names
