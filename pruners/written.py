"""Classes of this package, read from their files and not imported: what they say of themselves loads no torch."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple


class Class(NamedTuple):
    """A class of this package that was read and not imported."""

    module: str
    node: ast.ClassDef

    def line(self) -> list[Class]:
        """The class and those of its bases that this package defines, nearest first."""
        line = [self]
        for base in self.node.bases:
            parent = meant(self.module, base.id) if isinstance(base, ast.Name) else None
            if isinstance(parent, Class):
                line += parent.line()
        return line

    def says(self) -> Iterator[tuple[str, str | None, ast.expr | None]]:
        """(name, annotation, value) of everything that the class sets."""
        for node in self.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, ast.unparse(node.annotation), node.value
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                yield node.targets[0].id, None, node.value

    def declared(self, variable: str) -> Any:
        """What the class, or the nearest of its bases, sets a variable to."""
        for kind in self.line():
            for said, _, value in kind.says():
                if said == variable and value is not None:
                    return ast.literal_eval(value)
        raise ValueError(f"{self.node.name} says nothing of {variable!r}")

    def imported(self) -> Any:
        """The class itself."""
        return getattr(importlib.import_module(self.module), self.node.name)


def made_from(root: tuple[str, str], module: str) -> Class | None:
    """The first class of a module that is made from another one, which its module and its name say."""
    path = path_of(module)
    for node in _parsed(path, path.stat().st_mtime_ns).body:
        if isinstance(node, ast.ClassDef):
            found = Class(module, node)
            if root in {(kind.module, kind.node.name) for kind in found.line()[1:]}:
                return found
    return None


def meant(module: str, name: str) -> Class | tuple[str, ast.expr] | None:
    """The class, or the module and the expression, that a name stands for in a module of this package."""
    path = path_of(module)
    found = _names(path, path.stat().st_mtime_ns).get(name)
    if isinstance(found, ast.ClassDef):
        return Class(module, found)
    if isinstance(found, tuple):
        return meant(*found)
    return None if found is None else (module, found)


def path_of(module: str) -> Path:
    """The file of a module. Methods and families may lie in any folder of their package's path."""
    package, _, last = module.rpartition(".")
    loaded = sys.modules.get(package)
    folders = loaded.__path__ if loaded is not None else [Path(__file__).parent.joinpath(*package.split(".")[1:])]
    places = [Path(folder, *([last] if package else [])) for folder in folders]
    return next(
        path for place in places for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()
    )


@lru_cache(maxsize=128)
def _parsed(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@lru_cache(maxsize=128)
def _names(path: Path, changed: int) -> dict[str, ast.expr | ast.ClassDef | tuple[str, str]]:
    """What the names of a file stand for: a class, an expression, or a name of another module of this package."""
    found: dict[str, ast.expr | ast.ClassDef | tuple[str, str]] = {}
    for node in ast.walk(_parsed(path, changed)):
        if isinstance(node, ast.ClassDef):
            found.setdefault(node.name, node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, node.value)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pruners":
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, (node.module, alias.name))
    return found
