"""What a run folder's rows are worth: every arm of every benchmark, scored from the rows and the annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import benchmarks
from eval.answering.plan import digest, limited
from eval.answering.store import Folder
from eval.benchmarks.base import Benchmark
from eval.sample import Row, Sample, Score
from eval.tables import say


@dataclass(frozen=True)
class Result:
    """One arm of one benchmark."""

    label: str
    score: Score
    rows: Sequence[Row]
    failed: int  # answers that are none: unreadable pictures, NaN; they count as missing
    tokens: float | None  # visual tokens that a layer saw on average


@dataclass(frozen=True)
class Scored:
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


def results(
    folder: Folder, data: str | Path | None = None, only: Iterable[str] | None = None, judge: Any = None
) -> list[Scored]:
    """Scores of everything in a run folder. `data`: where the annotations are now, when they moved."""
    info = folder.info()
    names = [name for name in info["benchmarks"] if only is None or name in set(only)]
    out = []
    for name in names:
        facts = info["benchmarks"][name]
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
        arms = {}
        for arm in folder.arms(name):
            rows = folder.rows(name, arm, order)
            arms[arm] = scored(benchmark, samples, rows, arm, judge)
        out.append(Scored(benchmark, samples, arms))
    return out


def scored(
    benchmark: Benchmark, samples: Sequence[Sample], rows: Sequence[Row], label: str, judge: Any = None
) -> Result:
    """A row that holds an error is no answer: its question counts as unanswered, so as wrong."""
    answers = [row for row in rows if "error" not in row["metadata"]]
    score = benchmark.score(answers, samples, judge)
    counts = [row["metadata"]["counts"] for row in answers if "counts" in row["metadata"]]
    tokens = sum(float(count["mean"]) for count in counts) / len(counts) if counts else None
    return Result(label, score, rows, len(rows) - len(answers), tokens)
