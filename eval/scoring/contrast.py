"""One arm against another: joined by question, resampled by image or group, corrected over benchmarks.

One rule says everywhere what counts as a difference (bold, marks, words): p < 0.05 after Holm's correction over the
benchmarks of one arm. The test decides, not the interval, where the two disagree: the interval is approximate with few
pictures and belongs to one benchmark alone. The average is one number, so its p-value needs no correction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eval.answering.plan import number
from eval.benchmarks.base import Benchmark
from eval.reading.sample import Sample
from eval.scoring import statistics
from eval.scoring.results import Result
from eval.scoring.statistics import Array

LEVEL = 0.05
DRAWS = 10_000
SLOW_DRAWS = 2_000  # for metrics that are not a mean


@dataclass(frozen=True)
class Contrast:
    """Arm b against arm a on one benchmark (or on the average of several)."""

    benchmark: str
    a: str
    b: str
    value_a: float
    value_b: float
    delta: float
    low: float | None  # 95 % interval of the difference
    high: float | None
    p: float | None
    test: str
    up: int  # questions that b gets right and a does not (or scores higher)
    down: int
    n: int
    groups: int
    missing_a: int
    missing_b: int
    failed_a: int  # rows without an answer: unreadable pictures, NaN
    failed_b: int
    tokens_a: float | None  # visual tokens that a layer saw on average
    tokens_b: float | None
    least: float | None = None  # smallest difference that so many questions find at 80 % power
    p_holm: float | None = None
    differs: bool = False  # the rule above


def contrast(
    benchmark: Benchmark, samples: Sequence[Sample], a: Result, b: Result, draws: int = DRAWS, seed: int = 0
) -> tuple[Contrast, Array, Array]:
    """The comparison, the bootstrap replicates of its difference, and the differences with arms swapped at random."""
    if a.score.items.keys() != b.score.items.keys():
        odd = sorted(a.score.items.keys() ^ b.score.items.keys())[0]
        raise ValueError(
            f"{benchmark.name}: {odd!r} was asked in only one of {a.label} and {b.label}; expected the same. "
            "`compare --common` compares what both answered."
        )
    asked = [sample for sample in samples if sample.key in a.score.items]
    keys = [sample.key for sample in asked]
    items_a, items_b = (np.array([result.score.items[key] for key in keys]) for result in (a, b))
    names = {group: i for i, group in enumerate(dict.fromkeys(a.score.groups[key] for key in keys))}
    place = np.array([names[a.score.groups[key]] for key in keys])
    is_mean = type(benchmark).statistic is Benchmark.statistic
    if is_mean:
        value = statistics.mean_value(items_a, items_b, place)
    else:
        value, draws = _own_metric(benchmark, asked, items_a, items_b, place), min(draws, SLOW_DRAWS)
    drawn = statistics.replicates(value, len(names), draws, seed)
    bounds = statistics.interval(value, len(names), drawn)
    up, down = int((items_b > items_a).sum()), int((items_b < items_a).sum())
    changed = (np.bincount(place, items_a != items_b, len(names)) > 0).astype(float)
    if is_mean and len(names) == len(keys) and set(np.unique([items_a, items_b])) <= {0.0, 1.0}:
        p, test = statistics.mcnemar(up, down), "McNemar, exact"
    else:  # also of right and wrong, where one picture is asked about twice: its answers are not independent
        p, test = statistics.sign_flip(value, changed, draws, seed), "sign flips"
    swapped, exact = statistics.flips(value, changed, min(draws, SLOW_DRAWS), seed)
    if exact:  # all ways, each once: as many as there are bootstrap replicates
        swapped = np.random.default_rng(seed).choice(swapped, min(draws, SLOW_DRAWS))
    compared = Contrast(
        benchmark=a.score.name,
        a=a.label,
        b=b.label,
        value_a=a.score.value,
        value_b=b.score.value,
        delta=b.score.value - a.score.value,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        p=p,
        test=test,
        up=up,
        down=down,
        n=len(keys),
        groups=len(names),
        missing_a=a.score.missing,
        missing_b=b.score.missing,
        failed_a=a.failed,
        failed_b=b.failed,
        tokens_a=a.tokens,
        tokens_b=b.tokens,
    )
    return compared, drawn, swapped


def alone(benchmark: Benchmark, samples: Sequence[Sample], result: Result) -> tuple[float, float, float]:
    """One arm's value with its 95 % interval: the arm against one that gets everything wrong and so has the value 0.

    With a single picture there is no interval, and the value stands for its ends.
    """
    wrong = replace(result.score, items=dict.fromkeys(result.score.items, 0.0), value=0.0)
    interval, _, _ = contrast(benchmark, samples, replace(result, score=wrong), result, SLOW_DRAWS)
    value = result.score.value
    return value, value if interval.low is None else interval.low, value if interval.high is None else interval.high


def _own_metric(
    benchmark: Benchmark, samples: Sequence[Sample], items_a: Any, items_b: Any, place: Any
) -> statistics.Value:
    """The benchmark's own headline, of questions of which some are answered by a and some by b."""
    twin = [replace(sample, key=f"{sample.key}\0b", group=f"{sample.group}\0b") for sample in samples]
    own: Callable[[Any], Any] = benchmark.statistic([*samples, *twin], np.concatenate([items_a, items_b]))
    columns = np.concatenate([place, place + place.max() + 1])
    return lambda weights: own(weights[..., columns])


def marked(results: Sequence[Contrast], level: float = LEVEL) -> list[Contrast]:
    """The comparisons with p-values and marks by Holm's correction over all of them together."""
    adjusted = statistics.holm([1.0 if result.p is None else result.p for result in results])
    return [replace(result, p_holm=p, differs=p < level) for result, p in zip(results, adjusted, strict=True)]


def contrasts(
    pairs: Sequence[tuple[Benchmark, Sequence[Sample], Result, Result]], draws: int = DRAWS, seed: int = 0
) -> list[Contrast]:
    """One comparison per benchmark, p-values corrected over them, and their average when there are several."""
    results, drawn, swapped = [], [], []
    for benchmark, samples, a, b in pairs:
        result, replicates, gaps = contrast(benchmark, samples, a, b, draws, seed)
        spread = float(np.nanstd(replicates))
        least = statistics.detectable(spread, LEVEL / len(pairs)) if spread else None
        results.append(replace(result, least=least))
        drawn.append(apart(replicates, result.benchmark) / scale(result.benchmark))
        swapped.append(apart(gaps, result.benchmark) / scale(result.benchmark))
    results = marked(results)
    if len(results) > 1:
        results.append(_average(results, drawn, swapped))
    return results


def apart(drawn: Array, benchmark: str) -> Array:
    """The first draws in an order that belongs to the benchmark: all benchmarks are drawn with one seed, and the draws
    of two must have nothing in common before they are averaged."""
    return np.random.default_rng(number(benchmark)).permutation(drawn[:SLOW_DRAWS])


def scale(name: str) -> float:
    """MME's perception goes up to 2000; divided by 20 it is on the scale of the others."""
    return 20.0 if name == "mme" else 1.0


def _average(results: Sequence[Contrast], drawn: Sequence[Array], swapped: Sequence[Array]) -> Contrast:
    """The unweighted mean over benchmarks. Interval and test: each benchmark is drawn, and swapped, on its own."""
    means, gaps = (np.mean([result[: min(map(len, all_))] for result in all_], axis=0) for all_ in (drawn, swapped))
    low, high = np.quantile(means, [0.025, 0.975])
    a, b = (float(np.mean([value / scale(result.benchmark) for result, value in zip(results, values, strict=True)]))
            for values in ([result.value_a for result in results], [result.value_b for result in results]))  # fmt: skip
    tokens = [mean([getattr(result, name) for result in results]) for name in ("tokens_a", "tokens_b")]
    total = {
        name: sum(getattr(result, name) for result in results)
        for name in ("up", "down", "n", "groups", "missing_a", "missing_b", "failed_a", "failed_b")
    }
    p, spread = statistics.as_far(gaps, b - a, False), float(np.std(means))
    return Contrast(
        benchmark="average",
        a=results[0].a,
        b=results[0].b,
        value_a=a,
        value_b=b,
        delta=b - a,
        low=float(low),
        high=float(high),
        p=p,
        test="sign flips",
        least=statistics.detectable(spread, LEVEL) if spread else None,
        p_holm=p,  # one number, not one of many
        differs=p < LEVEL,
        tokens_a=tokens[0],
        tokens_b=tokens[1],
        **total,
    )


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
