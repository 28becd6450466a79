"""By the layer that a score is read at: what it knows, how biased it is, and what debiasing brings.

One paper removes the bias of shallow attention, the other reads a deep layer instead. This table holds both: every
layer, arm and budget, for the plain ranking and for one that keeps distinct tokens, beside tokens chosen without
looking. The trend of every layer is fitted on held-out questions, in one pass over all layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debias import trends
from debias.fitting.settle import NONE, Settled, settle
from eval.answering.store import decode
from eval.bias.diagnose import special, without_padding
from eval.bias.diagnosis import bracket
from eval.bias.fitting import PICTURES, calibration
from eval.bias.probe import watch
from eval.bias.strength import Measured, mean
from eval.core.embedded import data_of
from eval.core.tables import Table, between, say
from eval.papers import artefacts
from eval.papers.artefacts import Planned
from eval.papers.task import Task
from eval.reading.images import open_image
from eval.reading.media import request
from eval.scoring.contrast import LEVEL, Contrast, contrast, marked
from eval.scoring.results import Scored
from eval.scoring.verdict import MARK
from eval.showing import charts, drawings
from eval.showing.cells import canvas_of


@dataclass(frozen=True)
class Cell:
    """One run of the grid: a method that cuts before a layer, with its scores."""

    planned: Planned
    layer: int | None  # None: no layer is read
    scored: Scored


def prepare(task: Task) -> Task:
    """The task with a trend for every run that cuts at a depth, fitted to the attention of the layer before the cut."""
    layers = {run.label: task.settings(run).fields["layer"] for run in task.artefact.runs if run.depth is not None}
    missing = [layer for layer in sorted(set(layers.values())) if not trend_file(task, layer).is_file()]
    if missing:
        settled, tokens = fitted(task)
        whole = artefacts.artefact(task.artefact.name).runs  # a later call may want others of them
        methods = sorted({run.method for run in whole if run.depth is not None})
        for layer in missing:
            settled_layer = settled[layer - 1]
            record = {
                "benchmark": trends.EVERY,
                **trends.describe(replace(settled_layer.trend, length=tokens, residual=None)),
                "rise": list(settled_layer.rise),
                "found": "trend" if settled_layer.agreed else NONE,
                "layer": layer,
                "command": f"python -m eval reproduce {task.artefact.name}",
            }
            trends.dump([{"method": method, **record} for method in methods], trend_file(task, layer))
        rises = [
            {"rise": layer_fit.rise, "r2": layer_fit.fitted.r2, "found": layer_fit.agreed} for layer_fit in settled
        ]
        task.write("trends.json", rises)
    return replace(task, trends={label: str(trend_file(task, layer)) for label, layer in layers.items()})


def trend_file(task: Task, layer: int) -> Path:
    """Where the trend before one layer is kept."""
    return task.here / f"trends-layer-{layer}.toml"


def fitted(task: Task) -> tuple[list[Settled], int]:
    """Of every layer, the trend of its last row's attention over the held-out questions, padding left out; and how many
    tokens it is over."""
    first = next(run for run in task.artefact.runs if run.depth is not None)
    count = min(PICTURES, max(4, task.base.limit or PICTURES))
    say(f"fitting the trend of every layer on {count} held-out pictures")
    task.here.mkdir(parents=True, exist_ok=True)
    with task.resolved(first, out=None) as chosen:
        asked = calibration("image", data_of(task.checkpoint, half="heldout"), list(task.benchmarks), count)
        requests = [request(sample, benchmark.conversation) for benchmark, samples in asked for sample in samples]
        seen = watch(chosen.adapter("image"), requests[:count])
    values = [without_padding(seen, seen.heads_mean[:, layer]) for layer in range(seen.attention.shape[1])]
    return [settle(torch.as_tensor(curve), special(seen)) for curve in values], seen.attention.shape[-1]


def grid(task: Task) -> list[Table]:
    """The tables, and one figure a budget."""
    cells = [
        Cell(run, task.settings(run).fields.get("layer") if run.depth is not None else None, scored)
        for run, _, entries in task.finished()
        for scored in entries
    ]
    rises = json.loads((task.here / "trends.json").read_text(encoding="utf-8"))
    canvas = canvas_of(task.checkpoint)
    rows: list[list[Any]] = []
    for cell in cells:
        for arm in cell.planned.arms:
            recall, padding = kept(cell.scored, arm, canvas)
            row = [cell.planned.called, cell.layer, cell.planned.keep if arm != "unpruned" else None, arm]
            shown = [bracket(measured, 2) if measured else None for measured in (recall, padding)]
            rows.append([*row, cell.scored.arms[arm].score.value, *shown])
    contrasts = effects(cells)
    budgets = {
        measured.planned.keep for measured in cells if measured.layer is not None and measured.planned.keep is not None
    }
    for keep in budgets:
        drawings.save(charts.by_layer(*series(cells, keep), rises), task.here / "figures" / f"layers-{keep:g}")
    questions = len(cells[0].scored.samples) if cells else 0
    notes = [
        f"{questions} questions. recall: share of the patches of what is asked about that stay; padding: share of the "
        "kept tokens that show padding. In brackets 95 % over pictures.",
    ]
    head = ["method", "layer", "keep", "arm", "score", "recall, 95 %", "padding, 95 %"]
    return [difference_table(contrasts), rise_table(rises), Table(task.artefact.title, head, rows, notes)]


def kept(scored: Scored, arm: str, canvas: Any) -> tuple[Measured | None, Measured | None]:
    """Recall of the patches that the question is about, and the share of kept tokens that show padding."""
    samples = {sample.key: sample for sample in scored.samples}
    recall, padding = [], []
    for row in scored.arms[arm].rows:
        sample, seen = samples[row["metadata"]["key"]], row["metadata"].get("kept")
        if not seen:
            continue
        size = open_image(sample).size
        shown = canvas(size)
        mine = np.array(decode(seen[-1]), int)
        picture = overlap(shown.cells, shown.box((0, 0, *size)))
        padding.append(1 - float(picture[mine].mean()))
        boxes = sample.meta.get("boxes") or []
        if boxes:
            asked = np.any([overlap(shown.cells, shown.box(tuple(box))) for box in boxes], 0)
            recall.append(float(asked[mine].sum() / asked.sum()))
    return (mean(np.array(recall)) if recall else None), (mean(np.array(padding)) if padding else None)


def overlap(cells: Any, box: tuple[float, float, float, float]) -> Any:
    """Which cells share area with a box."""
    wide = np.minimum(cells[:, 2], box[2]) - np.maximum(cells[:, 0], box[0])
    high = np.minimum(cells[:, 3], box[3]) - np.maximum(cells[:, 1], box[1])
    return (wide > 0) & (high > 0)


def effects(cells: Sequence[Cell]) -> list[tuple[Cell, Contrast]]:
    """Both against none of every run at a layer, corrected together by Holm."""
    pairs = [cell for cell in cells if cell.layer is not None and {"none", "both"} <= set(cell.planned.arms)]
    contrasts = []
    for cell in pairs:
        result, arms = cell.scored, cell.scored.arms
        contrasts.append(contrast(result.benchmark, result.samples, arms["none"], arms["both"])[0])
    return list(zip(pairs, marked(contrasts), strict=True))


def difference_table(contrasts: Sequence[tuple[Cell, Contrast]]) -> Table:
    """What debiasing changes in every run at a layer, those that differ in bold."""
    rows = [
        [cell.planned.called, cell.layer, cell.planned.keep, result.value_a, result.value_b,
         between(result.delta, result.low, result.high), MARK if result.differs else ""]
        for cell, result in contrasts
    ]  # fmt: skip
    notes = [sentences(contrasts), f"{MARK}: p < {LEVEL:g} after Holm's correction over all {len(contrasts)} rows."]
    head = ["method", "layer", "keep", "none", "both", "both − none, 95 %", ""]
    strong = [place for place, (_, result) in enumerate(contrasts) if result.differs]
    return Table("What debiasing brings, by layer", head, rows, notes, strong)


def sentences(contrasts: Sequence[tuple[Cell, Contrast]]) -> str:
    """When debiasing is worth it, in words."""
    parts = []
    for word, sign in (("helps", 1), ("harms", -1)):
        where = [
            f"{cell.planned.called} before layer {cell.layer} with {cell.planned.keep:g}"
            for cell, result in contrasts
            if result.differs and sign * result.delta > 0
        ]
        if where:
            parts.append(f"Debiasing {word}: {'; '.join(where)}.")
    rest = sum(not result.differs for _, result in contrasts)
    parts.append(f"In {rest} of {len(contrasts)} rows no difference can be told at this number of questions.")
    return " ".join(parts)


def rise_table(rises: Sequence[Mapping[str, Any]]) -> Table:
    """How steeply every layer's attention rises; `rises` has a record of each."""
    rows: list[list[Any]] = [
        [layer, between(*record["rise"]), record["r2"], "trend" if record["found"] else NONE]
        for layer, record in enumerate(rises)
    ]
    notes = [
        "rise: log of last over first of the exponential fitted to the mean attention of a layer's last row. A cut "
        "before layer K ranks by layer K - 1."
    ]
    return Table("The bias of every layer", ["layer", "rise, 95 %", "R^2", "found"], rows, notes)


def series(cells: Sequence[Cell], keep: float) -> tuple[dict[str, dict[str, dict[int, float]]], dict[str, float]]:
    """Method -> arm -> layer -> score, at one budget; and the scores of runs that read no layer."""
    lines: dict[str, dict[str, dict[int, float]]] = {}
    flat: dict[str, float] = {}
    for cell in cells:
        for arm in cell.planned.arms:
            value = cell.scored.arms[arm].score.value
            if cell.layer is None and (arm == "unpruned" or (cell.planned.keep == keep and arm == "none")):
                flat["unpruned" if arm == "unpruned" else cell.planned.called] = value
            elif cell.layer is not None and cell.planned.keep == keep:
                lines.setdefault(cell.planned.called, {}).setdefault(arm, {})[cell.layer] = value
    return lines, flat
