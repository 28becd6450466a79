"""Tables of scores and of paired differences between arms, of one run or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.answering.store import Folder
from eval.core.tables import Table, explain, say, show
from eval.scoring import verdict
from eval.scoring.averages import AVERAGES
from eval.scoring.contrast import DRAWS, SLOW_DRAWS, Contrast, contrasts, mean, scale
from eval.scoring.results import Result, Scored, not_judged, results, ungraded, unjudged, without

# -- tables --------------------------------------------------------------------------------------------------------


def score_table(title: str, scored: Sequence[Scored]) -> Table:
    """Benchmarks by arms, with the averages that the scores suffice for."""
    arms = list(dict.fromkeys(arm for entry in scored for arm in entry.arms))
    rows: list[list[Any]] = []
    failed, missing = failures(scored), 0
    for entry in scored:
        first = next(iter(entry.arms.values())).score
        failed_here = failures([entry])
        rows.append([first.name, first.metric, first.n, failed_here, *(_value(entry.arms.get(arm)) for arm in arms)])
        missing += sum(result.score.missing - result.failed for result in entry.arms.values())
    notes = []
    if len(scored) > 1:
        means = arm_means(scored)
        rows.append(["average", "mean of the above (MME / 20)", None, failed, *(means[arm] for arm in arms)])
        values = [
            {entry.arms[arm].score.name: entry.arms[arm].score.value for entry in scored if arm in entry.arms}
            for arm in arms
        ]
        for name, average in AVERAGES.items():
            if all(map(average.complete, values)):
                rows.append([name, str(average), None, None, *map(average, values)])
    if failed:
        notes.append(broken(failed))
    if missing:
        notes.append(f"{missing} questions have no answer yet; they count as wrong. Start the run again to finish it.")
    if left := unjudged(scored):
        notes.append(not_judged(left))
    for entry in scored:
        if judge := next(iter(entry.arms.values())).score.info.get("judge"):
            notes.append(f"{entry.benchmark.name} was graded by {', '.join(judge)}.")
    return Table(title, ["benchmark", "metric", "n", "broken", *arms], rows, notes)


def broken(failed: int) -> str:
    """What it means that so many questions have no answer."""
    return f"{failed} questions have no answer in some arm (unreadable pictures, NaN); they count as wrong."


def failures(scored: Sequence[Scored]) -> int:
    """Questions that some arm could not answer: a broken picture is one fault, however many arms met it."""
    return sum(
        len({row["metadata"]["key"] for arm in entry.arms.values() for row in arm.rows if "error" in row["metadata"]})
        for entry in scored
    )


def _value(result: Result | None) -> float | None:
    return None if result is None else result.score.value


def arm_means(scored: Sequence[Scored]) -> dict[str, float | None]:
    """The plain mean of each arm over the benchmarks; None for an arm that lacks one of them."""
    means: dict[str, float | None] = {}
    for arm in dict.fromkeys(arm for entry in scored for arm in entry.arms):
        scores = [entry.arms[arm].score for entry in scored if arm in entry.arms]
        complete = len(scores) == len(scored)
        means[arm] = mean([score.value / scale(score.name) for score in scores]) if complete else None
    return means


HEAD = ["benchmark", "arm", "score", "Δ", "95 % low", "95 % high", "p", "p (Holm)", "differs", "could see", "up",
        "down", "n", "groups", "broken", "tokens"]  # fmt: skip


def contrast_table(contrasts: Sequence[Contrast], draws: int, failed: int = 0) -> Table:
    """Every comparison in full; failed: questions without an answer in some arm."""
    baseline = contrasts[0].a if contrasts else ""
    rows = [
        [row.benchmark, row.b, row.value_b, row.delta, row.low, row.high, _p(row.p), _p(row.p_holm),
         verdict.MARK if row.differs else "", row.least, row.up, row.down, row.n, row.groups,
         max(row.failed_a, row.failed_b), row.tokens_b]
        for row in contrasts
    ]  # fmt: skip
    notes = [
        f"Δ: difference to {baseline}, paired by question. Interval: BCa bootstrap of {draws} draws ({SLOW_DRAWS} for "
        "metrics that are not a mean), whole images or groups drawn. p: sign flips of images or groups, which is exact "
        "McNemar for right/wrong asked once an image; Holm over the benchmarks. up/down: questions won and lost. "
        "broken: missing answers. tokens: mean over layers.",
        verdict.RULE,
    ]
    if failed:
        notes.append(broken(failed))
    strong = [place for place, row in enumerate(contrasts) if row.differs]
    return Table(f"Differences to {baseline}", HEAD, rows, notes, strong, keys=2)


@dataclass(frozen=True)
class Outcome:
    """What a comparison shows: a verdict in words, a narrow table that goes with it, and everything."""

    contrasts: Sequence[Contrast] = ()
    verdict: str = ""
    brief: Sequence[Table] = ()
    full: Sequence[Table] = ()

    def tables(self, wide: bool) -> Sequence[Table]:
        """The narrow table, where there is one and `wide` does not ask for everything."""
        return self.full if wide or not self.brief else self.brief

    def show(self, wide: bool) -> None:
        """On the terminal: the verdict and the tables."""
        if self.verdict:
            explain(f"\n{self.verdict}\n")
        for table in self.tables(wide):
            show(table)
        if not wide and self.brief:
            say("All arms and columns: --wide, and in table.md, table.csv and table.tex of a run.")


def outcome(
    title: str, scored: Sequence[Scored], draws: int = DRAWS, baseline: str | None = None, seed: int = 0
) -> Outcome:
    """The arms of one run against its baseline: none, or what it has instead."""
    if baseline is None:
        baseline = "none" if any("none" in entry.arms for entry in scored) else next(iter(scored[0].arms))
    return told([score_table(title, scored)], within(scored, baseline, draws, seed), draws, failures(scored))


def told(
    scores: Sequence[Table], contrasts: Sequence[Contrast], draws: int, failed: int = 0, every: bool = False
) -> Outcome:
    """What a comparison shows; `every`: of all arms, not only of the arm with the most debiasing."""
    arms = list(dict.fromkeys(contrast.b for contrast in contrasts))
    about = arms if every else [arm for arm in [verdict.main_arm(arms)] if arm is not None]
    said = "\n".join(verdict.verdict(contrasts, arm) for arm in about)
    brief = [verdict.summary(contrasts, arm) for arm in about]
    if about:
        brief[-1] = replace(brief[-1], notes=[*verdict.notes(contrasts, about), *(scores[0].notes if scores else ())])
    full = [*scores, *([contrast_table(contrasts, draws, failed)] if contrasts else [])]
    if said:
        full[-1] = replace(full[-1], notes=[said.replace("\n", " "), *full[-1].notes])
    return Outcome(contrasts, said, brief, full)


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}" if value >= 0.001 else "<0.001"


# -- command line --------------------------------------------------------------------------------------------------


def within(scored: Sequence[Scored], baseline: str, draws: int = DRAWS, seed: int = 0) -> list[Contrast]:
    """Every arm against the baseline arm of the same run."""
    arms = list(dict.fromkeys(arm for entry in scored for arm in entry.arms if arm != baseline))
    out: list[Contrast] = []
    for arm in arms:
        pairs = [
            (entry.benchmark, entry.samples, entry.arms[baseline], entry.arms[arm])
            for entry in scored
            if baseline in entry.arms and arm in entry.arms
        ]
        out += contrasts(pairs, draws, seed)
    return out


def across(
    references: Sequence[tuple[Folder, str]], data: str | None, judge: Any, draws: int, seed: int, common: bool = False
) -> tuple[list[Contrast], int]:
    """Arms of several runs against the first that is named, on the benchmarks they share; and answers without a grade.

    common: compare on the questions that both were asked.
    """
    sides = []
    for folder, arm in references:
        there = {entry.benchmark.name: entry for entry in results(folder, data, judge=judge) if arm in entry.arms}
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
                "expected runs of the same benchmarks"
            )
        pairs = []
        for name in shared:
            left = ungraded([*first[name].arms.values(), *second[name].arms.values()])
            if common:
                asked = [{sample.key for sample in side[name].samples} for side in (first, second)]
                if not asked[0] & asked[1]:
                    raise ValueError(f"{label_a} and {label_b} share no question of {name}; expected some")
                left |= asked[0] ^ asked[1]
            a, b = (without(side[name], left, judge) for side in (first, second))
            sides_of = replace(a.arms[arm_a], label=label_a), replace(b.arms[arm_b], label=label_b)
            pairs.append((a.benchmark, a.samples, *sides_of))
        out += contrasts(pairs, draws, seed)
    return out, sum(unjudged(there.values()) for _, _, there in sides)
