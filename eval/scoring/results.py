"""The scores of a run folder: every arm of every benchmark, from the rows and the annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval import benchmarks
from eval.answering.plan import digest, limited
from eval.answering.store import Folder
from eval.benchmarks.base import Benchmark
from eval.core.tables import say
from eval.reading.sample import Row, Sample, Score


@dataclass(frozen=True)
class Result:
    """One arm of one benchmark."""

    label: str
    score: Score
    rows: Sequence[Row]
    failed: int  # rows without an answer: unreadable pictures, NaN; they count as missing
    tokens: float | None  # visual tokens that a layer saw on average


@dataclass(frozen=True)
class Scored:
    """A benchmark of a run: its questions, and the result of every arm."""

    benchmark: Benchmark
    samples: Sequence[Sample]
    arms: Mapping[str, Result]


def questions(
    benchmark: Benchmark,
    data: str | Path,
    limit: int | None,
    options: Mapping[str, Any] | None = None,
    media: bool = True,
) -> list[Sample]:
    """The questions of a run: all, or the same few every time."""
    return limited(benchmark.load(data, media=media, **(options or {})), limit)


def results(folder: Folder, data: str | Path | None = None, judge: Any = None) -> list[Scored]:
    """Scores of everything in a run folder. `data`: where the annotations are now, when they moved."""
    info = folder.info()
    out = []
    for name, facts in info["benchmarks"].items():
        benchmark = benchmarks.get(name)
        samples = questions(
            benchmark, data or facts["data"], info["settings"].get("limit"), facts.get("options"), media=False
        )
        if digest(samples) != facts["digest"]:
            raise ValueError(
                f"{folder.path}: the questions of {name} in {data or facts['data']} are not those the run answered. "
                "Name the right folder with --data."
            )
        if any(sample.target is None for sample in samples):
            say(f"{name}: the answers are not public, so it is not scored; {benchmark.unanswered}")
            continue
        order = [sample.key for sample in samples]
        rows = {arm: folder.rows(name, arm, order) for arm in folder.arms(name)}
        arms = {arm: scored(benchmark, samples, answers, arm, judge) for arm, answers in rows.items()}
        if arms:
            out.append(without(Scored(benchmark, samples, arms), ungraded(arms.values()), judge))
    return out


def ungraded(results: Iterable[Result]) -> set[str]:
    """The keys of questions that a judge gave no grade for, in any of the arms."""
    return {key for result in results for key in result.score.unjudged}


def without(whole: Scored, left: set[str], judge: Any) -> Scored:
    """Scored without some questions: arms are compared on the same, so a question without a grade in one leaves all."""
    if not left:
        return whole
    samples = [sample for sample in whole.samples if sample.key not in left]
    arms = {}
    for arm, result in whole.arms.items():
        rest = [row for row in result.rows if row["metadata"]["key"] not in left]
        again = scored(whole.benchmark, samples, rest, result.label, judge)
        arms[arm] = replace(again, score=replace(again.score, unjudged=result.score.unjudged))
    return Scored(whole.benchmark, samples, arms)


def unjudged(scored: Iterable[Scored]) -> int:
    """How many answers a judge gave no grade for."""
    return sum(len(result.score.unjudged) for entry in scored for result in entry.arms.values())


def not_judged(count: int) -> str:
    """What it means that the judge gave no grade to so many answers."""
    return (
        f"Answers not judged: {count}. No reply of the judge was understood; their questions are left out of every "
        "arm; start the same command again to ask once more."
    )


def scored(
    benchmark: Benchmark, samples: Sequence[Sample], rows: Sequence[Row], label: str, judge: Any = None
) -> Result:
    """A row that holds an error is not an answer: its question counts as unanswered, and so as wrong."""
    answers = [row for row in rows if "error" not in row["metadata"]]
    score = benchmark.score(answers, samples, judge)
    counts = [row["metadata"]["counts"] for row in answers if "counts" in row["metadata"]]
    tokens = sum(float(count["mean"]) for count in counts) / len(counts) if counts else None
    return Result(label, score, rows, len(rows) - len(answers), tokens)
