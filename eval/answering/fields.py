"""A method's value from plain fields: {"keep": 64, "scores": "ratio", "scores.shallow": 3}."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from pruners import Pruner, find, make
from pruners.catalogue import value_of


def assembled(method: str, values: Mapping[str, Any]) -> Pruner:
    """The method with these fields; "scores.shallow" is the field `shallow` of the value that `scores` holds."""
    kind = find(method)
    hints = typing.get_type_hints(kind)
    inner: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for name, value in values.items():
        head, _, part = name.replace("-", "_").partition(".")
        value = tuple(value) if isinstance(value, list) else value
        if part:
            inner.setdefault(head, {})[part] = value
        else:
            plain[head] = value
    for head, parts in inner.items():
        nested = value_of(hints.get(head), plain.get(head))
        if nested is None:
            raise ValueError(f"{method} has no field {head} with fields of its own ({', '.join(parts)})")
        if head in plain and plain[head] != nested.__name__.lower():
            parts[dataclasses.fields(nested)[0].name] = plain[head]
        plain[head] = nested(**parts)
    return make(method, **plain)
