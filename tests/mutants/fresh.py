"""Whole test files on a mistaken module, in processes that have imported nothing of ours before."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from operators import Mutant
from trials import KILLED, OPTIONS, SURVIVED, forget, forked, profile

ROOT = Path(__file__).resolve().parents[2]


def survives(mutant: Mutant, order: Sequence[str]) -> bool:
    """Whether all tests pass in a process that has imported the mistaken module; the quickest are tried first."""
    return forked(lambda: run(mutant, order), 120, 3000) == SURVIVED


def run(mutant: Mutant, order: Sequence[str]) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
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
        loader.code = self.mutant.code()
        return importlib.util.spec_from_file_location(name, file, loader=loader)


class Loader(importlib.machinery.SourceFileLoader):
    code: CodeType

    def get_code(self, name: str) -> CodeType:
        return self.code
