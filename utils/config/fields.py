"""A config from fields that Python code gives: held to the same types and choices as the flags."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, TypeVar

from utils.cli import Tellable, flag_fields
from utils.errors import InputError

C = TypeVar("C", bound=Tellable)


def configured(
    kind: type[C],
    fields: Mapping[str, Any],
    *,
    without: Mapping[str, str] | None = None,
    usual: Mapping[str, Any] | None = None,
) -> C:
    """A config of these fields; the others have their defaults.

    Args:
        kind: of config.
        fields: by name.
        without: fields that cannot be given here, and what to do instead.
        usual: defaults that differ from the config's own.

    Raises:
        TypeError: there is no such field, or it cannot be given here.
        InputError: a value that the flag would not take either, or a field that cannot act beside the others.
    """
    known = {field.name: field for field in flag_fields(kind)}
    values = {}
    for name, value in fields.items():
        if without and name in without:
            raise TypeError(f"{name}: {without[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            message = f"did you mean {near[0]}" if near else f"known are {', '.join(known)}"
            raise TypeError(f"{name}: {kind.__name__} has no such field; {message}")
        values[name] = _checked(known[name], value)
    return kind.from_given(values, usual or {})


def _checked(field: Field[Any], value: Any) -> Any:
    """The value as the flag would have made it of its text."""
    options = field.metadata["flag"]["options"]
    if value is None and field.default is None:
        return None
    if isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{field.name}: must be True or False, got {value!r}")
        return value
    if options.get("nargs") in ("+", "*"):
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_one(field.name, options, item) for item in items)
    return _one(field.name, options, value)


def _one(name: str, options: Mapping[str, Any], value: Any) -> Any:
    kind, choices = options.get("type"), options.get("choices")
    if kind is None:
        value = str(value)  # a path is as good as its text
    elif isinstance(value, str | int | float | Path):
        try:
            value = kind(str(value))
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise InputError(f"{name}: {error}") from error
    if choices is not None and value not in choices:
        raise InputError(f"{name}: must be one of {', '.join(map(str, choices))}, got {value!r}")
    return value
