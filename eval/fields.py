"""A method's fields, from flags and from plain values: --keep 64 is {"keep": 64}. The fields of a value that is itself
a field have its name in front: --scores ratio --scores.shallow 3 is {"scores": "ratio", "scores.shallow": 3}."""

from __future__ import annotations

import dataclasses
import io
import re
import typing
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from debias.names import nearest
from pruners.catalogue import find, make, value_of

if TYPE_CHECKING:
    from pruners import Pruner


class Misuse(ValueError):
    """Flags that make no sense together: exit status 2."""


def flags_of(kind: type) -> list[str]:
    """The flags of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    named = [(field.name.replace("_", "-"), hints[field.name]) for field in dataclasses.fields(kind) if field.init]
    return [flag for name, hint in named for flag in (f"--{name}", *([f"--no-{name}"] if hint is bool else []))]


def parse_fields(kind: type, words: Sequence[str], program: str) -> dict[str, Any]:
    """The fields of a dataclass that the flags give, with their values."""
    own = flags_of(kind)
    for word in words:
        flag = word.split("=")[0].split(".")[0].replace("_", "-")
        if word.startswith("--") and flag not in own:
            raise Misuse(f"{kind.__name__} has no flag {flag}{nearest(flag, own)}; it has {', '.join(own)}")
    hints = typing.get_type_hints(kind)
    heads = (word[2:].split("=")[0].split(".")[0].replace("_", "-") for word in words if word.startswith("--"))
    rest, given = list(words), {name for head in heads for name in (head, head.removeprefix("no-"))}
    nested: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if value_of(hints[field.name], None) is None:
            continue
        plain, own, rest = apart(rest, field.name)
        inner = value_of(hints[field.name], plain[0] if plain else None)
        if own:
            first = dataclasses.fields(inner)[0].name  # --scores ratio --scores.shallow 3: the name is its kind
            named = plain and plain[0] == inner.__name__.lower()  # --selection suppression --selection.radius 3
            words = [f"--{first}", *plain, *own] if plain and not named else own
            nested[field.name] = parsed(inner, words, f"{program} --{field.name}", under=f"{field.name}.")
        elif plain:
            nested[field.name] = plain[0]
    simple: list[Any] = [
        (field.name, hints[field.name], dataclasses.field(default=field.default, default_factory=field.default_factory))
        for field in dataclasses.fields(kind)
        if field.init and not any(map(dataclasses.is_dataclass, typing.get_args(hints[field.name])))
    ]
    flat = parsed(dataclasses.make_dataclass(kind.__name__, simple), rest, program, kind.__doc__)
    found = {name: getattr(flat, name) for name, _, _ in simple if name.replace("_", "-") in given}
    kind(**found, **nested)  # what the class itself refuses is refused here
    return {**found, **nested}


def parsed(kind: Any, words: Sequence[str], program: str, about: str | None = None, under: str = "") -> Any:
    """A dataclass from its flags. What tyro draws a box around is said in one line."""
    import tyro

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=list(words), prog=program, description=about)
    except SystemExit as stop:
        if not stop.code:
            raise
    lines = [line.strip("│╭╮╰╯─ ") for line in said.getvalue().splitlines()]
    hint = next((found for line in lines if (found := re.fullmatch(r"(--[\w.-]+) (\S+)", line))), None)
    if hint is None:
        raise Misuse(" ".join(line for line in lines if line))
    apart = [part for word in words for part in word.split("=", 1)]
    given = next((after for word, after in pairwise([*apart, "nothing"]) if word == hint[1]), "nothing")
    flag = f"--{under}{hint[1][2:]}"
    raise Misuse(f"{flag} {given}: expected {hint[2]}, as in {flag} {_default_of(kind, hint[1])}")


def _default_of(kind: Any, flag: str) -> Any:
    name = flag.removeprefix("--").replace("-", "_")
    return next((field.default for field in dataclasses.fields(kind) if field.name == name), "...")


def apart(words: Sequence[str], name: str) -> tuple[list[str], list[str], list[str]]:
    """(value of --name, flags --name.X as --X, everything else)."""
    plain: list[str] = []
    own: list[str] = []
    rest: list[str] = []
    into = rest
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            into = plain if flag == f"--{name}" else own if flag.startswith(f"--{name}.") else rest
            if into is plain:
                plain += [value] if equals else []
                continue
            if into is own:
                word = f"--{word[len(name) + 3 :]}"
        into.append(word)
    return plain, own, rest


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
