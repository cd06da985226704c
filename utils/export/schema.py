"""The JSON schema of the manifest, and as much of a validator as it needs."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("manifest.schema.json")
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
BOUNDS = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "minItems": lambda value, bound: len(value) >= bound,
    "maxItems": lambda value, bound: len(value) <= bound,
    "pattern": lambda value, bound: re.search(bound, value) is not None,
    "enum": lambda value, bound: value in bound,
}
KNOWN = {
    "$schema",
    "$defs",
    "title",
    "$ref",
    "anyOf",
    "type",
    "required",
    "properties",
    "additionalProperties",
    "items",
}


@cache
def read_schema() -> dict[str, Any]:
    """The schema of versions 3 and 4, which version 2 passes too."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def fault(value: Any, schema: dict[str, Any] | None = None, place: str = "manifest") -> str | None:
    """The first thing in which a value departs from a schema, in words, or None.

    Knows the keywords that ours uses, with the meaning of draft 2020-12; another keyword is an error, not ignored.
    """
    root = read_schema()
    rules = root if schema is None else schema
    unknown = set(rules) - KNOWN - set(BOUNDS)
    if unknown:
        raise ValueError(f"{place}: the schema's keyword {min(unknown)!r} is not supported")
    if "$ref" in rules:
        return fault(value, root["$defs"][rules["$ref"].removeprefix("#/$defs/")], place)
    if "anyOf" in rules:
        found = [fault(value, option, place) for option in rules["anyOf"]]
        return None if None in found else found[0]
    kinds = rules.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{place}: is {type(value).__name__}, must be {' or '.join(kinds)}"
    for key, holds in BOUNDS.items():
        if key in rules and not holds(value, rules[key]):
            return f"{place}: {value!r} breaks {key} {rules[key]!r}"
    return _inside(value, rules, place)


def _is(value: Any, kind: str) -> bool:
    truth = isinstance(value, bool)
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not truth)


def _inside(value: Any, rules: dict[str, Any], place: str) -> str | None:
    parts: list[tuple[Any, dict[str, Any], str]] = []
    if isinstance(value, dict):
        known, rest = rules.get("properties", {}), rules.get("additionalProperties", True)
        missing = [key for key in rules.get("required", []) if key not in value]
        if missing:
            return f"{place}: {missing[0]} is missing"
        for key, item in value.items():
            if key not in known and rest is False:
                return f"{place}: {key} is unknown"
            parts.append((item, known.get(key, rest if isinstance(rest, dict) else {}), f"{place}.{key}"))
    elif isinstance(value, list):
        parts = [(item, rules.get("items", {}), f"{place}[{i}]") for i, item in enumerate(value)]
    return next(filter(None, (fault(*part) for part in parts)), None)
