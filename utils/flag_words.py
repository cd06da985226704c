"""What a config says, as the words of a command line that says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.cli import flag_fields, option_names


def words_of(config: Any, names: Sequence[str] | None = None) -> list[str]:
    """The flags that say what a config says, as they are typed; nothing for a field that is not given.

    Args:
        config: made by a `Parser`.
        names: of the fields; None: all whose flags begin with a dash.
    """
    words: list[str] = []
    for field in flag_fields(type(config)):
        if names is None or field.name in names:
            option = option_names(field)[-1]
            words += flag_words(option, getattr(config, field.name)) if option.startswith("-") else []
    return words


def without(words: Sequence[str], option: str) -> list[str]:
    """A command line without a flag and its value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != option and not word.startswith(f"{option}="):
            kept.append(word)
        skip = word == option and not skip
    return kept


def flag_words(option: str, value: Any) -> list[str]:
    """A flag as it is typed; nothing where its value says that it is not given."""
    if value in (None, "") or value is False:
        return []
    if value is True:
        return [option]
    values = value if isinstance(value, list | tuple) else [value]
    return [option, *map(str, values)]
