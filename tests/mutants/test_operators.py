"""The mistakes are the ones that are meant, and each is undone once it is compiled."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("operators.py")
SOURCE = '''
"""A module."""
from functools import lru_cache
from typing import TypeVar
LIMIT = 3
T = TypeVar("T", bound="int")

@lru_cache(maxsize=4)
def clipped(x: int = 0, *, low: bool = False) -> int:
    """Between 0 and LIMIT."""
    assert x != "no", "words"
    if x > LIMIT:
        raise ValueError(f"{x} is more than {LIMIT}")
    return max(x, 0) if low else x
'''


@pytest.fixture(scope="module")
def operators():
    spec = importlib.util.spec_from_file_location("operators_of_mutants", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_mistake_of_a_small_module(operators):
    found = [(m.where, m.before, m.after, m.function) for m in operators.mutants("small.py", SOURCE)]
    inside = ("clipped", 8)
    assert found == [
        ("module", "3", "4", None),
        ("module", "0", "1", None),
        ("module", "False", "True", None),
        ("clipped", "x > LIMIT", "x >= LIMIT", inside),
        ("clipped", "raise ValueError(f'{x} is more than {LIMIT}')", "pass", inside),
        ("clipped", "return max(x, 0) if low else x", "return None", inside),
        ("clipped", "max(x, 0) if low else x", "max(x, 0) if not low else x", inside),
        ("clipped", "max", "min", inside),
        ("clipped", "0", "1", inside),
    ]


def test_a_mistake_is_compiled_and_undone(operators):
    found = operators.mutants("small.py", SOURCE)
    right = ast.dump(found[0].tree)
    answers = []
    for mutant in found:
        names = {}
        exec(mutant.code(), names)
        answers.append([names["clipped"](x, low=True) for x in (-1, 2)] if mutant.where == "clipped" else None)
        assert ast.dump(mutant.tree) == right
    assert answers[3:] == [[0, 2], [0, 2], [None, None], [-1, 2], [-1, 0], [1, 2]]


def test_a_number_keeps_its_minus_and_stable_is_left_alone(operators):
    found = operators.mutants("small.py", "def last(x):\n    x.sort(-1, stable=True, descending=True)")
    assert [(m.before, m.after) for m in found] == [
        ("x.sort(-1, stable=True, descending=True)", "pass"),
        ("x.sort(-1, stable=True, descending=True)", "x.sort(-1, stable=True)"),
        ("-1", "0"),
        ("True", "False"),
    ]


READING = """
import inspect

def jit(function):
    names = {}
    exec(inspect.getsource(function).removeprefix("@jit"), names)
    return names["twice"]

@jit
def twice(x):
    return 2 * x
"""


def test_a_mistake_is_what_a_decorator_reads_and_runs(operators, tmp_path, monkeypatch):
    """As triton.jit does: the code of the function itself is never run, so that its process imports the mistake."""
    monkeypatch.syspath_prepend(FILE.parent)
    fresh = importlib.import_module("fresh")
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    (tmp_path / "small.py").write_text(READING, encoding="utf-8")
    answers = {}
    for mutant in operators.mutants("small.py", READING):
        if mutant.where == "twice":
            assert mutant.function is None
            spec = fresh.Mistaken(mutant).find_spec("small", None)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            answers[mutant.after] = module.twice(3)
    assert answers == {"return None": None, "2 / x": 2 / 3, "3": 9}


def test_a_package_that_is_not_installed_is_named(operators):
    for source, name in (
        ("import torch\nfrom os import path\nfrom . import small", ""),
        ("def late():\n    import nowhere", ""),
        ("import torch, nowhere.at.all", "nowhere"),
        ("from nowhere.at import all", "nowhere"),
    ):
        assert operators.lacking(ast.parse(source)) == name


def test_nothing_is_measured_where_all_tests_are_remembered():
    spec = importlib.util.spec_from_file_location("measured_of_mutants", FILE.with_name("measured.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.traced([]) == {}


def test_every_mistake_that_is_let_go_is_one(operators):
    """A line about code that has changed would let another mistake go."""
    root, lines = FILE.parents[2], FILE.with_name("equivalent.txt").read_text(encoding="utf-8").splitlines()
    named = [name for line in lines if line and not line.startswith("#") for name, _ in operators.listed(line)]
    sources = {name.split(" ", 1)[0] for name in named}
    known = {m.name for path in sources for m in operators.mutants(path, (root / path).read_text(encoding="utf-8"))}
    assert [name for name in named if name not in known] == []
    assert len(named) == len(set(named)) > 20


def test_mistakes_of_one_name_are_counted_and_listed_by_their_numbers(operators):
    found = operators.mutants("small.py", "def f(x):\n    return (x + 1) * (1 - x)")
    names = [mutant.name for mutant in found if mutant.before == "1"]
    assert names == ["small.py f: 1 -> 2 #1", "small.py f: 1 -> 2 #2"]
    assert operators.listed(f"{names[1]} | Why.") == [(names[1], "Why.")]
    assert operators.listed("small.py f: 1 -> 2 #1,2 | Why.") == [(name, "Why.") for name in names]
    assert operators.listed("small.py module: 'int | None' -> 'XX #1XX' | Why.") == [
        ("small.py module: 'int | None' -> 'XX #1XX'", "Why.")
    ]
