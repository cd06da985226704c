"""What flags of the prune scripts may choose. Nothing here needs torch."""

from __future__ import annotations

from enum import Enum

SCORES = ("gamma", "l1", "fpgm", "taylor", "random")  # judges of a channel: `criteria`


class Beta(Enum):
    """What becomes of the constants act(beta) that cut channels send."""

    CARRIER = "carrier"  # one channel a reader carries them: equal to the zeroed network everywhere
    BIAS = "bias"  # into running means and biases: equal away from zero-padded borders
    DROP = "drop"  # they are lost


class By(Enum):
    """What makes a block the next to go."""

    SCORE = "the lowest mean score"  # the customary one
    ENERGY = "the lowest share of its sum, what has gone before left out"  # of blocks of unlike stages the better judge
