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
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from measured import ROOT, caches, foreign, measured, passes
from operators import Mutant

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
HURRIED = 0.5  # seconds of tests for one mistake, before it gets a process of its own


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
    unseen: list[int]  # those among them whose line no test runs, or whose function cannot take them
    seconds: dict[str, float]  # of each test, the quickest first
    nearest: dict[str, str]  # of a module: the file with the most tests that run it
    modules: list[str]  # what is imported meanwhile, and not ours


class Collected:
    """Tests that are collected once, in a process of their own."""

    def __init__(self, tests: Sequence[str], paths: Sequence[str], seconds: float, memory: Path | None) -> None:
        self.tests, self.paths, self.seconds, self.memory = tests, paths, seconds, memory

    def survivors(self, mutants: Sequence[Mutant]) -> tuple[list[Mutant], Told]:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                plugin = Plugin(self.paths, mutants, writer, self.seconds, self.memory)
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
    def __init__(
        self, paths: Sequence[str], mutants: Sequence[Mutant], writer: int, limit: float, memory: Path | None
    ) -> None:
        self.paths, self.mutants, self.writer, self.limit, self.memory = paths, mutants, writer, limit, memory
        self.out = os.fdopen(os.dup(1), "w", buffering=1)

    def pytest_sessionstart(self) -> None:
        profile()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = session.items
        for path in self.paths:
            importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        self.functions = functions([str(ROOT / path) for path in self.paths])
        caches()
        self.measure()
        gc.freeze()  # a fork that collects nothing copies nothing
        gc.disable()
        tests = [self.covering(mutant) for mutant in self.mutants]
        left: list[int] = []
        for path in self.paths:
            begun, numbers = time.monotonic(), [n for n, mutant in enumerate(self.mutants) if mutant.path == path]
            doubtful = self.hurried(numbers, tests)
            left += (found := [number for number in doubtful if self.survives(self.mutants[number], tests[number])])
            words = f"{len(numbers)} mistakes in functions, {len(doubtful)} looked at twice, {len(found)} left"
            print(f"  {path}: {words}, {time.monotonic() - begun:.0f} s", file=self.out)
        times = {self.items[n].nodeid: self.seconds[n] for n in sorted(self.seconds, key=self.seconds.__getitem__)}
        with os.fdopen(self.writer, "wb") as pipe:
            pickle.dump(
                (
                    left,
                    [n for n in left if not tests[n] or not self.takes(self.mutants[n])],
                    times,
                    self.nearest(),
                    foreign(),
                ),
                pipe,
            )
        os._exit(0)

    def nearest(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self.paths:
            tests = set().union(*(tests for (place, _), tests in self.lines.items() if place == path))
            files = Counter(self.items[test].nodeid.split("::")[0] for test in tests)
            if files:
                found[path] = files.most_common(1)[0][0]
        return found

    def hurried(self, numbers: Sequence[int], tests: Sequence[Sequence[int]]) -> list[int]:
        """What survives a few tests, in one process for as many mutants as it bears."""
        left: list[int] = []
        done = 0
        while done < len(numbers):
            begin = done
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    self.work(numbers[done:], tests, writer)
                finally:
                    os._exit(0)
            os.close(writer)
            told = b""
            with os.fdopen(reader, "rb", buffering=0) as pipe:
                while done < len(numbers) and select.select([pipe], [], [], 120)[0] and (told := pipe.read(1)):
                    if told == b"a" and done > begin:  # what an earlier mistake left behind may have failed it
                        break
                    if told == b"s":
                        left.append(numbers[done])
                    done += 1
                    if told == b"a":
                        break
                else:
                    told = b""
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if done < len(numbers) and not told:  # it crashed, or hangs: alone it will show whether it is the mistake's
                print(f"    ended its process: {self.mutants[numbers[done]]}", file=self.out)
                left.append(numbers[done])
                done += 1
        return left

    def work(self, numbers: Sequence[int], tests: Sequence[Sequence[int]], writer: int) -> None:
        limit = 8 << 30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        def stop(*_: object) -> None:  # a mistake that makes a test run for ever; raised, hypothesis would try it again
            os.write(writer, b"a")
            os._exit(0)

        signal.signal(signal.SIGPROF, stop)
        signal.signal(signal.SIGALRM, stop)
        killers: dict[object, list[int]] = defaultdict(list)  # what notices one mistake in a function is likely to
        for number in numbers:  # notice the next one
            mutant = self.mutants[number]
            first = [test for test in reversed(killers[mutant.function]) if test in tests[number]][:5]
            with self.mistaken(mutant) as taken:
                tried = self.within([*first, *tests[number]], HURRIED) if taken else []
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

    def within(self, tests: Sequence[int], limit: float) -> list[int]:
        """The first of some tests, for so many seconds."""
        ends = accumulate(self.seconds[test] for test in dict.fromkeys(tests))
        return [test for test, end in zip(dict.fromkeys(tests), ends, strict=True) if end <= limit]

    def passes(self, test: int) -> bool:
        item = self.items[test]
        item.session._setupstate.teardown_exact(item)
        item._initrequest()
        signal.setitimer(signal.ITIMER_PROF, 1 + 10 * self.seconds[test])
        signal.setitimer(signal.ITIMER_REAL, 30 + 100 * self.seconds[test])  # it waits for something
        try:
            return passes(item, item.parent)  # what its neighbours share stays
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)

    def takes(self, mutant: Mutant) -> bool:
        with self.mistaken(mutant) as taken:
            return taken

    @contextlib.contextmanager
    def mistaken(self, mutant: Mutant) -> Iterator[bool]:
        """The function with the mistaken code, and those that an import made in it; False where one of them cannot take
        it, because `super`, say, has come or gone.
        """
        assert mutant.function is not None
        file = str(ROOT / mutant.path)
        wrong = next(part for part in parts(mutant.code()) if called(part) == mutant.function)
        assert self.functions[file, mutant.function], f"no such function: {mutant}"
        there = [(living, part) for part in parts(wrong) for living in self.functions.get((file, called(part)), ())]
        right = [function.__code__ for function, _ in there]
        same = all(part.co_freevars == code.co_freevars for (_, part), code in zip(there, right, strict=True))
        if not same or len({id(function) for function, _ in there}) < len(there):  # two lambdas of one line
            yield False
            return
        for function, part in there:
            function.__code__ = part.replace(co_filename=file)
        try:
            yield True
        finally:
            for (function, _), code in zip(there, right, strict=True):
                function.__code__ = code

    def measure(self) -> None:
        known, modules = measured(self.items, self.paths, self.memory)
        for name in modules:  # once for all forks
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        self.seconds: dict[int, float] = {}
        self.lines: dict[tuple[str, int], set[int]] = defaultdict(set)
        for number, item in enumerate(self.items):
            if item.nodeid not in known:
                print(f"  fails on the code as it is, and is left out: {item.nodeid}", file=self.out)
                continue
            self.seconds[number], lines = known[item.nodeid]
            for place in lines:
                self.lines[place].add(number)
        print(f"  {len(self.items)} tests, {sum(self.seconds.values()):.0f} s", file=self.out)

    def covering(self, mutant: Mutant) -> list[int]:
        """The tests that run a mistake's line: the quickest case of each test, then the second of each, and so on."""
        first, last = mutant.statement
        tests = set().union(*(self.lines.get((mutant.path, line), ()) for line in (0, *range(first, last + 1))))
        turn: Counter[str] = Counter()
        order = []
        for test in sorted(tests, key=self.seconds.__getitem__):
            name = self.items[test].nodeid.split("[")[0]
            order.append((turn[name], self.seconds[test], test))
            turn[name] += 1
        return [test for _, _, test in sorted(order)]

    def survives(self, mutant: Mutant, tests: Sequence[int]) -> bool:
        """Whether the tests that run the line pass, for so many seconds, in a process without a past."""
        tests = self.within(tests, self.limit)

        def work() -> int:
            with self.mistaken(mutant) as taken:
                items = [self.items[test] for test in tests if taken]
                following = [*items[1:], None]
                return SURVIVED if all(map(passes, items, following)) else KILLED

        needed = sum(self.seconds[test] for test in tests)
        survived = forked(work, 5 + 5 * needed, 60 + 30 * needed) == SURVIVED
        if survived:
            print(f"    ? {mutant}  ({len(tests)} tests)", file=self.out)
        return survived


def profile() -> None:
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)  # a failure need not be small
    settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=phases)
    settings.load_profile("mutants")


def functions(paths: Sequence[str]) -> dict[tuple[str, tuple[str, int]], list[FunctionType]]:
    """The living functions of some files, also those behind decorators."""
    found: dict[tuple[str, tuple[str, int]], list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename in paths:
            found[thing.__code__.co_filename, called(thing.__code__)].append(thing)
    return found


def called(code: CodeType) -> tuple[str, int]:
    return code.co_name, code.co_firstlineno


def parts(code: CodeType) -> Iterator[CodeType]:
    """A code object and all those inside of it, outer ones first."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from parts(constant)
