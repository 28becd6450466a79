"""What debiasing gains, run by run, beside the gains that were published; and what the border shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eval.bias.strength import Measured, interval
from eval.core.tables import Table
from eval.papers import artefacts, measures, ways
from eval.papers.artefacts import Planned
from eval.papers.budgets import Side, debiased, gap, signed
from eval.papers.task import Task
from eval.scoring import verdict
from eval.scoring.averages import AVERAGES
from eval.scoring.contrast import LEVEL
from eval.scoring.results import Scored
from eval.showing import charts, drawings


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
    last = debiased(scored)
    by_name = {entry.benchmark.name: interval(gap(Side([entry], "none"), Side([entry], last))) for entry in scored}
    whole = interval(gap(Side(scored, "none"), Side(scored, last)))
    return {**by_name, "avg10" if {*by_name} == {*AVERAGES["avg10"].members} else "mean": whole}


def asked(scored: list[Scored]) -> int:
    """How many questions all benchmarks together have."""
    return sum(len(entry.samples) for entry in scored)


def varied(planned: Planned) -> float | None:
    """What a sweep varies: the depth of the cut, or the budget; None: the run belongs to no sweep."""
    if planned.called == planned.label:
        return None
    return float(planned.depth if planned.depth is not None else planned.keep or 0)
