"""Every method at several budgets: what debiasing changes, and what is left beside tokens chosen without looking.

All differences are paired by question and averaged over the benchmarks; pictures are drawn whole, the same ones for
every method, so that means over methods have intervals too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.bias.diagnosis import bracket
from eval.bias.strength import Array, Measured, interval
from eval.core.tables import Cell, Table
from eval.papers import artefacts, ways
from eval.papers.task import Task
from eval.scoring import compare
from eval.scoring.contrast import LEVEL, SLOW_DRAWS, Contrast, apart, contrast, scale
from eval.scoring.results import Scored
from eval.scoring.verdict import MARK
from eval.showing import charts, drawings, figures
from pruners import catalogue

ARMS = ("none", "trend", "padding", "both")
BASELINES = catalogue.baselines()


@dataclass(frozen=True)
class Side:
    """One arm of one run."""

    scored: Sequence[Scored]
    arm: str


def budgets(task: Task) -> list[Table]:
    """A row for every run with its differences, the means over the methods, and the figures of both."""
    loaded = task.finished()
    ours = {(run.method, run.keep): scored for run, _, scored in loaded if run.arms != ("unpruned",)}
    compared = ways.corrected({at: debiasing(scored, task.base.draws) for at, scored in ours.items()})
    rows: list[list[Cell]] = []
    drawn: dict[str, dict[Any, dict[str, Array]]] = {}  # what is compared -> budget -> method -> resamples
    for run, _, scored in loaded:
        means = compare.arm_means(scored)
        if run.arms == ("unpruned",):
            rows.append(["unpruned", None, None, means["unpruned"], *[None] * (len(HEAD) - 4)])
            continue
        points = figures.arm_points(scored)
        gaps = versus(scored, {name: ours.get((name, run.keep)) for name in BASELINES if name != run.method})
        for name, difference in gaps.items():
            drawn.setdefault(name, {}).setdefault(run.keep, {})[run.method] = difference
        shown = [signed(interval(gaps[name])) if name in gaps else None for name in COMPARED]
        shown.insert(1, MARK if compared[run.method, run.keep].differs else "")
        rows.append([run.method, run.keep, points["none"][1], *(means.get(arm) for arm in ARMS), *shown])
    runs = {folder.path: (folder.info(), scored) for _, folder, scored in loaded}
    of = task.artefact.runs[-1].of
    made = figures.together(runs) | {f"{name}-by-method": figure for name, figure in by_method(drawn, of).items()}
    for name, figure in made.items():
        drawings.save(figure, task.here / "figures" / name)
    names = ", ".join(run.benchmark.name for run in next(iter(ours.values()), []))
    notes = [
        f"Means over {names} (MME / 20). A budget is of {of} tokens, as each method's authors count it; tokens: what a "
        "layer sees, mean. `debiased` is both, or padding for methods without a trend. Random and grid at the same "
        f"budget, their padding silenced where debiased stands. In brackets 95 %: {SLOW_DRAWS} paired bootstrap draws.",
        f"{MARK}: debiased differs from none, p < {LEVEL:g} after Holm's correction over all {len(compared)} rows; the "
        "other differences are not tested.",
        *artefacts.sources(task.artefact),
    ]
    return [Table(task.artefact.title, HEAD, rows, notes), overall(drawn)]


COMPARED = {
    "debias": "debiased - none",
    "none-random": "none - random",
    "debiased-random": "debiased - random",
    "none-grid": "none - grid",
    "debiased-grid": "debiased - grid",
}
HEAD = ["method", "budget", "tokens", *ARMS, "debiased - none", "", *list(COMPARED.values())[1:]]


def debiasing(scored: Sequence[Scored], draws: int) -> Contrast:
    """A method debiased against itself untouched: the mean over its benchmarks."""
    arms = "none", debiased(scored)
    first, last = (ways.alone(scored, arm) for arm in arms)
    return ways.against(first, last, arms, draws)


def debiased(scored: Sequence[Scored]) -> str:
    """The last arm that a method has: with everything that applies to it."""
    return "both" if any("both" in entry.arms for entry in scored) else "padding"


def versus(scored: Sequence[Scored], rivals: Mapping[str, Sequence[Scored] | None]) -> dict[str, Array]:
    """Resampled differences: to the method untouched, and to rivals that look at nothing."""
    last = debiased(scored)
    gaps = {"debias": gap(Side(scored, "none"), Side(scored, last))}
    for name, rival in rivals.items():
        if rival is not None:
            gaps[f"none-{name}"] = gap(Side(rival, "none"), Side(scored, "none"))
            gaps[f"debiased-{name}"] = gap(Side(rival, "padding"), Side(scored, last))
    return gaps


def gap(a: Side, b: Side) -> Array:
    """b - a as measured, then of every resample: the mean over benchmarks."""
    parts = []
    for first, second in zip(a.scored, b.scored, strict=True):
        benchmark = first.benchmark
        result, drawn, _ = contrast(benchmark, first.samples, first.arms[a.arm], second.arms[b.arm], SLOW_DRAWS)
        parts.append(np.concatenate([[result.delta], apart(drawn, result.benchmark)]) / scale(benchmark.name))
    return np.asarray(np.mean(parts, axis=0))


def by_method(drawn: Mapping[str, Mapping[Any, Mapping[str, Array]]], of: int) -> dict[str, Any]:
    """Figures of differences, a row per method; budgets are `of` so many tokens."""
    made = {}
    for name in ("debias", "debiased-random"):
        rows: dict[str, dict[str, Measured]] = {}
        for keep, methods in drawn.get(name, {}).items():
            for method, draws in methods.items():
                rows.setdefault(method, {})[f"{keep} of {of}"] = interval(draws)
        if rows:
            made[name] = charts.effects(rows, f"mean score, {COMPARED[name]}")
    return made


def overall(drawn: Mapping[str, Mapping[Any, Mapping[str, Array]]]) -> Table:
    """Means over the methods that look at something."""
    rows: list[list[Cell]] = []
    for keep in drawn.get("debias", {}):
        cells: list[Cell] = []
        for name in COMPARED:
            methods = [draws for method, draws in drawn.get(name, {}).get(keep, {}).items() if method not in BASELINES]
            cells.append(signed(interval(np.mean(methods, axis=0))) if methods else None)
        rows.append([keep, len([method for method in drawn["debias"][keep] if method not in BASELINES]), *cells])
    return Table("Mean over the methods", ["budget", "methods", *COMPARED.values()], rows)


def signed(measured: Measured) -> str:
    """A difference and its 95 % interval in words: +0.5 [0.1, 0.9]."""
    text = bracket(measured, 1)
    return text if text.startswith("-") else f"+{text}"
