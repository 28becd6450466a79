"""The methods there are and the fields that each takes, read from their files. Only `find` and `make` load torch.

The name of a file in pruners/methods is the name of the method, and this is the only list of them.
"""

from __future__ import annotations

import ast
import dataclasses
import pkgutil
import typing
from typing import TYPE_CHECKING, Any, NamedTuple

from debias import names as spelling
from pruners import methods
from pruners.arms import arms_of
from pruners.written import Class, made_from, meant, path_of

if TYPE_CHECKING:
    from pruners.base import Pruner

ROOT = "pruners.base", "Pruner"  # what the class of every method is made from


class Field(NamedTuple):
    """A field of a method, as its file writes it."""

    name: str
    annotation: str
    default: str
    module: str  # where it is written


def names() -> list[str]:
    """Every method there is."""
    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__))


def named(name: str) -> str:
    """The method that is meant by a name in any spelling ("PDrop"), or a ValueError with the nearest name."""
    known = names()
    if name in known:
        return name
    meant = {spelling.method(method): method for method in known}
    wanted = spelling.method(name) if isinstance(name, str) and name.strip(" -_") else ""
    if wanted in meant:
        return meant[wanted]
    return spelling.one_of("pruning method", name, known)


def fields(name: str) -> list[Field]:
    """The fields of a method in the order of its dataclass: those of its bases first, each with its latest default."""
    return fields_of(_class(named(name)))


def fields_of(method: Class) -> list[Field]:
    """The same for any dataclass of this package."""
    by_name: dict[str, Field | None] = {}
    for kind in reversed(method.line()):
        if not any("dataclass" in ast.unparse(decorator) for decorator in kind.node.decorator_list):
            continue  # what it annotates is no field
        for variable, annotation, value in kind.says():
            if annotation is None:
                continue
            classwide = annotation.startswith("ClassVar")  # keeps its place for a field that a subclass makes of it
            by_name[variable] = (
                None
                if classwide
                else Field(variable, annotation, "" if value is None else ast.unparse(value), kind.module)
            )
    return [field for field in by_name.values() if field is not None]


def kinds(field: Field) -> list[ast.expr | Class]:
    """What a field may hold: the members of its annotation's union, each an expression or a class of this package."""
    return _members(field.module, ast.parse(field.annotation, mode="eval").body)


def _members(module: str, part: ast.expr) -> list[ast.expr | Class]:
    if isinstance(part, ast.BinOp):
        return [*_members(module, part.left), *_members(module, part.right)]
    found = meant(module, part.id) if isinstance(part, ast.Name) else None
    if found is None or isinstance(found, Class):
        return [found or part]
    return _members(*found)  # Budget = int | float


def check_field(name: str, field: str) -> None:
    """A ValueError with the nearest field, unless the method has this field."""
    spelling.one_of(f"field of {named(name)}", field, [known.name for known in fields(name)])


def title(name: str) -> str:
    """The method's name as tables and figures show it: "FastV". It is the name of its class unless it says another."""
    return str(declared(name, "title") or _class(named(name)).node.name)


def declared(name: str, variable: str) -> Any:
    """What a method, or the nearest of its bases, sets a class variable to."""
    return _class(named(name)).declared(variable)


def arms(name: str) -> tuple[str, ...]:
    """The arms that mean something to a method."""
    return arms_of(declared(name, "reads"))


def baselines() -> list[str]:
    """The methods that look at nothing, which every table should have."""
    return [name for name in names() if declared(name, "reads") == "nothing"]


def find(name: str) -> type[Pruner]:
    """The class of a method, as pruners/methods/<name>.py defines it."""
    pruner: type[Pruner] = _class(named(name)).imported()
    return pruner


def make(name: str, **values: Any) -> Pruner:
    """A method by name: make("fastv", keep=128, layer=2)."""
    for field in values:
        check_field(name, field)
    return find(name)(**values)


def value_of(hint: Any, name: Any) -> Any:
    """The dataclass that a field may hold: of several that which is named, or else the first; None: it holds none."""
    kinds: list[Any] = [part for part in typing.get_args(hint) if dataclasses.is_dataclass(part)]
    return next((kind for kind in kinds if kind.__name__.lower() == name), kinds[0] if kinds else None)


def _class(name: str) -> Class:
    """The class that a method's file defines."""
    module = f"{methods.__name__}.{name}"
    if spelling.method(name) != name:  # trends files and the authors' code would know it by the other name
        raise ValueError(
            f"{path_of(module)}: names of methods are told apart as {spelling.method(name)!r}; call it that"
        )
    found = made_from(ROOT, module)
    if found is None:
        raise ValueError(
            f"{path_of(module)}: expected a class that is made from pruners.base.Pruner, and there is none"
        )
    return found
