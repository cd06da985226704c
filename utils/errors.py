"""The one exception that means: the input is wrong, not the program."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user gave us, said in one line: the place, the fact, the remedy.

    Scripts print the message without a traceback and leave with exit code 2.
    """


class UnsurvivableError(InputError):
    """What was measured of a network forbids the cut; asked again, it would be forbidden again."""


class NotMet(Exception):  # noqa: N818  # nothing went wrong
    """What came out is whole and on disk, but it is not what was asked for: told in one line, exit code 3."""
