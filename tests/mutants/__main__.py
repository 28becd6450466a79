"""Puts small mistakes into the code, one at a time, and looks for one that no test notices.

python tests/mutants                        debias/, pruners/ and everything that scores
python tests/mutants debias/span.py         some modules
python tests/mutants --only pruners         one of the groups: debias, pruners, benchmarks, scorers
python tests/mutants --since HEAD~1         only lines that have changed since a commit
python tests/mutants --only pruners --tests tests/pruners/parts/test_mis.py pruners/parts/mis.py    on some tests
python tests/mutants --only pruners --again LOG         only what survived an earlier run, whose output is in LOG
python tests/mutants --outside pruners/cut.py    only mistakes outside of functions; --quick: only those in them
python tests/mutants --list debias/span.py  the mistakes themselves, also with the flags above

No file is changed. A mistake inside a function is put into the running process: the tests are collected once, and the
function gets the mistaken code. The tests that run its line are tried, each test's quickest case first, for half a
second; what survives that gets a fork and --seconds of tests. Mistakes outside of functions, in functions that only an
import runs, and in kernels, whose source triton reads, get a process that imports the mistaken module; the tests that
have noticed its other mistakes are tried first. equivalent.txt lists the mistakes that change nothing, with the reason;
they are not tried.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
sys.path[0] = str(ROOT)
sys.path.insert(1, str(HERE))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import fresh  # noqa: E402
from operators import Mutant, lacking, listed, mutants  # noqa: E402
from trials import Collected  # noqa: E402

# What is tested, and by which tests.
SCORERS = {
    "normalise": "scoring", "box": "scoring", "statistics": "scoring", "judge": "scoring",
    "score": "commands", "fields": "core", "read": "reading", "sample": "reading",
}  # fmt: skip
GROUPS = {
    "debias": (["debias/**/*.py"], ["tests/debias", "tests/test_api.py"]),
    "pruners": (
        ["pruners/**/*.py"],
        ["tests/pruners", "tests/faults/test_models.py", "tests/faults/test_media.py", "tests/test_readme.py",
         "tests/test_api.py"],
    ),
    "benchmarks": (["eval/benchmarks/*.py"], ["tests/eval/benchmarks", "tests/eval/scoring/test_score.py"]),
    "scorers": (
        [f"eval/{room}/{name}.py" for name, room in SCORERS.items()],
        ["tests/eval/benchmarks", "tests/eval/scoring", "tests/eval/core/test_fields.py",
         "tests/eval/reading/test_read.py", "tests/eval/reading/test_sample.py",
         "tests/faults/test_parsers.py", "tests/faults/test_large.py", "tests/faults/test_judges.py"],
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="modules by path; all of debias/, pruners/ and the scorers without")
    parser.add_argument("--only", help=f"some of the groups, with commas: {', '.join(GROUPS)}")
    parser.add_argument("--since", metavar="COMMIT", help="only mistakes in lines that have changed since a commit")
    parser.add_argument("--tests", help="only these test files, with commas; others may notice what survives them")
    parser.add_argument("--again", metavar="LOG", help="only mistakes that the output of an earlier run names")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of tests for one mistake, at most (default %(default)g)"
    )
    parser.add_argument(
        "--memory", type=Path, metavar="FILE", help="keep there which test runs which line, for later runs"
    )
    parser.add_argument("--list", action="store_true", help="list the mistakes and stop")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--quick", action="store_true", help="pass over mistakes outside of functions")
    part.add_argument("--outside", action="store_true", help="pass over mistakes in functions")
    parser.add_argument("--known", action="store_true", help="try what equivalent.txt lists as well")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else list(GROUPS)
    if unknown := [name for name in only if name not in GROUPS]:
        parser.error(f"no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    if args.tests:
        GROUPS.update({name: (GROUPS[name][0], args.tests.split(",")) for name in only})
    found = {group: chosen(group, args) for group in only}
    if args.list:
        print(*(mutant for mutants in found.values() for mutant in mutants), sep="\n")
        return 0
    groups = [group for group in only if found[group]]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("fork")) as pool:
        counts = list(pool.map(tried, groups, repeat(args)))
    total = sum(counts, Counter())
    print(", ".join(f"{count} {what}" for what, count in total.items()))
    return 1 if total["left"] else 0


def chosen(group: str, args: argparse.Namespace) -> list[Mutant]:
    paths = {str(path.relative_to(ROOT)) for pattern in GROUPS[group][0] for path in ROOT.glob(pattern)}
    named = None if args.again is None else names_in(Path(args.again).read_text(encoding="utf-8"))
    found = []
    for path in sorted(paths if not args.modules else paths & set(args.modules)):
        lines = None if args.since is None else changed(path, args.since)
        for mutant in mutants(path, (ROOT / path).read_text(encoding="utf-8")):
            passed_over = args.outside if mutant.function else args.quick
            if not passed_over and (named is None or mutant.name in named) and (lines is None or mutant.line in lines):
                found.append(mutant)
    return found


def names_in(log: str) -> set[str]:
    """The names of all mistakes that the output of a run tells of."""
    told = re.findall(r"(?m)(\S+\.py):\d+ (.*?)(?:  \(\d+ tests\))?$", log)
    return {f"{path} {label}" for path, label in told}


def changed(path: str, since: str) -> set[int]:
    """The lines of a file that have come or changed since a commit, also those that are not committed yet."""
    words = ["git", "diff", "--unified=0", "--no-color", "--no-ext-diff", since, "--", path]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines: set[int] = set()
    for first, count in re.findall(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", told, re.MULTILINE):
        lines.update(range(int(first), int(first) + int(count or 1)))
    return lines


def equivalent() -> dict[str, str]:
    """name of a mutant -> why it changes nothing."""
    lines = (HERE / "equivalent.txt").read_text(encoding="utf-8").splitlines()
    return {name: why for line in lines if line and not line.startswith("#") for name, why in listed(line)}


def tried(group: str, args: argparse.Namespace) -> Counter[str]:
    begun, known, found = time.monotonic(), equivalent(), chosen(group, args)
    needs = {mutant.path: lacking(mutant.tree) for mutant in found}
    found = [mutant for mutant in found if not needs[mutant.path]]
    tested = [mutant for mutant in found if args.known or mutant.name not in known]
    inside = [mutant for mutant in tested if mutant.function]

    def say(words: str) -> None:
        print(f"{group}, {time.monotonic() - begun:.0f} s: {words}", flush=True)

    for path, package in needs.items():
        if package:
            say(f"{path} is passed over: it imports {package}, which is not installed")
    if not found:
        return Counter()
    with tempfile.TemporaryDirectory() as own:  # others' tests clear away what the common folder holds
        os.environ["PYTEST_DEBUG_TEMPROOT"] = own
        sys.dont_write_bytecode, sys.pycache_prefix = False, own  # every process compiles only the mistaken module
        paths = sorted({mutant.path for mutant in tested})
        survivors, told = Collected(GROUPS[group][1], paths, args.seconds, args.memory).survivors(inside)
        say(f"{len(inside)} mistakes in functions, of which {len(inside) - len(survivors)} were noticed")
        if not args.quick:
            unseen = [inside[number] for number in told.unseen]
            doubtful = [mutant for mutant in tested if mutant in unseen or not mutant.function]
            alive = list(fresh.survivors(doubtful, told, args.seconds))
            survivors = [m for m in tested if m in alive or (m in survivors and m not in doubtful)]
    for mutant in tested:
        if mutant.name in known and mutant not in survivors:
            say(f"listed as changing nothing, but noticed: {mutant}")
    for mutant in (left := [mutant for mutant in survivors if mutant.name not in known]):
        say(f"survived: {mutant}")
    total: Counter[str] = Counter()
    for path in sorted({mutant.path for mutant in found}):
        here = [mutant for mutant in found if mutant.path == path]
        let, lost = sum(mutant.name in known for mutant in here), sum(mutant in left for mutant in here)
        count = Counter(mistakes=len(here), noticed=len(here) - let - lost, listed=let, left=lost)
        print(f"{path}: " + ", ".join(f"{number} {what}" for what, number in count.items()), flush=True)
        total.update(count)
    return total


if __name__ == "__main__":
    for name in ("torch", "numpy", "hypothesis"):  # once for all forks
        importlib.import_module(name)
    sys.exit(main())
