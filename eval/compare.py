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

import numpy as np

from eval import judge as judging
from eval import statistics
from eval.averages import AVERAGES
from eval.benchmarks.base import Benchmark
from eval.results import Result, Scored, results
from eval.sample import Sample
from eval.store import Folder
from eval.tables import Table, show, write

DRAWS = 10_000
SLOW_DRAWS = 2_000  # for metrics that are no mean


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
    tokens_a: float | None  # visual tokens that a layer saw on average
    tokens_b: float | None
    p_holm: float | None = None


def contrast(
    benchmark: Benchmark, samples: Sequence[Sample], a: Result, b: Result, draws: int = DRAWS, seed: int = 0
) -> tuple[Contrast, np.ndarray[Any, Any]]:
    """The comparison, and the bootstrap replicates of its difference."""
    if a.score.items.keys() != b.score.items.keys():
        odd = sorted(a.score.items.keys() ^ b.score.items.keys())[0]
        raise ValueError(
            f"{benchmark.name}: {odd!r} was asked in only one of {a.label} and {b.label}; expected the same"
        )
    keys = [sample.key for sample in samples if sample.key in a.score.items]
    asked = [sample for sample in samples if sample.key in a.score.items]
    if len(keys) != len(a.score.items):  # per-item scores that are no questions (e.g. circular groups)
        keys, asked = list(a.score.items), []
    items_a, items_b = (np.array([result.score.items[key] for key in keys]) for result in (a, b))
    names = {group: i for i, group in enumerate(dict.fromkeys(a.score.groups[key] for key in keys))}
    place = np.array([names[a.score.groups[key]] for key in keys])
    is_mean = type(benchmark).statistic is Benchmark.statistic
    if is_mean or not asked:
        value = statistics.mean_value(items_a, items_b, place)
    else:
        value, draws = _own_metric(benchmark, asked, items_a, items_b, place), min(draws, SLOW_DRAWS)
    drawn = statistics.replicates(value, len(names), draws, seed)
    bounds = statistics.interval(value, len(names), drawn)
    up, down = int((items_b > items_a).sum()), int((items_b < items_a).sum())
    if is_mean and set(np.unique([items_a, items_b])) <= {0.0, 1.0}:
        p, test = statistics.mcnemar(up, down), "McNemar, exact"
    else:
        changed = np.bincount(place, items_a != items_b, len(names)) > 0
        p, test = statistics.sign_flip(value, changed, draws, seed), "sign flips"
    found = Contrast(
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
        tokens_a=a.tokens,
        tokens_b=b.tokens,
    )
    return found, drawn


def _own_metric(
    benchmark: Benchmark, samples: Sequence[Sample], items_a: Any, items_b: Any, place: Any
) -> statistics.Value:
    """The benchmark's own headline, of questions of which some are answered by a and some by b."""
    twin = [replace(sample, key=f"{sample.key}\0b", group=f"{sample.group}\0b") for sample in samples]
    own: Callable[[Any], Any] = benchmark.statistic([*samples, *twin], np.concatenate([items_a, items_b]))
    columns = np.concatenate([place, place + place.max() + 1])
    return lambda weights: own(weights[..., columns])


def contrasts(
    pairs: Sequence[tuple[Benchmark, Sequence[Sample], Result, Result]], draws: int = DRAWS, seed: int = 0
) -> list[Contrast]:
    """One comparison per benchmark, p-values corrected over them, and their average when there are several."""
    found, drawn = [], []
    for benchmark, samples, a, b in pairs:
        one, replicates = contrast(benchmark, samples, a, b, draws, seed)
        found.append(one)
        drawn.append(replicates[:SLOW_DRAWS] / scale(one.benchmark))
    adjusted = statistics.holm([one.p for one in found if one.p is not None])
    found = [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]
    if len(found) > 1:
        found.append(_average(found, drawn))
    return found


def scale(name: str) -> float:
    """MME's perception goes up to 2000; divided by 20 it is on the scale of the others."""
    return 20.0 if name == "mme" else 1.0


def _average(found: Sequence[Contrast], drawn: Sequence[Any]) -> Contrast:
    """The unweighted mean over benchmarks. Its interval: each benchmark is resampled on its own."""
    count = min(len(one) for one in drawn)
    low, high = np.quantile(np.mean([one[:count] for one in drawn], axis=0), [0.025, 0.975])
    a, b = (float(np.mean([value / scale(one.benchmark) for one, value in zip(found, values, strict=True)]))
            for values in ([one.value_a for one in found], [one.value_b for one in found]))  # fmt: skip
    tokens = [_mean([getattr(one, name) for one in found]) for name in ("tokens_a", "tokens_b")]
    total = {
        name: sum(getattr(one, name) for one in found)
        for name in ("up", "down", "n", "groups", "missing_a", "missing_b")
    }
    return Contrast(
        benchmark="average",
        a=found[0].a,
        b=found[0].b,
        value_a=a,
        value_b=b,
        delta=b - a,
        low=float(low),
        high=float(high),
        p=None,
        test="",
        tokens_a=tokens[0],
        tokens_b=tokens[1],
        **total,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# -- tables --------------------------------------------------------------------------------------------------------


def score_table(title: str, found: Sequence[Scored]) -> Table:
    arms = list(dict.fromkeys(arm for one in found for arm in one.arms))
    rows: list[list[Any]] = []
    failed = missing = 0
    for one in found:
        first = next(iter(one.arms.values())).score
        rows.append([first.name, first.metric, first.n, *(_value(one.arms.get(arm)) for arm in arms)])
        failed += sum(result.failed for result in one.arms.values())
        missing += sum(result.score.missing - result.failed for result in one.arms.values())
    notes = []
    if len(found) > 1:
        means = arm_means(found)
        rows.append(["average", "mean of the above (MME / 20)", None, *(means[arm] for arm in arms)])
        values = [
            {one.arms[arm].score.name: one.arms[arm].score.value for one in found if arm in one.arms} for arm in arms
        ]
        for name, average in AVERAGES.items():
            if all(map(average.complete, values)):
                rows.append([name, f"{average.recipe}, version {average.version}", None, *map(average, values)])
    if failed:
        notes.append(f"{failed} answers are none (unreadable pictures, NaN); they count as wrong.")
    if missing:
        notes.append(f"{missing} questions have no answer yet; they count as wrong. Start the run again to finish it.")
    for one in found:
        if judge := next(iter(one.arms.values())).score.info.get("judge"):
            notes.append(f"{one.benchmark.name} was graded by {', '.join(judge)}.")
    return Table(title, ["benchmark", "metric", "n", *arms], rows, notes)


def _value(result: Result | None) -> float | None:
    return None if result is None else result.score.value


def arm_means(found: Sequence[Scored]) -> dict[str, float | None]:
    """The plain mean of each arm over the benchmarks; None for an arm that lacks one of them."""
    means: dict[str, float | None] = {}
    for arm in dict.fromkeys(arm for one in found for arm in one.arms):
        scores = [one.arms[arm].score for one in found if arm in one.arms]
        complete = len(scores) == len(found)
        means[arm] = _mean([score.value / scale(score.name) for score in scores]) if complete else None
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
    "up",
    "down",
    "n",
    "groups",
    "tokens",
]


def contrast_table(found: Sequence[Contrast], draws: int) -> Table:
    baseline = found[0].a if found else ""
    rows = [
        [one.benchmark, one.b, one.value_b, one.delta, one.low, one.high, _p(one.p), _p(one.p_holm), one.up, one.down,
         one.n, one.groups, one.tokens_b]
        for one in found
    ]  # fmt: skip
    notes = [
        f"Δ: difference to {baseline}, paired by question. Interval: BCa bootstrap of {draws} draws ({SLOW_DRAWS} for "
        "metrics that are no mean), whole images or groups drawn. p: exact McNemar for right/wrong, sign flips of "
        "groups otherwise; Holm over the benchmarks. up/down: questions won and lost. tokens: mean over layers.",
    ]
    return Table(f"Differences to {baseline}", HEAD, rows, notes)


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
    references: Sequence[tuple[Folder, str]], data: str | None, judge: Any, draws: int, seed: int
) -> list[Contrast]:
    """Arms of several runs against the first one named, on the benchmarks they share."""
    sides = []
    for folder, arm in references:
        scored = {one.benchmark.name: one for one in results(folder, data, judge=judge) if arm in one.arms}
        if not scored:
            raise ValueError(f"{folder.path} holds no rows of the arm {arm!r}")
        sides.append((f"{folder.path.name}:{arm}", arm, scored))
    (label_a, arm_a, first), *others = sides
    out = []
    for label_b, arm_b, second in others:
        shared = [name for name in first if name in second]
        if not shared:
            raise ValueError(f"{label_a} and {label_b} share no benchmark")
        pairs = [
            (
                first[name].benchmark,
                first[name].samples,
                replace(first[name].arms[arm_a], label=label_a),
                replace(second[name].arms[arm_b], label=label_b),
            )
            for name in shared
        ]
        out += contrasts(pairs, draws, seed)
    return out


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run folder, or RUN:ARM; several are compared with the first"
    )
    parser.add_argument("--baseline", default="none", help="the arm that the others of one run are compared with")
    parser.add_argument("--data", help="where the annotations are, when they moved since the run")
    parser.add_argument(
        "--draws", type=int, default=DRAWS, help="bootstrap draws and permutations (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="also write table.md, table.csv and table.tex into this folder")
    judging.arguments(parser)
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    judge = judging.from_arguments(args)
    references = [_reference(text) for text in args.runs]
    tables = []
    if len(references) == 1 and references[0][1] is None:
        folder = references[0][0]
        scored = results(folder, args.data, judge=judge)
        if not scored:
            raise ValueError(f"{folder.path} holds no rows")
        arms = {arm for one in scored for arm in one.arms}
        if args.baseline not in arms:
            raise ValueError(f"{folder.path} has no arm {args.baseline!r}; it has {', '.join(sorted(arms))}")
        tables.append(score_table(str(folder.path), scored))
        found = within(scored, args.baseline, args.draws, args.seed)
    elif len(references) == 1:
        raise ValueError("compare needs a run folder, or at least two RUN:ARM")
    else:
        found = across([(folder, arm or "none") for folder, arm in references], args.data, judge, args.draws, args.seed)
    if found:
        tables.append(contrast_table(found, args.draws))
    for table in tables:
        show(table)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        write(tables, Path(args.out))
    return {"comparisons": [asdict(one) for one in found], "draws": args.draws, "seed": args.seed}


def _reference(text: str) -> tuple[Folder, str | None]:
    if Path(text).is_dir() or ":" not in text:
        return Folder(text), None
    path, _, arm = text.rpartition(":")
    return Folder(path), arm
