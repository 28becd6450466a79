"""Every way to take position out of a score, against the untouched score: paired by question, Holm over all ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.bias.strength import Measured
from eval.core.tables import Cell, Table, between, tenths
from eval.papers import artefacts
from eval.papers.artefacts import Planned
from eval.papers.grid import kept
from eval.papers.task import Task
from eval.scoring import statistics, verdict
from eval.scoring.compare import arm_means
from eval.scoring.contrast import LEVEL, SLOW_DRAWS, Contrast, contrasts, marked
from eval.scoring.results import Scored
from eval.showing import charts, drawings
from eval.showing.cells import canvas_of
from pruners import catalogue

RAW = "raw"
Block = tuple[str, int, int]  # method, budget, layer
HEAD = ["way", "score", f"− {RAW}, 95 %", "", "p (Holm)", "could see", "recall", "tokens"]


def ways(task: Task) -> list[Table]:
    """A table for each method, budget and layer, a row a way; and all of it as a heat map and as forest plots."""
    blocks: dict[Block, dict[str, list[Scored]]] = {}
    for planned, _, scored in task.finished():
        blocks.setdefault(block(planned), {})[planned.way or RAW] = scored
    compared = corrected({(at, way): against(blocks[at][RAW], scored, (RAW, way), task.base.draws)
                          for at, by_way in blocks.items() if RAW in by_way
                          for way, scored in by_way.items() if way != RAW})  # fmt: skip
    order = dict.fromkeys(planned.way for planned in task.artefact.runs)
    for name, figure in drawn(compared, list(order)).items():
        drawings.save(figure, task.here / "figures" / name)
    titles = {block(planned): task.place(planned) for planned in task.artefact.runs if not planned.way}
    canvas = canvas_of(task.checkpoint)
    shown = [shown_block(at, by_way, compared, canvas, titles[at]) for at, by_way in blocks.items()]
    first = [entry for by_way in blocks.values() for entry in next(iter(by_way.values()))]
    names = ", ".join(dict.fromkeys(entry.benchmark.name for entry in first))
    notes = [
        f"score: the mean over {names}. {verdict.MARK}: differs from {RAW}, p < 0.05 after Holm's correction over the "
        f"{len(compared)} comparisons of all tables here. could see: the smallest true difference that so many "
        "questions show four times in five at that level. recall: share of the patches of what is asked about that "
        "stay, where that is known. tokens: what a layer sees, mean. docs/ways.md says what each way computes.",
        *artefacts.sources(task.artefact),
    ]
    return [*shown[:-1], replace(shown[-1], notes=[*shown[-1].notes, *notes])] if shown else [empty(task, notes)]


def empty(task: Task, notes: Sequence[str]) -> Table:
    """The table where no run is finished."""
    return Table(task.artefact.title, HEAD, [], notes)


def block(planned: Planned) -> Block:
    """The block that a run belongs to, as its label names it."""
    method, keep, layer, _ = planned.label.split("-", 3)
    return method, int(keep), int(layer.removeprefix("L"))


def alone(scored: Sequence[Scored], arm: str) -> list[Scored]:
    """One arm of a run, on the benchmarks that have it."""
    return [replace(entry, arms={arm: entry.arms[arm]}) for entry in scored if arm in entry.arms]


def against(first: Sequence[Scored], other: Sequence[Scored], names: tuple[str, str], draws: int) -> Contrast:
    """One side against another, each of one arm, on the benchmarks that both answered: the average where several."""
    sides = {entry.benchmark.name: entry for entry in other}
    pairs = []
    for entry in first:
        if entry.benchmark.name in sides:
            a, b = (
                replace(next(iter(side.arms.values())), label=name)
                for side, name in zip((entry, sides[entry.benchmark.name]), names, strict=True)
            )
            pairs.append((entry.benchmark, entry.samples, a, b))
    return contrasts(pairs, min(draws, SLOW_DRAWS))[-1]


def corrected(compared: Mapping[Any, Contrast]) -> dict[Any, Contrast]:
    """Holm's correction over everything that the tables compare; what could be seen is told at that level."""
    if not compared:
        return {}
    share = statistics.detectable(1, LEVEL / len(compared)) / statistics.detectable(1, LEVEL)
    rows = [replace(row, least=None if row.least is None else row.least * share) for row in compared.values()]
    return dict(zip(compared, marked(rows), strict=True))


def shown_block(
    at: Block, by_way: Mapping[str, Sequence[Scored]], compared: Mapping[Any, Contrast], canvas: Any, title: str
) -> Table:
    """One method at one budget and layer, and a sentence about each way."""
    rows: list[list[Cell]] = []
    said, strong = [], []
    for way, scored in by_way.items():
        score, rest = next(iter(arm_means(scored).values())), [recalled(scored, canvas), seen(scored)]
        contrast = compared.get((at, way))
        if contrast is None:
            rows.append([way, score, None, "", None, None, *rest])
            continue
        if contrast.differs:
            strong.append(len(rows))
        rows.append([way, score, *cells_of(contrast), *rest])
        said.append(f"{way}: {verdict.against(contrast, RAW)}")
    return Table(title, HEAD, rows, said, strong)


def cells_of(contrast: Contrast) -> list[Cell]:
    """A comparison in cells: the difference with its interval, the mark, p, and what could have been seen."""
    least = None if contrast.differs or contrast.least is None else f"{tenths(contrast.least):.1f}"
    size, mark = between(contrast.delta, contrast.low, contrast.high), verdict.MARK if contrast.differs else ""
    return [size, mark, f"{contrast.p_holm or 0:.3f}", least]


def recalled(scored: Sequence[Scored], canvas: Any) -> str | None:
    """Share of the patches of what is asked about that stay, mean over the benchmarks that say where it is."""
    told = [entry for entry in scored if any(sample.meta.get("boxes") for sample in entry.samples)]
    shares = [share[0] for entry in told if (share := kept(entry, next(iter(entry.arms)), canvas)[0]) is not None]
    return f"{sum(shares) / len(shares):.2f}" if shares else None


def seen(scored: Sequence[Scored]) -> float | None:
    """Visual tokens that a layer sees, mean over the benchmarks."""
    counts = [result.tokens for entry in scored for result in entry.arms.values() if result.tokens is not None]
    return sum(counts) / len(counts) if counts else None


def drawn(compared: Mapping[Any, Contrast], order: Sequence[str]) -> dict[str, Any]:
    """The heat map of all, and a forest plot for each budget and layer; the ways in their order."""
    if not compared:
        return {}
    cells: dict[str, dict[str, Contrast]] = {}
    forests: dict[str, dict[str, dict[str, Measured]]] = {}
    several = len({at[1:] for at, _ in compared}) > 1
    for ((method, keep, layer), way), contrast in sorted(compared.items(), key=lambda entry: order.index(entry[0][1])):
        title = catalogue.title(method)
        cells.setdefault(way, {})[f"{title}\n{keep}, L{layer}" if several else title] = contrast
        if contrast.low is not None and contrast.high is not None:
            row = forests.setdefault(f"forest-{keep}-L{layer}", {}).setdefault(way, {})
            row[title] = contrast.delta, contrast.low, contrast.high
    label = f"way − {RAW}, points, 95 %"
    made = {name: charts.effects(rows, label) for name, rows in forests.items()}
    return {"heat-map": charts.heat(cells, f"way − {RAW}, points"), **made}
