"""The public names of debias and pruners, with their signatures, and their constants: tests/api.txt and
tests/constants.txt list them, and change only on purpose.

Meant to change? PYTHONPATH=. python tests/test_api.py writes the listings; tell what api.txt shows in the changelog.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import logging
import pkgutil
import re
import typing
from collections.abc import Mapping
from pathlib import Path

import debias
import eval
import pruners

LISTING = Path(__file__).with_name("api.txt")
CONSTANTS = LISTING.with_name("constants.txt")
PACKAGES = ("debias", "pruners", "pruners.models")  # public is what their __all__ names
MODULES = {  # public modules, and what of them is
    "debias.names": ("ARMS", "BENCHMARKS", "arm", "benchmark", "method"),
    "debias.padding": ("RULES", "canvas_fraction", "fraction", "sampled"),
    "debias.fitting.settle": ("DRAWS", "LEAST_R2", "NONE", "Settled", "none", "resampled", "settle"),
    "debias.trends": ("EVERY", "describe", "dump", "find", "load", "make", "mean", "parse"),
    "pruners.catalogue": ("check_field", "declared", "fields", "find", "make", "named", "names", "title"),
    "pruners.engine.prefix": ("Prefix",),
    "pruners.engine.trace": ("Trace",),
    "pruners.view": ("Patches", "View", "VisionView"),
}
PLAIN = (str, int, float, tuple)


class Bare(str):
    """Text that stands in a signature without quotes."""

    __repr__ = str.__str__


def signature(thing):
    """The signature with annotations as they are written."""

    def bare(annotation):
        return Bare(annotation) if isinstance(annotation, str) else annotation

    found = inspect.signature(thing)
    parameters = [
        p.replace(
            annotation=bare(p.annotation), default=Bare(p.default.name) if isinstance(p.default, Path) else p.default
        )
        for p in found.parameters.values()
    ]
    return str(found.replace(parameters=parameters, return_annotation=bare(found.return_annotation)))


def members(kind):
    """Every public member that our own code defines; of a method only those that not every method has."""
    bases = [base for base in reversed(kind.__mro__) if base.__module__.split(".")[0] in ("debias", "pruners")]
    found = {name: value for base in bases for name, value in vars(base).items()}
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    common = set(dir(pruners.Pruner)) if issubclass(kind, pruners.Pruner) and kind is not pruners.Pruner else set()
    for name, value in sorted(found.items()):
        if (name == "__call__" or not name.startswith("_")) and name not in fields | common:
            yield name, value


def described(path, thing):
    """The lines of one public name."""
    if inspect.isclass(thing):
        yield f"{path}{signature(thing)}"
        for name, value in members(thing):
            if isinstance(value, (property, functools.cached_property)):
                getter = value.fget if isinstance(value, property) else value.func
                yield f"{path}.{name}: {getter.__annotations__['return']}"
            elif isinstance(value, PLAIN):
                yield f"{path}.{name} = {value!r}"
            elif callable(value) or isinstance(value, (classmethod, staticmethod)):
                yield f"{path}.{name}{signature(getattr(thing, name))}"
    elif callable(thing):
        yield f"{path}{signature(thing)}"
    elif isinstance(thing, PLAIN):
        yield f"{path} = {thing!r}"


def listing():
    packages = {name: importlib.import_module(name).__all__ for name in PACKAGES}
    methods = {f"pruners.methods.{name}": (pruners.find(name).__name__,) for name in pruners.names()}
    lines = [
        line
        for module, names in {**packages, **MODULES, **methods}.items()
        for name in names
        for line in described(f"{module}.{name}", getattr(importlib.import_module(module), name))
    ]
    return "".join(f"{line}\n" for line in lines)


def assigned(source):
    """The names that a module gives a value outside of functions; not private ones, nor what is filled later."""
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and ast.unparse(node.value) != "{}":
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            yield from (name for name in names if not name.startswith("_"))


def plain(value):
    if isinstance(value, (list, tuple)):
        return all(map(plain, value))
    if isinstance(value, Mapping):
        return all(map(plain, [*value, *value.values()]))
    return isinstance(value, (str, int, float)) or typing.get_origin(value) is typing.Literal


def defaults(thing):
    """The defaults of a function, None left out."""
    if inspect.isfunction(thing := inspect.unwrap(getattr(thing, "__func__", thing))):
        parameters = inspect.signature(thing).parameters.values()
        return ", ".join(f"{p.name}={p.default!r}" for p in parameters if plain(p.default))
    return ""


def constants():
    """What is decided outside of functions: constants, what classes declare, which are frozen, functions' defaults."""
    homes = [(package.__path__, f"{package.__name__}.") for package in (debias, pruners)]
    for found in (module for home in homes for module in pkgutil.walk_packages(*home)):
        if found.name == "pruners.engine.fused":  # it needs triton
            continue
        module = importlib.import_module(found.name)
        for name in assigned(inspect.getsource(module)):
            value = getattr(module, name)
            value = value.name if isinstance(value, logging.Logger) else value
            if plain(value):
                yield f"{found.name}.{name} = {value!r}"
        for thing in vars(module).values():
            if getattr(thing, "__module__", "") != found.name or not hasattr(thing, "__name__"):
                continue
            if values := defaults(thing):
                yield f"{found.name}.{thing.__name__}({values})"
            if dataclasses.is_dataclass(thing) and thing.__dataclass_params__.frozen:
                yield f"{found.name}.{thing.__name__}: frozen"
            for name, value in vars(thing).items() if inspect.isclass(thing) else ():
                if name.startswith("__"):
                    continue
                if plain(value) and not name.startswith("_"):
                    yield f"{found.name}.{thing.__name__}.{name} = {value!r}"
                elif (values := defaults(value)) and getattr(value, "__module__", "") == found.name:
                    yield f"{found.name}.{thing.__name__}.{name}({values})"


def test_the_constants_are_those_of_the_listing():
    assert "\n".join(constants()) + "\n" == CONSTANTS.read_text(encoding="utf-8"), f"constants changed. {__doc__}"


def test_the_public_names_are_those_of_the_listing():
    assert listing() == LISTING.read_text(encoding="utf-8"), f"public names or signatures changed. {__doc__}"


def test_what_a_package_names_as_public_is_sorted_and_there():
    for name in (*PACKAGES, "debias.trends"):
        module = importlib.import_module(name)
        assert sorted(module.__all__) == list(module.__all__), name
        assert all(hasattr(module, entry) for entry in module.__all__), name


PAGE = LISTING.parents[1] / "docs" / "api.md"
USED = (*PACKAGES, "eval")


def test_every_public_name_stands_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    for name in USED:
        module = importlib.import_module(name)
        for entry in module.__all__:
            if not inspect.ismodule(getattr(module, entry)):
                assert f"\n::: {name}.{entry}\n" in page, f"{PAGE.name} leaves out {name}.{entry}"


def test_everything_on_the_page_says_what_it_is():
    """Classes, functions, methods and properties have docstrings; fields have a docstring's line or a comment."""
    for path in re.findall(r"(?m)^::: ([\w.]+)$", PAGE.read_text(encoding="utf-8")):
        module, _, name = path.rpartition(".")
        thing = getattr(importlib.import_module(module), name)
        assert thing.__doc__, path
        for kind in thing.__mro__ if inspect.isclass(thing) else ():
            own = kind.__module__.split(".")[0] in ("debias", "pruners", "eval")
            for member, value in vars(kind).items() if own else ():
                value = getattr(value, "func", getattr(value, "fget", getattr(value, "__func__", value)))
                if inspect.isfunction(value) and not member.startswith("_"):
                    assert value.__doc__, f"{path}.{member}"


def test_every_setting_says_what_it_is():
    source = inspect.getsource(importlib.import_module("eval.core.settings"))
    for kind in (eval.Settings, eval.JudgeSettings):
        for field in dataclasses.fields(kind):
            said = field.metadata.get("help") or re.search(rf"(?m)^    {field.name}: .*  # \w", source)
            assert said, f"{kind.__name__}.{field.name}"


if __name__ == "__main__":
    LISTING.write_text(listing(), encoding="utf-8")
    CONSTANTS.write_text("\n".join(constants()) + "\n", encoding="utf-8")
