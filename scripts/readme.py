"""The results in README.md: measured by runs, kept in assets, written between marks of the page.

`bash scripts/results.sh` measures again, and calls `python scripts/readme.py RUN ...` with the run folders. Those of
the study come from its folder: `python scripts/readme.py --study runs/study/smol`.
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
from eval.core import files
from eval.core.settings import UNPRUNED
from eval.core.tables import Cell, Table, between, markdown, say, tenths
from eval.scoring import compare, verdict
from eval.scoring.contrast import mean
from eval.scoring.results import Result, results

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("<!-- results: written by `bash scripts/results.sh` -->", "<!-- end of results -->")
STUDY_MARKS = ("<!-- study: written by `python scripts/readme.py --study` -->", "<!-- end of study -->")
STUDY = "assets/studies/smol-results.json"
BASELINE, DEBIASED = "none", "both"  # what is shown as a difference; methods without a trend have "padding" instead


def measured(path: Path) -> dict[str, Any]:
    """What a run folder says, in numbers."""
    folder = Folder(path)
    info, scored = folder.info(), results(folder)
    arms = [arm for arm in (UNPRUNED, *ARMS) if any(arm in entry.arms for entry in scored)]
    lacking = [
        entry.benchmark.name for entry in scored if any(a not in entry.arms or missing(entry.arms[a]) for a in arms)
    ]
    if lacking:
        raise ValueError(f"{path} is not finished: {', '.join(lacking)}. Start the run again, then this.")
    scored.sort(key=lambda entry: NAMES.index(entry.benchmark.name))
    best = DEBIASED if DEBIASED in arms else "padding"
    every = compare.within(scored, BASELINE)
    contrasts = {entry.benchmark: entry for entry in every if entry.b == best}
    benchmarks: dict[str, Any] = {}

    def add(name: str, n: int, values: Mapping[str, float | None]) -> None:
        contrast = contrasts.get(name)
        difference = (contrast.delta, contrast.low, contrast.high) if contrast else ()
        benchmarks[name] = {
            "n": n,
            "arms": {arm: rounded(values[arm]) for arm in arms},
            "difference": [rounded(value) for value in difference],
            "p": contrast.p_holm if contrast else None,
            "differs": bool(contrast and contrast.differs),
        }

    for entry in scored:
        scores = {arm: result.score for arm, result in entry.arms.items()}
        first = next(iter(scores.values()))
        add(first.name, first.n, {arm: score.value for arm, score in scores.items()})
    add("average", sum(entry["n"] for entry in benchmarks.values()), compare.arm_means(scored))
    return {
        "method": re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3g}", info["settings"]["method"]),
        "models": info["settings"]["models"],
        "tokens": rounded(mean([entry.arms[BASELINE].tokens for entry in scored])),
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


def block(runs: Sequence[Mapping[str, Any]]) -> str:
    """The tables: the first run by benchmark, and all of them by their averages."""
    first = runs[0]
    rows = [
        [name, run["n"], *(number(run["arms"].get(arm)) for arm in first["arms"]), interval(run)]
        for name, run in first["benchmarks"].items()
    ]
    rows[-1] = [f"**{cell}**" if cell == "average" else cell for cell in rows[-1]]
    model = ", ".join(first["models"].values())
    head = ["benchmark", "n", *first["arms"], f"{first['compared']} − {BASELINE}, 95 %"]
    asked = f"{first['benchmarks']['average']['n']:,} questions in {len(first['arms'])} arms"
    parts = [f"`{first['method']}` on {model}: {asked}.", first["verdict"], table(head, rows)]
    if len(runs) > 1:
        arms = list(dict.fromkeys(arm for run in runs for arm in run["arms"]))
        lines = []
        for run in runs:
            average = run["benchmarks"]["average"]
            name = f"`{run['method'].split('(')[0].lower()}`"
            values = [number(average["arms"].get(arm)) for arm in arms]
            lines.append([name, number(run["tokens"]), *values, interval(average)])
        head = ["average", "tokens a layer sees", *arms, f"debiased − {BASELINE}, 95 %"]
        parts.append(table(head, lines))
    parts.append(
        "Intervals: paired by question; whole pictures are resampled. Bold: p < 0.05 after Holm's correction over the "
        "benchmarks; where this test and an interval disagree, the test decides. Average: plain mean, with MME / 20. "
        "`_val`: the validation set, whose answers are public; `_em`: scored by matching words, without a judge."
    )
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in Markdown, without a title."""
    return markdown(Table("", head, rows)).split("\n\n", 1)[1].strip()


def number(value: float | None) -> str:
    return "–" if value is None else f"{tenths(value):.1f}"


def interval(row: Mapping[str, Any]) -> str:
    """The difference with its interval, bold where it counts as a difference."""
    shown = between(*row["difference"]) if row["difference"] else "–"
    return f"**{shown}**" if row["differs"] else shown


def study_block(told: Mapping[str, Any]) -> str:
    """What the study shows: the verdict, and the scores of every cut with the planned comparison of `both`."""
    first, *others = told["comparisons"]
    by_place = {(row["benchmark"], row["b"]): row for row in (first, *others)}
    rows = []
    for row in told["scores"]:
        mine = by_place[f"{row['keep']} tokens before layer {row['layer']}", DEBIASED]
        shown = between(mine["delta"], mine["low"], mine["high"])
        scores = [number(told["unpruned"]), *(number(row[arm]) for arm in ARMS)]
        name = f"{row['layer']}{' (primary)' if mine is first else ''}"
        rows.append([name, row["keep"], *scores, f"**{shown}**" if mine["differs"] else shown])
    head = ["cut before layer", "keep", UNPRUNED, *ARMS, f"{DEBIASED} − {BASELINE}, 95 %"]
    asked = f"{first['n']} pictures that were not used to fit or choose anything, one question each"
    rest = f"Holm's correction over the {len(others)} other comparisons"
    notes = (
        f"`FastV` on {told['model']}: {asked}. Planned first: {told['why']}. Intervals: BCa bootstrap over pictures. "
        f"Bold: p < 0.05, exact McNemar; the primary comparison by itself, the others after {rest}."
    )
    return "\n\n".join([told["said"], table(head, rows), notes])


def placed(page: str, text: str, marks: tuple[str, str] = MARKS) -> str:
    """The page with `text` between two marks."""
    return files.placed(page, marks, text, "README.md")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python scripts/readme.py", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders; none: the numbers kept before")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of README.md and assets/")
    parser.add_argument("--study", type=Path, metavar="FOLDER", help="the folder of a study that was run to its end")
    args = parser.parse_args(words)
    kept, study, page = args.root / "assets" / "results.json", args.root / STUDY, args.root / "README.md"
    if args.runs:
        runs = [measured(path) for path in args.runs]
        files.write_json(kept, runs)
    if args.study:
        told = json.loads((args.study / "study.json").read_text(encoding="utf-8"))
        if not told["confirmed"]:
            raise ValueError(f"{args.study} confirms nothing: {told['why']}")
        files.write_json(study, told)
    text = placed(page.read_text(encoding="utf-8"), block(json.loads(kept.read_text(encoding="utf-8"))))
    if study.is_file():
        text = placed(text, study_block(json.loads(study.read_text(encoding="utf-8"))), STUDY_MARKS)
    page.write_text(text, encoding="utf-8")
    say(f"wrote the results into {page}")


if __name__ == "__main__":
    main()
