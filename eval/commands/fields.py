"""A method's fields from flags: --keep 64, --layer 3; for fields that are values of their own, --scores ratio and
--scores.shallow 3."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from debias.names import nearest
from eval.cli import Misuse


def flags_of(kind: type) -> list[str]:
    """The flags of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    named = [(field.name.replace("_", "-"), hints[field.name]) for field in dataclasses.fields(kind) if field.init]
    return [flag for name, hint in named for flag in (f"--{name}", *([f"--no-{name}"] if hint is bool else []))]


def parse_fields(kind: type, words: Sequence[str], program: str) -> dict[str, Any]:
    """The fields of a dataclass that the flags give, with their values."""
    import tyro

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
        inner: Any = next((part for part in typing.get_args(hints[field.name]) if dataclasses.is_dataclass(part)), None)
        if inner is None:
            continue
        plain, own, rest = apart(rest, field.name)
        if own:
            first = dataclasses.fields(inner)[0].name  # --scores ratio --scores.shallow 3: the name is its kind
            words = [f"--{first}", *plain, *own] if plain else own
            nested[field.name] = tyro.cli(inner, args=words, prog=f"{program} --{field.name}")
        elif plain:
            nested[field.name] = plain[0]
    simple: list[Any] = [
        (field.name, hints[field.name], dataclasses.field(default=field.default, default_factory=field.default_factory))
        for field in dataclasses.fields(kind)
        if field.init and not any(map(dataclasses.is_dataclass, typing.get_args(hints[field.name])))
    ]
    flat: Any = tyro.cli(
        dataclasses.make_dataclass(kind.__name__, simple), args=rest, prog=program, description=kind.__doc__
    )
    found = {name: getattr(flat, name) for name, _, _ in simple if name.replace("_", "-") in given}
    kind(**found, **nested)  # what the class itself refuses is refused here
    return {**found, **nested}


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
