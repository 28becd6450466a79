"""Puts small mistakes into the code, one at a time, and looks for one that no test notices.

python tests/mutants                        debias/, pruners/ and everything that scores
python tests/mutants debias/span.py         some modules
python tests/mutants --only pruners         one of the groups: debias, pruners, benchmarks, scorers
python tests/mutants --since HEAD~1         only lines that have changed since a commit
python tests/mutants --only pruners --tests tests/pruners/test_mis.py pruners/mis.py      on some tests, in minutes
python tests/mutants --list debias/span.py  the mistakes themselves

No file is changed. A mistake inside a function is put into the running process: its tests are collected once, and each
mistake gets a fork in which the function has the mistaken code. Every test that runs its line is tried, the quickest
first. What survives that, and mistakes outside of functions, get a process that imports the mistaken module and runs
whole test files. equivalent.txt lists the mistakes that change nothing, with the reason.
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
from collections.abc import Sequence
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
from operators import Mutant, mutants  # noqa: E402
from trials import Collected  # noqa: E402

# What is tested, and by which tests.
SCORERS = {
    "normalise": "scoring", "box": "scoring", "statistics": "scoring", "judge": "scoring",
    "score": "commands", "fields": "commands", "read": "reading", "sample": "",
}  # fmt: skip
GROUPS = {
    "debias": (["debias/*.py"], ["tests/debias"]),
    "pruners": (["pruners/**/*.py"], ["tests/pruners", "tests/faults/test_models.py"]),
    "benchmarks": (["eval/benchmarks/*.py"], ["tests/eval/benchmarks", "tests/eval/test_score.py"]),
    "scorers": (
        [f"eval/{room}/{name}.py".replace("//", "/") for name, room in SCORERS.items()],
        ["tests/eval/benchmarks", *(f"tests/eval/test_{name}.py" for name in (*SCORERS, "judge_parts")),
         "tests/faults/test_parsers.py", "tests/faults/test_large.py", "tests/faults/test_judges.py"],
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="modules by path; all of debias/, pruners/ and the scorers without")
    parser.add_argument("--only", help=f"some of the groups, with commas: {', '.join(GROUPS)}")
    parser.add_argument("--since", metavar="COMMIT", help="only mistakes in lines that have changed since a commit")
    parser.add_argument("--tests", help="only these test files, with commas; others may notice what survives them")
    parser.add_argument("--list", action="store_true", help="list the mistakes and stop")
    parser.add_argument("--quick", action="store_true", help="do not try survivors on whole test files")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else list(GROUPS)
    if unknown := [name for name in only if name not in GROUPS]:
        parser.error(f"no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    if args.tests:
        GROUPS.update({name: (GROUPS[name][0], args.tests.split(",")) for name in only})
    found = {group: chosen(group, args.modules, args.since) for group in only}
    if args.list:
        print(*(mutant for mutants in found.values() for mutant in mutants), sep="\n")
        return 0
    groups = [group for group in only if found[group]]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork")) as pool:
        counts = list(pool.map(tried, groups, repeat(args.modules), repeat(args.since), repeat(args.quick)))
    total = sum(counts, Counter())
    print(", ".join(f"{count} {what}" for what, count in total.items()))
    return 1 if total["survived"] else 0


def chosen(group: str, modules: Sequence[str] = (), since: str | None = None) -> list[Mutant]:
    paths = {str(path.relative_to(ROOT)) for pattern in GROUPS[group][0] for path in ROOT.glob(pattern)}
    found = []
    for path in sorted(paths if not modules else paths & set(modules)):
        lines = None if since is None else changed(path, since)
        for mutant in mutants(path, (ROOT / path).read_text(encoding="utf-8")):
            if lines is None or mutant.line in lines:
                found.append(mutant)
    return found


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
    pairs = (line.split(" | ") for line in lines if line and not line.startswith("#"))
    return {name.strip(): why.strip() for name, why in pairs}


def tried(group: str, modules: list[str], since: str | None, quick: bool) -> Counter[str]:
    begun, known, found = time.monotonic(), equivalent(), chosen(group, modules, since)
    inside = [mutant for mutant in found if mutant.function]
    count = Counter(mutants=len(found), killed=len(found))

    def say(words: str) -> None:
        print(f"{group}, {time.monotonic() - begun:.0f} s: {words}", flush=True)

    with tempfile.TemporaryDirectory() as own:  # others' tests clear away what the common folder holds
        os.environ["PYTEST_DEBUG_TEMPROOT"] = own
        survivors, told = Collected(GROUPS[group][1], sorted({mutant.path for mutant in found})).survivors(inside)
        say(f"{len(found)} mutants, {len(inside)} in functions, of which {len(inside) - len(survivors)} were killed")
        doubtful = [mutant for mutant in found if mutant in survivors or not mutant.function]
        for mutant in survivors if quick else fresh.survivors(doubtful, told, known):
            listed = mutant.name in known
            count["killed"] -= 1
            count["equivalent" if listed else "survived"] += 1
            if not listed:
                say(f"survived: {mutant}")
    say(", ".join(f"{n} {what}" for what, n in count.items()))
    return count


if __name__ == "__main__":
    for name in ("torch", "numpy", "hypothesis"):  # once for all forks
        importlib.import_module(name)
    sys.exit(main())
