"""What debiasing changes: of every method at several budgets, beside tokens chosen without looking; run by run, beside
the gains that were published; and by what the border shows.

All differences are paired by question and averaged over the benchmarks; pictures are drawn whole, the same ones for
every method, so that means over methods have intervals too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval.bias.diagnosis import bracket
from eval.bias.strength import Array, Measured, interval
from eval.core.tables import Cell, Table
from eval.papers import artefacts, measures, ways
from eval.papers.artefacts import Planned
from eval.papers.task import Task
from eval.scoring import compare, verdict
from eval.scoring.averages import AVERAGES
from eval.scoring.contrast import LEVEL, SLOW_DRAWS, Contrast, apart, contrast, scale
from eval.scoring.results import Scored
from eval.scoring.verdict import MARK
from eval.showing import charts, drawings, figures
from pruners import catalogue

ARMS = ("none", "trend", "padding", "both")
BASELINES = catalogue.baselines()


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
    untouched, last = ways.alone(scored, "none"), ways.alone(scored, debiased(scored))
    gaps = {"debias": gap(untouched, last)}
    for name, rival in rivals.items():
        if rival is not None:
            gaps[f"none-{name}"] = gap(ways.alone(rival, "none"), untouched)
            gaps[f"debiased-{name}"] = gap(ways.alone(rival, "padding"), last)
    return gaps


def gap(first: Sequence[Scored], last: Sequence[Scored]) -> Array:
    """last - first, each of one arm, as measured and then of every resample: the mean over benchmarks."""
    parts = []
    for entry, other in zip(first, last, strict=True):
        (a,), (b,) = entry.arms.values(), other.arms.values()
        result, drawn, _ = contrast(entry.benchmark, entry.samples, a, b, SLOW_DRAWS)
        parts.append(np.concatenate([[result.delta], apart(drawn, result.benchmark)]) / scale(entry.benchmark.name))
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


def gains(task: Task) -> list[Table]:
    """The scores of every run, and a second table of their differences: both (or padding) minus none."""
    known = [row for row in artefacts.published(task.artefact.published) if row.gain]
    rows: list[list[Any]] = []
    drawn: dict[str, dict[float, Measured]] = {}
    reported: dict[str, dict[float, float]] = {}
    columns: list[str] = []
    for planned, _, scored in task.finished():
        if planned.arms == ("unpruned",):
            continue
        by_column = of_run(scored)
        columns = columns or list(by_column)
        rows.append([planned.label, "ours", *(signed(by_column[column]) for column in columns), asked(scored)])
        place = varied(planned)
        for column, measured in by_column.items() if place is not None else ():
            drawn.setdefault(column, {})[place] = measured  # type: ignore[index]
        for row in known:
            if row.of(planned, "both"):
                shown = [f"+{row.values[key]:.1f}" if key in row.values else None for key in columns]
                rows.append([planned.label, f"published: {row.table}", *shown, None])
                for column, value in row.values.items() if place is not None else ():
                    reported.setdefault(column, {})[place] = value  # type: ignore[index]
    if drawn:
        label = "visual tokens kept, of 576" if task.artefact.runs[0].depth is None else "layer of the cut, of 32"
        figure = charts.sweep(drawn, reported, label, "both − none, points")
        drawings.save(figure, task.here / "figures" / "gains")
    notes = ["debiased minus none, questions paired; in brackets 95 %: bootstrap over pictures. MME / 20."]
    if not known:
        notes.append("No gain of these runs is published as a number.")
    title = f"{task.artefact.title}: differences"
    return [*measures.scores(task), Table(title, ["run", "whose", *columns, "questions"], rows, notes)]


def fillings(task: Task) -> list[Table]:
    """The scores of every run, and every filling of the border, seen or silenced, against the first one, seen."""
    sides: dict[str, list[Scored]] = {}
    for planned, _, scored in task.finished():
        for arm, word in (("none", "seen"), ("padding", "silenced")):
            if one_arm := ways.alone(scored, arm):
                sides[f"{planned.label}, {word}"] = one_arm
    if not sides:
        return measures.scores(task)
    first, *others = sides
    compared = ways.corrected(
        {name: ways.against(sides[first], sides[name], (first, name), task.base.draws) for name in others}
    )
    rows: list[list[Any]] = [[name, *ways.cells_of(entry)] for name, entry in compared.items()]
    strong = [place for place, entry in enumerate(compared.values()) if entry.differs]
    notes = [
        *(f"{name}: {verdict.against(entry, first)}" for name, entry in compared.items()),
        "means over the benchmarks, paired by question, 95 %: bootstrap over pictures. "
        f"{verdict.MARK}: p < {LEVEL:g} after Holm's correction "
        f"over these {len(compared)}. could see: the smallest true difference that so many questions "
        "show four times in five at that level.",
    ]
    if compared:
        figure = charts.forest([replace(entry, benchmark=name) for name, entry in compared.items()])
        drawings.save(figure, task.here / "figures" / "fillings")
    head = ["border", f"− {first}, 95 %", "", "p (Holm)", "could see"]
    return [*measures.scores(task), Table(f"{task.artefact.title}: differences", head, rows, notes, strong)]


def of_run(scored: list[Scored]) -> dict[str, Measured]:
    """Benchmark -> what debiasing changes, with its interval; and the mean over all, named as the recipe that it is."""
    first, last = ways.alone(scored, "none"), ways.alone(scored, debiased(scored))
    by_name = {a.benchmark.name: interval(gap([a], [b])) for a, b in zip(first, last, strict=True)}
    whole = interval(gap(first, last))
    return {**by_name, "avg10" if {*by_name} == {*AVERAGES["avg10"].members} else "mean": whole}


def asked(scored: list[Scored]) -> int:
    """How many questions all benchmarks together have."""
    return sum(len(entry.samples) for entry in scored)


def varied(planned: Planned) -> float | None:
    """What a sweep varies: the depth of the cut, or the budget; None: the run belongs to no sweep."""
    if planned.called == planned.label:
        return None
    return float(planned.depth if planned.depth is not None else planned.keep or 0)
