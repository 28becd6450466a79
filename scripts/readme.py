"""The results in README.md: measured by runs, kept in assets/results.json, written between two marks of the page.

`bash scripts/results.sh` measures again, and calls `python -m eval.readme RUN ...` with the run folders.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from debias.names import ARMS
from eval.answering.store import Folder
from eval.benchmarks import NAMES
from eval.comparing import compare, verdict
from eval.comparing.contrast import mean
from eval.comparing.results import Result, results
from eval.settings import UNPRUNED
from eval.tables import Table, between, markdown, say, tenths

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("<!-- results: written by `bash scripts/results.sh` -->", "<!-- end of results -->")
BASELINE, DEBIASED = "none", "both"  # what is shown as a difference; methods without a trend have "padding" instead


def measured(path: Path) -> dict[str, Any]:
    """What a run folder says, in numbers."""
    folder = Folder(path)
    info, scored = folder.info(), results(folder)
    arms = [arm for arm in (UNPRUNED, *ARMS) if any(arm in one.arms for one in scored)]
    lacking = [one.benchmark.name for one in scored if any(a not in one.arms or missing(one.arms[a]) for a in arms)]
    if lacking:
        raise ValueError(f"{path} is not finished: {', '.join(lacking)}. Start the run again, then this.")
    scored.sort(key=lambda one: NAMES.index(one.benchmark.name))
    best = DEBIASED if DEBIASED in arms else "padding"
    every = compare.within(scored, BASELINE)
    contrasts = {one.benchmark: one for one in every if one.b == best}
    tokens = [result.tokens for one in scored if (result := one.arms[BASELINE]).tokens is not None]
    benchmarks: dict[str, Any] = {}

    def add(name: str, n: int, values: Mapping[str, float | None]) -> None:
        found = contrasts.get(name)
        difference = (found.delta, found.low, found.high) if found else ()
        benchmarks[name] = {
            "n": n,
            "arms": {arm: rounded(values[arm]) for arm in arms},
            "difference": [rounded(value) for value in difference],
            "p": found.p_holm if found else None,
            "differs": bool(found and found.differs),
        }

    for one in scored:
        scores = {arm: result.score for arm, result in one.arms.items()}
        first = next(iter(scores.values()))
        add(first.name, first.n, {arm: score.value for arm, score in scores.items()})
    add("average", sum(one["n"] for one in benchmarks.values()), compare.arm_means(scored))
    return {
        "method": re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3g}", info["settings"]["method"]),
        "models": info["settings"]["models"],
        "tokens": rounded(mean(tokens)) if tokens else None,
        "arms": arms,
        "compared": best,
        "verdict": verdict.verdict(every, best),
        "benchmarks": benchmarks,
    }


def missing(result: Result) -> bool:
    """Whether questions were not asked yet."""
    return result.score.missing > result.failed


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def block(found: Sequence[Mapping[str, Any]]) -> str:
    """The tables: the first run by benchmark, and all of them by their averages."""
    first = found[0]
    rows = [
        [name, one["n"], *(number(one["arms"].get(arm)) for arm in first["arms"]), interval(one)]
        for name, one in first["benchmarks"].items()
    ]
    rows[-1] = [f"**{cell}**" if cell == "average" else cell for cell in rows[-1]]
    model = ", ".join(first["models"].values())
    head = ["benchmark", "n", *first["arms"], f"{first['compared']} − {BASELINE}, 95 %"]
    shown = markdown(Table(f"`{first['method']}`", head, rows)).split("\n\n", 1)[1]
    parts = [f"`{first['method']}` on {model}: {first['benchmarks']['average']['n']:,} questions in "
             f"{len(first['arms'])} arms.",
             first["verdict"], shown.strip()]  # fmt: skip
    if len(found) > 1:
        arms = list(dict.fromkeys(arm for one in found for arm in one["arms"]))
        lines = []
        for one in found:
            average = one["benchmarks"]["average"]
            name = f"`{one['method'].split('(')[0].lower()}`"
            values = [number(average["arms"].get(arm)) for arm in arms]
            lines.append([name, number(one["tokens"]), *values, interval(average)])
        head = ["average", "tokens a layer sees", *arms, f"debiased − {BASELINE}, 95 %"]
        parts.append(markdown(Table("", head, lines)).split("\n\n", 1)[1].strip())
    parts.append(
        "Intervals: paired by question, whole pictures drawn. Bold: p < 0.05 after Holm's correction over the "
        "benchmarks; where this test and an interval disagree, the test decides. Average: plain mean, MME / 20. "
        "`_val`: the validation set, whose answers are public; `_em`: words matched, no judge."
    )
    return "\n\n".join(parts)


def number(value: float | None) -> str:
    return "–" if value is None else f"{tenths(value):.1f}"


def interval(one: Mapping[str, Any]) -> str:
    """The difference with its interval, bold where it counts as one."""
    shown = between(*one["difference"]) if one["difference"] else "–"
    return f"**{shown}**" if one["differs"] else shown


def placed(page: str, text: str) -> str:
    """The page with `text` between the marks."""
    before, mark, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise ValueError(f"README.md lacks the lines {MARKS[0]!r} and {MARKS[1]!r}, between which the results stand")
    return f"{before}{mark}\n{text}\n{end}{after}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.readme", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders; none: the numbers kept before")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of README.md and assets/")
    args = parser.parse_args(words)
    kept, page = args.root / "assets" / "results.json", args.root / "README.md"
    if args.runs:
        found = [measured(path) for path in args.runs]
        kept.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = placed(page.read_text(encoding="utf-8"), block(json.loads(kept.read_text(encoding="utf-8"))))
    page.write_text(text, encoding="utf-8")
    say(f"wrote the results into {page}")


if __name__ == "__main__":
    main()
