"""Puts small mistakes into the code, one at a time, and looks for one that no test notices.

python tests/mutants                        debias/ and everything that scores
python tests/mutants debias/span.py         some modules
python tests/mutants --list debias/span.py  the mistakes themselves

No file is changed. A mistake inside a function is put into the running process: its tests are collected once, and each
mistake gets a fork in which the function has the mistaken code. Every test that runs its line is tried, the quickest
first. What survives that, and mistakes outside of functions, get a process that imports the mistaken module and runs
whole test files. equivalent.txt lists the mistakes that change nothing, with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections import Counter
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
GROUPS = {
    "debias": (["debias/*.py"], ["tests/debias"]),
    "scorers": (
        ["eval/benchmarks/*.py", *(f"eval/{name}.py" for name in (
            "normalise", "box", "sample", "score", "read", "fields", "statistics", "judge"))],
        ["tests/eval/benchmarks", *(f"tests/eval/test_{name}.py" for name in (
            "normalise", "box", "sample", "score", "read", "fields", "statistics", "judge")),
         "tests/eval/test_judge_parts.py", "tests/faults/test_parsers.py", "tests/faults/test_large.py"],
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="modules by path; all of debias/ and the scorers without")
    parser.add_argument("--list", action="store_true", help="list the mistakes and stop")
    parser.add_argument("--quick", action="store_true", help="do not try survivors on whole test files")
    args = parser.parse_args()
    known = equivalent()
    total: Counter[str] = Counter()
    for files, tests in GROUPS.values():
        paths = [str(path.relative_to(ROOT)) for pattern in files for path in sorted(ROOT.glob(pattern))]
        found = [
            mutant
            for path in paths
            if not args.modules or path in args.modules
            for mutant in mutants(path, (ROOT / path).read_text(encoding="utf-8"))
        ]
        if args.list:
            print(*found, sep="\n")
        elif found:
            total += tried(found, tests, known, args.quick)
    print(", ".join(f"{count} {what}" for what, count in total.items()))
    return 1 if total["survived"] else 0


def equivalent() -> dict[str, str]:
    """name of a mutant -> why it changes nothing."""
    lines = (HERE / "equivalent.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" | ") for line in lines if line and not line.startswith("#"))
    return {name.strip(): why.strip() for name, why in pairs}


def tried(found: list[Mutant], tests: list[str], known: dict[str, str], quick: bool) -> Counter[str]:
    begun = time.monotonic()
    inside = [mutant for mutant in found if mutant.function]
    survivors, told = Collected(tests, sorted({mutant.path for mutant in found})).survivors(inside)
    print(f"  {len(found)} mutants, {len(inside)} in functions, of which {len(inside) - len(survivors)} were killed in "
          f"forks; {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    count = Counter(mutants=len(found), killed=len(found))
    doubtful = [mutant for mutant in found if mutant in survivors or not mutant.function]
    for mutant in survivors if quick else fresh.survivors(doubtful, told, known):
        listed = mutant.name in known
        count["killed"] -= 1
        count["equivalent" if listed else "survived"] += 1
        if not listed:
            print(f"survived: {mutant}", flush=True)
    print(f"  {dict(count)}, {time.monotonic() - begun:.0f} s", flush=True)
    return count


if __name__ == "__main__":
    for name in ("torch", "numpy", "hypothesis"):  # once for all forks
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as own:  # others' tests clear away what the common one holds
        os.environ["PYTEST_DEBUG_TEMPROOT"] = own
        code = main()
    sys.exit(code)
