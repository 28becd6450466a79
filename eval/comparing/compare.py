"""Paired differences between arms: joined by question, resampled by image or group, corrected over benchmarks.

examples:
  python -m eval compare runs/fastv                              every arm against none
  python -m eval compare runs/fastv --baseline padding           against another arm
  python -m eval compare runs/fastv:both runs/random:none        arms of different runs
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval import verdict
from eval.answering.store import Folder
from eval.benchmarks.base import Benchmark
from eval.commands.flags import positive
from eval.comparing.averages import AVERAGES
from eval.comparing.contrast import DRAWS, SLOW_DRAWS, Contrast, contrasts, mean, scale
from eval.comparing.results import Result, Scored, results, scored
from eval.sample import Sample
from eval.scoring import judge as judging
from eval.tables import Table, say, show, tell, write

# -- tables --------------------------------------------------------------------------------------------------------


def score_table(title: str, found: Sequence[Scored]) -> Table:
    arms = list(dict.fromkeys(arm for one in found for arm in one.arms))
    rows: list[list[Any]] = []
    failed, missing = failures(found), 0
    for one in found:
        first = next(iter(one.arms.values())).score
        failed_here = failures([one])
        rows.append([first.name, first.metric, first.n, failed_here, *(_value(one.arms.get(arm)) for arm in arms)])
        missing += sum(result.score.missing - result.failed for result in one.arms.values())
    notes = []
    if len(found) > 1:
        means = arm_means(found)
        rows.append(["average", "mean of the above (MME / 20)", None, failed, *(means[arm] for arm in arms)])
        values = [
            {one.arms[arm].score.name: one.arms[arm].score.value for one in found if arm in one.arms} for arm in arms
        ]
        for name, average in AVERAGES.items():
            if all(map(average.complete, values)):
                rows.append([name, f"{average.recipe}, version {average.version}", None, None, *map(average, values)])
    if failed:
        notes.append(broken(failed))
    if missing:
        notes.append(f"{missing} questions have no answer yet; they count as wrong. Start the run again to finish it.")
    for one in found:
        if judge := next(iter(one.arms.values())).score.info.get("judge"):
            notes.append(f"{one.benchmark.name} was graded by {', '.join(judge)}.")
    return Table(title, ["benchmark", "metric", "n", "broken", *arms], rows, notes)


def broken(failed: int) -> str:
    return f"{failed} questions have no answer in some arm (unreadable pictures, NaN); they count as wrong."


def failures(found: Sequence[Scored]) -> int:
    """Questions that some arm could not answer: a broken picture is one fault, however many arms met it."""
    return sum(
        len(
            {
                row["metadata"]["key"]
                for result in one.arms.values()
                for row in result.rows
                if "error" in row["metadata"]
            }
        )
        for one in found
    )


def _value(result: Result | None) -> float | None:
    return None if result is None else result.score.value


def arm_means(found: Sequence[Scored]) -> dict[str, float | None]:
    """The plain mean of each arm over the benchmarks; None for an arm that lacks one of them."""
    means: dict[str, float | None] = {}
    for arm in dict.fromkeys(arm for one in found for arm in one.arms):
        scores = [one.arms[arm].score for one in found if arm in one.arms]
        complete = len(scores) == len(found)
        means[arm] = mean([score.value / scale(score.name) for score in scores]) if complete else None
    return means


HEAD = [
    "benchmark",
    "arm",
    "score",
    "Δ",
    "95 % low",
    "95 % high",
    "p",
    "p (Holm)",
    "differs",
    "could see",
    "up",
    "down",
    "n",
    "groups",
    "broken",
    "tokens",
]


def contrast_table(found: Sequence[Contrast], draws: int, failed: int = 0) -> Table:
    baseline = found[0].a if found else ""
    rows = [
        [one.benchmark, one.b, one.value_b, one.delta, one.low, one.high, _p(one.p), _p(one.p_holm),
         verdict.MARK if one.differs else "", one.least, one.up, one.down, one.n, one.groups,
         max(one.failed_a, one.failed_b), one.tokens_b]
        for one in found
    ]  # fmt: skip
    notes = [
        f"Δ: difference to {baseline}, paired by question. Interval: BCa bootstrap of {draws} draws ({SLOW_DRAWS} for "
        "metrics that are no mean), whole images or groups drawn. p: sign flips of images or groups, which is exact "
        "McNemar for right/wrong asked once an image; Holm over the benchmarks. up/down: questions won and lost. "
        "broken: missing answers. tokens: mean over layers.",
        verdict.RULE,
    ]
    if failed:
        notes.append(broken(failed))
    strong = [place for place, one in enumerate(found) if one.differs]
    return Table(f"Differences to {baseline}", HEAD, rows, notes, strong, keys=2)


@dataclass(frozen=True)
class Look:
    """What a comparison shows: a verdict in words, a narrow table that goes with it, and everything."""

    found: Sequence[Contrast]
    said: str
    brief: Sequence[Table]
    full: Sequence[Table]

    def show(self, wide: bool) -> None:
        """On the terminal: the verdict, and the narrow table or everything."""
        if self.said:
            tell(f"\n{self.said}\n")
        for table in self.full if wide or not self.brief else self.brief:
            show(table)
        if not wide and self.brief:
            say("All arms and columns: --wide, and in table.md, table.csv and table.tex of a run.")


def look(title: str, scored: Sequence[Scored], draws: int = DRAWS, baseline: str | None = None, seed: int = 0) -> Look:
    """The arms of one run against its baseline: none, or what it has instead."""
    if baseline is None:
        baseline = "none" if any("none" in one.arms for one in scored) else next(iter(scored[0].arms))
    return _look([score_table(title, scored)], within(scored, baseline, draws, seed), draws, failures(scored))


def _look(scores: Sequence[Table], found: Sequence[Contrast], draws: int, failed: int = 0, every: bool = False) -> Look:
    arms = list(dict.fromkeys(one.b for one in found))
    about = arms if every else [arm for arm in [verdict.main_arm(arms)] if arm is not None]
    said = "\n".join(verdict.verdict(found, arm) for arm in about)
    brief = [verdict.summary(found, arm) for arm in about]
    if about:
        brief[-1] = replace(brief[-1], notes=[*verdict.notes(found, about), *(scores[0].notes if scores else ())])
    full = [*scores, *([contrast_table(found, draws, failed)] if found else [])]
    if said:
        full[-1] = replace(full[-1], notes=[said.replace("\n", " "), *full[-1].notes])
    return Look(found, said, brief, full)


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}" if value >= 0.001 else "<0.001"


# -- command line --------------------------------------------------------------------------------------------------


def within(found: Sequence[Scored], baseline: str, draws: int = DRAWS, seed: int = 0) -> list[Contrast]:
    """Every arm against the baseline arm of the same run."""
    arms = list(dict.fromkeys(arm for one in found for arm in one.arms if arm != baseline))
    out: list[Contrast] = []
    for arm in arms:
        pairs = [
            (one.benchmark, one.samples, one.arms[baseline], one.arms[arm])
            for one in found
            if baseline in one.arms and arm in one.arms
        ]
        out += contrasts(pairs, draws, seed)
    return out


def across(
    references: Sequence[tuple[Folder, str]], data: str | None, judge: Any, draws: int, seed: int, common: bool = False
) -> list[Contrast]:
    """Arms of several runs against the first one named, on the benchmarks they share; with `common`, of these on the
    questions that both were asked."""
    sides = []
    for folder, arm in references:
        there = {one.benchmark.name: one for one in results(folder, data, judge=judge) if arm in one.arms}
        if not there:
            raise ValueError(f"{folder.path} holds no rows of the arm {arm!r}")
        sides.append((f"{folder.path.name}:{arm}", arm, there))
    (label_a, arm_a, first), *others = sides
    out = []
    for label_b, arm_b, second in others:
        shared = [name for name in first if name in second]
        if not shared:
            raise ValueError(
                f"{label_a} ({', '.join(first)}) and {label_b} ({', '.join(second)}) share no benchmark; "
                "expected runs of the same ones"
            )
        pairs = []
        for name in shared:
            one, samples = first[name].benchmark, first[name].samples
            a, b = (found.arms[arm] for found, arm in ((first[name], arm_a), (second[name], arm_b)))
            if common:
                both = {sample.key for sample in samples} & {sample.key for sample in second[name].samples}
                if not both:
                    raise ValueError(f"{label_a} and {label_b} share no question of {name}; expected some")
                samples = [sample for sample in samples if sample.key in both]
                a, b = (only(one, samples, result, judge) for result in (a, b))
            pairs.append((one, samples, replace(a, label=label_a), replace(b, label=label_b)))
        out += contrasts(pairs, draws, seed)
    return out


def only(benchmark: Benchmark, samples: Sequence[Sample], result: Result, judge: Any) -> Result:
    """The same answers, scored on some of the questions."""
    keys = {sample.key for sample in samples}
    return scored(
        benchmark, samples, [row for row in result.rows if row["metadata"]["key"] in keys], result.label, judge
    )


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run folder, or RUN:ARM; several are compared with the first"
    )
    parser.add_argument(
        "--baseline", default="none", help="the arm that the others of one run are compared with (default %(default)s)"
    )
    parser.add_argument("--data", help="where the annotations are, when they moved since the run")
    parser.add_argument(
        "--draws", type=positive, default=DRAWS, help="bootstrap draws and permutations (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default %(default)s)")
    parser.add_argument("--common", action="store_true", help="runs of other --limit: compare what both were asked")
    parser.add_argument("--wide", action="store_true", help="show all arms and columns, not one row a benchmark")
    parser.add_argument("--out", help="also write table.md, table.csv and table.tex into this folder")
    judging.arguments(parser)
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    judge = judging.from_arguments(args)
    references = [_reference(text) for text in args.runs]
    if len(references) == 1 and references[0][1] is None:
        folder = references[0][0]
        there = results(folder, args.data, judge=judge)
        if not there:
            raise ValueError(f"{folder.path} holds no scored rows; run its benchmarks first")
        arms = {arm for one in there for arm in one.arms}
        if args.baseline not in arms:
            raise ValueError(f"{folder.path} has no arm {args.baseline!r}; it has {', '.join(sorted(arms))}")
        seen = look(str(folder.path), there, args.draws, args.baseline, args.seed)
    elif len(references) == 1:
        raise ValueError("compare needs a run folder, or at least two RUN:ARM")
    else:
        sides = [(folder, arm or "none") for folder, arm in references]
        found = across(sides, args.data, judge, args.draws, args.seed, args.common)
        seen = _look([], found, args.draws, every=True)
    seen.show(args.wide)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        write(seen.full, Path(args.out))
    comparisons = [asdict(one) for one in seen.found]
    return {"verdict": seen.said, "comparisons": comparisons, "draws": args.draws, "seed": args.seed}


def _reference(text: str) -> tuple[Folder, str | None]:
    if Path(text).is_dir() or ":" not in text:
        return Folder(text), None
    path, _, arm = text.rpartition(":")
    return Folder(path), arm
