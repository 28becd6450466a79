"""Which test runs which line, and how long it takes."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import time
from collections.abc import Sequence
from functools import _lru_cache_wrapper, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).resolve().parents[2]
OURS = ("debias", "eval", "pruners")
Measured = dict[str, tuple[float, set[tuple[str, int]]]]  # of each test that passes: its seconds, the lines it runs


def measured(items: Sequence[pytest.Item], paths: Sequence[str], memory: Path | None) -> tuple[Measured, list[str]]:
    """The tests, and what they import that is not ours. What `memory` knows of tests is not measured again."""
    known = remembered(memory)
    new = [item for item in items if item.nodeid not in known]
    reader, writer = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump((traced(new), foreign()), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found, modules = pickle.load(pipe)
    known.update(found)
    if memory:
        run = {path for _, lines in known.values() for path, _ in lines}
        files = {*paths, *run, *(name.split("::")[0] for name in known)}
        memory.write_bytes(pickle.dumps(({file: digest(file) for file in files}, known)))
    return known, modules


def remembered(memory: Path | None) -> Measured:
    """What an earlier run measured; of a module that has changed since then only which tests run it at all."""
    if memory is None or not memory.exists():
        return {}
    before, known = pickle.loads(memory.read_bytes())
    same = {path for path, was in before.items() if digest(path) == was}
    return {
        name: (seconds, {(path, line if path in same else 0) for path, line in lines})
        for name, (seconds, lines) in known.items()
        if name.split("::")[0] in same
    }


def digest(path: str) -> str:
    file = ROOT / path
    return sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def traced(items: Sequence[pytest.Item]) -> Measured:
    if not items:  # all of them are remembered
        return {}
    from coverage import Coverage

    coverage = Coverage(data_file=None, include=[f"{ROOT}/{name}/*" for name in OURS], config_file=False)
    coverage.start()
    found: Measured = {}
    for item, following in zip(items, [*items[1:], None], strict=True):
        coverage.switch_context(item.nodeid)
        begun, clock = sum(os.times()[:4]), time.monotonic()  # with the programs that it starts
        if passes(item, following):
            # A test that waits is no quick one; but on a busy machine all of them wait.
            found[item.nodeid] = max(sum(os.times()[:4]) - begun, (time.monotonic() - clock) / 8), set()
    coverage.stop()
    data = coverage.get_data()
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            for name in found.keys() & set(contexts):
                found[name][1].add((str(Path(file).relative_to(ROOT)), line))
    return found


def passes(item: pytest.Item, following: pytest.Item | pytest.Collector | None) -> bool:
    forget()
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))


def forget() -> None:
    """Empties what our functions remember from call to call: what one test leaves there hides a line from the next."""
    for cache in caches():
        cache.cache_clear()


@lru_cache(maxsize=1)
def caches() -> list[Any]:
    found = [thing for thing in gc.get_objects() if type(thing) is _lru_cache_wrapper]
    return [cache for cache in found if str(cache.__module__).split(".")[0] in OURS]


def foreign() -> list[str]:
    """The modules that are imported and not ours, in the order they came."""
    ours = {path.stem for path in ROOT.iterdir()} | {"conftest", "__main__"}
    return [name for name in sys.modules if name.partition(".")[0] not in ours]
