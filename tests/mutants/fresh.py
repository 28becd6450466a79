"""Whole test files on a mistaken module, in processes that have imported nothing of ours before."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from types import CodeType, ModuleType
from typing import Any

import pytest
from measured import ROOT, forget
from operators import Mutant
from trials import KILLED, OPTIONS, SURVIVED, Told, forked, profile


def survivors(mutants: Sequence[Mutant], told: Told, limit: float) -> Iterator[Mutant]:
    """Those with which the tests pass in a process that has imported the mistaken module, for so many seconds.

    First come the tests of the file that is nearest to the module, then all that are left, the quickest first.
    """
    for name in told.modules:  # once for all forks
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    if mutants and not passes(None, within(told, list(told.seconds), limit)):
        raise RuntimeError("the tests fail on the code as it is, in the order of their times")
    for done, mutant in enumerate(mutants):
        if done % 50 == 0:
            print(f"  {done} of {len(mutants)} in processes of their own", flush=True)
        near = [name for name in told.seconds if name.split("::")[0] == told.nearest.get(mutant.path)]
        first = within(told, near, limit)
        rest = within(told, [name for name in told.seconds if name not in first], limit)
        if passes(mutant, first) and passes(mutant, rest):
            yield mutant


def within(told: Told, names: Sequence[str], limit: float) -> list[str]:
    ends = accumulate(told.seconds[name] for name in names)
    return [name for name, end in zip(names, ends, strict=True) if end <= limit]


def passes(mutant: Mutant | None, order: Sequence[str]) -> bool:
    return not order or forked(lambda: run(mutant, order), 120, 3000) == SURVIVED


def run(mutant: Mutant | None, order: Sequence[str]) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    if mutant:
        sys.meta_path.insert(0, Mistaken(mutant))
    files = list(dict.fromkeys(name.split("::")[0] for name in order))
    return KILLED if pytest.main(["-x", *OPTIONS, *files], plugins=[Quickest(order)]) else SURVIVED


class Quickest:
    def __init__(self, order: Sequence[str]) -> None:
        self.place = {name: place for place, name in enumerate(order)}

    def pytest_sessionstart(self) -> None:
        profile()

    def pytest_runtest_setup(self) -> None:
        forget()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda i: self.place[i.nodeid])


class Mistaken(importlib.abc.MetaPathFinder):
    """Finds one module, and gives it the mistaken code."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.module = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.module:
            return None
        file = str(ROOT / self.mutant.path)
        loader = Loader(name, file)
        loader.source = self.mutant.source()
        return importlib.util.spec_from_file_location(name, file, loader=loader)


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a text in place of a module's file, and shows it to `inspect`: some decorators read what they decorate."""

    source: str

    def get_code(self, name: str) -> CodeType:
        lines = self.source.splitlines(keepends=True)
        linecache.cache[self.path] = len(self.source), None, lines, self.path
        return compile(self.source, self.path, "exec", dont_inherit=True)
