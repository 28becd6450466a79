"""Tests on mistaken functions, in forks of a process that has collected them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import resource
import select
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import _lru_cache_wrapper, lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from operators import Mutant

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "-p",
    "no:randomly",
    "-o",
    "tmp_path_retention_policy=none",
)
KILLED, SURVIVED = 1, 0


def forked(work: Callable[[], int], seconds: float, wall: float) -> int:
    """The exit status of `work` in a fork, which ends after so many seconds of the processor, or of the clock."""
    child = os.fork()
    if child == 0:
        status = KILLED
        try:
            os.setpgid(0, 0)
            gc.enable()
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, wall)
            status = work()
        finally:
            os._exit(status)
    _, how = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(how)


@dataclass(frozen=True)
class Told:
    """What the process that has collected the tests tells about them."""

    left: list[int]  # numbers of the mistakes that no test has noticed
    order: list[str]  # names of the tests, the quickest first
    nearest: dict[str, str]  # of a module: the file with the most tests that run it
    modules: list[str]  # what is imported meanwhile, and not ours


class Collected:
    """Tests that are collected once, in a process of their own."""

    def __init__(self, tests: Sequence[str], paths: Sequence[str]) -> None:
        self.tests, self.paths = tests, paths

    def survivors(self, mutants: Sequence[Mutant]) -> tuple[list[Mutant], Told]:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                plugin = Plugin(self.paths, mutants, writer)
                pytest.main([*OPTIONS, *self.tests], plugins=[plugin])
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            words = pipe.read()
        os.waitpid(child, 0)
        assert words, "the tests could not be collected"
        told = Told(*pickle.loads(words))
        return [mutants[number] for number in told.left], told


class Plugin:
    def __init__(self, paths: Sequence[str], mutants: Sequence[Mutant], writer: int) -> None:
        self.paths, self.mutants, self.writer = paths, mutants, writer
        self.out = os.fdopen(os.dup(1), "w", buffering=1)

    def pytest_sessionstart(self) -> None:
        profile()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = session.items
        for path in self.paths:
            importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        self.functions = functions([str(ROOT / path) for path in self.paths])
        caches()
        gc.freeze()  # a fork that collects nothing copies nothing
        gc.disable()
        self.measure()
        tests = [self.covering(mutant) for mutant in self.mutants]
        left = [number for number in self.hurried(tests) if self.survives(self.mutants[number], tests[number])]
        order = [self.items[number].nodeid for number in sorted(self.seconds, key=self.seconds.__getitem__)]
        with os.fdopen(self.writer, "wb") as pipe:
            pickle.dump((left, order, self.nearest(), foreign()), pipe)
        os._exit(0)

    def nearest(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self.paths:
            tests = set().union(*(tests for (place, _), tests in self.lines.items() if place == path))
            files = Counter(self.items[test].nodeid.split("::")[0] for test in tests)
            if files:
                found[path] = files.most_common(1)[0][0]
        return found

    def hurried(self, tests: Sequence[Sequence[int]]) -> list[int]:
        """What survives the quickest tests, in one process for as many mutants as it bears."""
        left: list[int] = []
        done = 0
        while done < len(tests):
            begin = done
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    self.work(tests, done, writer)
                finally:
                    os._exit(0)
            os.close(writer)
            told = b""
            with os.fdopen(reader, "rb", buffering=0) as pipe:
                while done < len(tests) and select.select([pipe], [], [], 120)[0] and (told := pipe.read(1)):
                    if told == b"a" and done > begin:  # what an earlier mistake left behind may have failed it
                        break
                    if told == b"s":
                        left.append(done)
                    done += 1
                    if told == b"a":
                        break
                    if done % 200 == 0:
                        print(f"  {done} of {len(tests)}, {len(left)} for a second look", file=self.out)
                else:
                    told = b""
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if (
                done < len(tests) and not told
            ):  # it has crashed, or hangs: alone it will show whether it is the mistake's
                print(f"    ended its process: {self.mutants[done]}", file=self.out)
                left.append(done)
                done += 1
            print(f"  {done} of {len(tests)}, {len(left)} for a second look", file=self.out)
        return left

    def work(self, tests: Sequence[Sequence[int]], begin: int, writer: int) -> None:
        limit = 8 << 30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGPROF, stop)
        signal.signal(signal.SIGALRM, stop)
        killers: dict[object, list[int]] = defaultdict(list)  # what notices one mistake in a function is likely to
        for number in range(begin, len(tests)):  # notice the next one
            mutant = self.mutants[number]
            first = [test for test in reversed(killers[mutant.function]) if test in tests[number]][:5]
            quick = [test for test in tests[number] if self.seconds[test] < 0.1]
            with self.mistaken(mutant) as taken:
                tried = dict.fromkeys([*first, *quick] if taken else [])
                killer = next((test for test in tried if not self.passes(test)), None)
            if killer is not None and not self.passes(killer):  # it left something behind: again, in a new process
                os.write(writer, b"a")
                return
            if killer is not None:
                known = killers[mutant.function]
                if killer in known:
                    known.remove(killer)
                known.append(killer)
            os.write(writer, b"s" if killer is None else b"k")

    def passes(self, test: int) -> bool:
        item = self.items[test]
        item.session._setupstate.teardown_exact(item)
        item._initrequest()
        signal.setitimer(signal.ITIMER_PROF, 2 + 10 * self.seconds[test])
        signal.setitimer(signal.ITIMER_REAL, 30 + 100 * self.seconds[test])  # it waits for something
        try:
            return passes(item, item.parent)  # what its neighbours share stays
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def mistaken(self, mutant: Mutant) -> Iterator[bool]:
        """The function with the mistaken code; False where it cannot take it, because `super` has come or gone."""
        assert mutant.function is not None
        wrong = next(part for part in parts(mutant.code()) if (part.co_name, part.co_firstlineno) == mutant.function)
        there = self.functions[str(ROOT / mutant.path), mutant.function]
        assert there, f"no such function: {mutant}"
        right = there[0].__code__
        if wrong.co_freevars != right.co_freevars:
            yield False
            return
        for function in there:
            function.__code__ = wrong.replace(co_filename=right.co_filename)
        try:
            yield True
        finally:
            for function in there:
                function.__code__ = right

    def measure(self) -> None:
        """Which test runs which line, and how long it takes."""
        reader, writer = os.pipe()
        if os.fork() == 0:
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(self.traced(), pipe)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            self.lines, self.seconds, failed = pickle.load(pipe)
        for number in failed:
            del self.seconds[number]
            print(f"  fails on the code as it is, and is left out: {self.items[number].nodeid}", file=self.out)
        print(f"  {len(self.items)} tests, {sum(self.seconds.values()):.0f} s", file=self.out)

    def traced(self) -> tuple[dict[tuple[str, int], set[int]], dict[int, float], list[int]]:
        from coverage import Coverage

        coverage = Coverage(data_file=None, include=[str(ROOT / path) for path in self.paths], config_file=False)
        coverage.start()
        seconds, failed = {}, []
        for number, item in enumerate(self.items):
            coverage.switch_context(str(number))
            begun, clock = sum(os.times()[:4]), time.monotonic()  # with the programs that it starts
            if not passes(item, self.items[number + 1] if number + 1 < len(self.items) else None):
                failed.append(number)
            # A test that waits is no quick one; but on a busy machine all of them wait.
            seconds[number] = max(sum(os.times()[:4]) - begun, (time.monotonic() - clock) / 8)
        coverage.stop()
        data = coverage.get_data()
        lines: dict[tuple[str, int], set[int]] = defaultdict(set)
        for path in self.paths:
            for line, contexts in data.contexts_by_lineno(str(ROOT / path)).items():
                lines[path, line] = {int(name) for name in contexts if name} - set(failed)
        return dict(lines), seconds, failed

    def covering(self, mutant: Mutant) -> list[int]:
        first, last = mutant.statement
        tests = set().union(*(self.lines.get((mutant.path, line), ()) for line in range(first, last + 1)))
        return sorted(tests, key=self.seconds.__getitem__)

    def survives(self, mutant: Mutant, tests: Sequence[int]) -> bool:
        """Whether every test that runs the line passes, in a process without a past."""

        def work() -> int:
            with self.mistaken(mutant) as taken:
                items = [self.items[test] for test in reversed(tests) if taken]  # the slow ones are new to it
                following = [*items[1:], None]
                return SURVIVED if all(map(passes, items, following)) else KILLED

        needed = sum(self.seconds[test] for test in tests)
        survived = forked(work, 5 + 5 * needed, 60 + 30 * needed) == SURVIVED
        if survived:
            print(f"    ? {mutant}  ({len(tests)} tests)", file=self.out)
        return survived


class Slow(BaseException):
    """A mistake that makes a test run for ever."""


def stop(*_: object) -> None:
    raise Slow


def profile() -> None:
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)  # a failure need not be small
    settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=phases)
    settings.load_profile("mutants")


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
    return [cache for cache in found if str(cache.__module__).split(".")[0] in ("debias", "eval", "pruners")]


def foreign() -> list[str]:
    """The modules that are imported and not ours, in the order they came."""
    ours = {path.stem for path in ROOT.iterdir()} | {"conftest", "__main__"}
    return [name for name in sys.modules if name.partition(".")[0] not in ours]


def functions(paths: Sequence[str]) -> dict[tuple[str, tuple[str, int]], list[FunctionType]]:
    """The living functions of some files, also those behind decorators."""
    found: dict[tuple[str, tuple[str, int]], list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename in paths:
            code = thing.__code__
            found[code.co_filename, (code.co_name, code.co_firstlineno)].append(thing)
    return found


def parts(code: CodeType) -> Iterator[CodeType]:
    """A code object and all those inside of it, outer ones first."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from parts(constant)
