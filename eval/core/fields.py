"""A method's fields, from flags and from plain values: --keep 64 is {"keep": 64}. The fields of a value that is itself
a field have its name in front: --scores ratio --scores.shallow 3 is {"scores": "ratio", "scores.shallow": 3}.

Flags are read by what the method's file says of its fields, so that no torch is loaded for a wrong one.
"""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from debias.names import nearest
from pruners import catalogue
from pruners.catalogue import Field, find, make, value_of
from pruners.written import Class

if TYPE_CHECKING:
    from pruners import Pruner

T = TypeVar("T")
PLAIN = {"int": int, "float": float, "str": str}
CONSTANTS: Mapping[str, Mapping[str, Any]] = {"bool": {"True": True, "False": False}, "None": {"None": None}}


class Misuse(ValueError):
    """What flags ask for cannot be had, which is said before anything is begun: exit status 2."""


def refused(work: Callable[..., T], *given: Any, **named: Any) -> T:
    """What the work returns; a ValueError of it is a Misuse."""
    try:
        return work(*given, **named)
    except ValueError as error:
        raise Misuse(str(error)) from None


def parse_fields(method: str, words: Sequence[str]) -> dict[str, Any]:
    """The fields of a method that the flags give: {"keep": 64, "scores": "ratio", "scores.shallow": 3}."""
    given = list(apart(words))
    chosen = {flag: values[0] for flag, values in given if values}
    known = {}
    for field in catalogue.fields(method):
        known[_flag(field.name)] = field.name, field
        held = {kind.node.name.lower(): catalogue.fields_of(kind) for kind in catalogue.kinds(field) if _is_value(kind)}
        named = chosen.get(_flag(field.name), "")
        for inner in held.get(named, next(iter(held.values()), [])):
            known[_flag(f"{field.name}.{inner.name}")] = f"{field.name}.{inner.name}", inner
    parsed: dict[str, Any] = {}
    for flag, values in given:
        plain = flag if flag in known else flag.replace("no-", "", 1)
        if plain not in known or (plain != flag and known[plain][1].annotation != "bool"):
            own = [flag for flag in known if "." not in flag]
            raise Misuse(f"{catalogue.title(method)} has no flag {flag}{nearest(flag, known)}; it has {', '.join(own)}")
        name, field = known[plain]
        parsed[name] = read(flag, field, values) if plain == flag else False
    return parsed


def apart(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Every flag with its values, from --flag value, --flag=value and --flag one two."""
    at = [*(i for i, word in enumerate(words) if word.startswith("--")), len(words)]
    if stray := words[: at[0]]:
        raise Misuse(f"unexpected {' '.join(stray)}: a value needs its flag before it")
    for i, end in pairwise(at):
        flag, equals, value = words[i].partition("=")
        yield flag.replace("_", "-"), [*([value] if equals else []), *words[i + 1 : end]]


def read(flag: str, field: Field, values: Sequence[str]) -> Any:
    """The value of a field, from what stands behind its flag."""
    kinds = [kind for kind in catalogue.kinds(field) if not isinstance(kind, Class)]  # made by flags of their own
    if field.annotation == "bool" and not values:
        return True
    if found := _understood(kinds, values):
        return found[0]
    default = field.default.strip("'")
    shown = default not in ("None", "True", "False") and _understood(kinds, [default])
    example = f", as in {flag} {default}" if shown else ""
    expected = " or ".join(dict.fromkeys(filter(None, map(_called, kinds))))
    raise Misuse(f"{' '.join([flag, *values]) if values else f'{flag} without a value'}: expected {expected}{example}")


def _understood(kinds: Sequence[ast.expr], values: Sequence[str]) -> list[Any]:
    """The values as the first kind that they are of; an empty list, where they are of no kind."""
    for kind in kinds:
        with suppress(ValueError):
            return [_value(kind, values)]
    return []


def _value(kind: ast.expr, values: Sequence[str]) -> Any:
    """The values as this kind, or a ValueError."""
    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "tuple":
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        many = ast.unparse(inner[-1]) == "..."
        parts = [inner[0]] * len(values) if many else inner
        return tuple(_value(part, [value]) for part, value in zip(parts, values, strict=True))
    (value,) = values
    if isinstance(kind, ast.Subscript):  # Literal["one"], Literal["one", "two"]
        listed = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        words: Mapping[str, Any] = {word: word for word in map(ast.literal_eval, listed)}
    elif ast.unparse(kind) in PLAIN:
        return PLAIN[ast.unparse(kind)](value)
    else:
        words = CONSTANTS.get(ast.unparse(kind), {})
    if value not in words:
        raise ValueError(value)
    return words[value]


def _called(kind: ast.expr) -> str:
    """A kind in words; nothing for what nobody types."""
    said = ast.unparse(kind)
    words = {"int": "a whole number", "float": "a number", "str": "a word", "bool": "no value", "None": ""}
    if said in words:
        return words[said]
    head, _, inner = said.rstrip("]").partition("[")
    if head == "Literal":
        return inner.replace("'", "").replace(", ", " or ")
    if head != "tuple":
        return said
    numbers = "whole numbers" if inner.startswith("int") else "numbers"
    return numbers if inner.endswith("...") else f"{inner.count(',') + 1} {numbers}"


def _is_value(kind: ast.expr | Class) -> TypeGuard[Class]:
    """Whether a kind is a class that flags can make: all its fields have defaults."""
    return isinstance(kind, Class) and all(inner.default for inner in catalogue.fields_of(kind))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def assembled(method: str, values: Mapping[str, Any]) -> Pruner:
    """The method with these fields, given as plain values."""
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
