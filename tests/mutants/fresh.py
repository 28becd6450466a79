"""Whole test files on a mistaken module, in processes that have imported nothing of ours before."""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import os
import sys
from collections import defaultdict
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

    First come tests that have noticed the module's other mistakes, then those of the file that is nearest to it, then
    all that are left, the quickest first.
    """
    for name in told.modules:  # once for all forks
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    order = list(told.seconds)
    if mutants and noticed(None, within(told, order, limit)) is not None:
        raise RuntimeError("the tests fail on the code as it is, in the order of their times")
    killers: dict[str, list[str]] = defaultdict(list)
    for done, mutant in enumerate(mutants):
        if done % 50 == 0:
            print(f"  {done} of {len(mutants)} in processes of their own", flush=True)
        known = killers[mutant.path]
        first = known[-3:]
        near = within(told, [name for name in order if name.split("::")[0] == told.nearest.get(mutant.path)], limit)
        rest = within(told, [name for name in order if name not in near], limit)
        killer = next((name for part in (first, near, rest) if (name := noticed(mutant, part)) is not None), None)
        if killer is None:
            yield mutant
        elif killer:
            known[:] = [*(name for name in known if name != killer), killer]


def within(told: Told, names: Sequence[str], limit: float) -> list[str]:
    ends = accumulate(told.seconds[name] for name in names)
    return [name for name, end in zip(names, ends, strict=True) if end <= limit]


def noticed(mutant: Mutant | None, order: Sequence[str]) -> str | None:
    """The first of some tests that fails on a mistake, None where all pass; "": not even a test began, or it hung."""
    if not order:
        return None
    reader, writer = os.pipe()
    status = forked(lambda: run(mutant, order, writer), 120, 3000)
    os.close(writer)
    with os.fdopen(reader, "r") as pipe:
        return None if status == SURVIVED else pipe.readline().rstrip("\n")


def run(mutant: Mutant | None, order: Sequence[str], writer: int) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    if mutant:
        sys.meta_path.insert(0, Mistaken(mutant))
    files = list(dict.fromkeys(name.split("::")[0] for name in order))
    return KILLED if pytest.main(["-x", *OPTIONS, *files], plugins=[Quickest(order, writer)]) else SURVIVED


class Quickest:
    """Puts the tests in their order, and tells which has failed."""

    def __init__(self, order: Sequence[str], writer: int) -> None:
        self.place, self.writer = {name: place for place, name in enumerate(order)}, writer

    def pytest_sessionstart(self) -> None:
        profile()

    def pytest_runtest_setup(self) -> None:
        forget()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self.writer, f"{report.nodeid}\n".encode())

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
