"""The methods there are and the fields that each takes, read from their files. Only `find` and `make` load torch.

The name of a file in pruners/methods is the name of the method, and this is the only list of them.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from debias import names as spelling
from pruners import methods
from pruners.arms import arms_of
from pruners.checks import check_word

if TYPE_CHECKING:
    from pruners.base import Pruner

ROOT = "pruners.base", "Pruner"  # what the class of every method is made from


class Field(NamedTuple):
    """A field of a method, as its file writes it."""

    name: str
    annotation: str
    default: str
    module: str  # where it is written


class Class(NamedTuple):
    """A class of this package that was read and not imported."""

    module: str
    node: ast.ClassDef


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
    for kind in reversed(_line(*method)):
        if not any("dataclass" in ast.unparse(decorator) for decorator in kind.node.decorator_list):
            continue  # what it annotates is no field
        for variable, annotation, value in _said(kind):
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
    meant = _meant(module, part.id) if isinstance(part, ast.Name) else None
    if meant is None or isinstance(meant, Class):
        return [meant or part]
    return _members(*meant)  # Budget = int | float


def check_field(name: str, field: str) -> None:
    """A ValueError with the nearest field, unless the method has this field."""
    check_word(f"field of {named(name)}", field, [known.name for known in fields(name)])


def title(name: str) -> str:
    """The name of a method's class, as tables show it: "FastV"."""
    return _class(named(name)).node.name


def declared(name: str, variable: str) -> Any:
    """What a method, or the nearest of its bases, sets a class variable to."""
    for kind in _line(*_class(named(name))):
        for said, _, value in _said(kind):
            if said == variable and value is not None:
                return ast.literal_eval(value)
    raise ValueError(f"{title(name)} says nothing of {variable!r}")


def arms(name: str) -> tuple[str, ...]:
    """The arms that mean something to a method."""
    return arms_of(declared(name, "reads"))


def baselines() -> list[str]:
    """The methods that look at nothing, which every table should have."""
    return [name for name in names() if declared(name, "reads") == "nothing"]


def find(name: str) -> type[Pruner]:
    """The class of a method, as pruners/methods/<name>.py defines it."""
    kind = _class(named(name))
    pruner: type[Pruner] = getattr(importlib.import_module(kind.module), kind.node.name)
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
        raise ValueError(f"{_path(module)}: names of methods are told apart as {spelling.method(name)!r}; call it that")
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and ROOT in {(kind.module, kind.node.name) for kind in _line(module, node)}:
            return Class(module, node)
    raise ValueError(f"{_path(module)}: expected a class that is made from pruners.base.Pruner, and there is none")


def _said(kind: Class) -> Iterator[tuple[str, str | None, ast.expr | None]]:
    """(name, annotation, value) of everything that a class sets."""
    for node in kind.node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.annotation), node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, None, node.value


def _line(module: str, node: ast.ClassDef) -> list[Class]:
    """A class and the bases of it that this package defines, nearest first."""
    line = [Class(module, node)]
    for base in node.bases:
        parent = _resolved(module, base.id) if isinstance(base, ast.Name) else None
        if parent is not None:
            line += _line(*parent)
    return line


def _resolved(module: str, name: str) -> Class | None:
    """The class that a name stands for in a module of this package."""
    meant = _meant(module, name)
    return meant if isinstance(meant, Class) else None


def _meant(module: str, name: str) -> Class | tuple[str, ast.expr] | None:
    """The class, or the module and the expression, that a name stands for in a module of this package."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Class(module, node)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return module, node.value
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pruners":
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _meant(node.module, alias.name)
    return None


def _tree(module: str) -> ast.Module:
    path = _path(module)
    return _parsed(path, path.stat().st_mtime_ns)


def _path(module: str) -> Path:
    return next(path for path in _places(module) if path.is_file())


def _places(module: str) -> Iterator[Path]:
    """Where the file of a module may lie. Methods may lie in any folder of their package's path."""
    parts = module.split(".")[1:]
    if parts[:1] == ["methods"]:
        yield from (Path(folder, *parts[1:]).with_suffix(".py") for folder in methods.__path__)
    here = Path(__file__).parent.joinpath(*parts)
    yield from (here.with_suffix(".py"), here / "__init__.py")


@lru_cache(maxsize=64)
def _parsed(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
