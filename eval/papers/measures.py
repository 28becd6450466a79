"""What an artefact measures: scores beside the published scores, biases, tokens in boxes, whether padding is a sink
of attention, and what debiasing costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debias.fitting.settle import NONE
from eval import benchmarks
from eval.answering.backends import greedy
from eval.answering.checkpoints import config_of
from eval.answering.resolved import Resolved
from eval.answering.store import decode
from eval.bias import diagnosis
from eval.bias import strength as bias
from eval.bias.diagnose import diagnose
from eval.bias.fitting import calibration
from eval.bias.probe import KINDS, Activations, activations
from eval.bias.settings import DiagnosisSettings
from eval.core.embedded import world_of
from eval.core.tables import Cell, Table
from eval.papers import artefacts, strengths
from eval.papers.artefacts import REFCOCO, Planned, published_rows
from eval.papers.task import Task
from eval.reading.media import request
from eval.scoring.averages import AVERAGES
from eval.scoring.contrast import scale
from eval.scoring.results import Scored, questions
from eval.showing import charts, drawings, figures
from eval.showing.cells import canvas_of
from eval.speed.measure import Stopwatch, in_turn
from pruners.parts.schedule import at_depth

SMALL = 0.1  # error of a rise: a tenth of the last weight
ROUNDS = 7  # times that every variant is timed


def scores(task: Task) -> list[Table]:
    """Every run and arm, each followed by what was published about it."""
    known = [row for row in artefacts.published(task.artefact.published) if not row.gain]
    ours: dict[str, dict[str, dict[str, float]]] = {}
    instead: dict[str, str] = {}
    loaded: dict[Path, Any] = {}
    for planned, folder, scored in task.finished():
        loaded[folder.path] = folder.info(), scored
        instead |= {s.name: entry.benchmark.name for entry in scored for r in entry.arms.values() for s in [r.score]}
        ours[planned.label] = {
            arm: values([entry for entry in scored if arm in entry.arms], arm) for arm in planned.arms
        }
    columns = [c for c in task.artefact.columns if c != "mme_total" or any(c in row.values for row in known)]
    known = [row for row in known if row.values.keys() & set(columns)]
    rows: list[list[Any]] = []
    for planned in task.artefact.runs:
        for arm in planned.arms:
            mine = ours.get(planned.label, {}).get(arm, {})
            rows.append([planned.label, arm, "ours", *(mine.get(column) for column in columns), mine.get("tokens")])
            if task.artefact.shows(planned):
                rows += published_rows(known, planned, arm, lambda row: [*map(row.values.get, columns), None])
    rows += [
        [row.label, "none", f"published: {row.table}", *map(row.values.get, columns), None]
        for row in artefacts.beside(task.artefact)
    ]
    for name, figure in figures.together(loaded).items():
        drawings.save(figure, task.here / "figures" / name)
    head = ["run", "arm", "whose", *columns, "tokens"]
    stand_ins = [f"{own} ({name})" for name, own in instead.items() if name != own]
    notes = ["tokens: visual tokens that a layer sees, mean."]
    if stand_ins:
        notes.append(f"Scored by stand-ins, never comparable with the published: {', '.join(stand_ins)}.")
    return [Table(task.artefact.title, head, rows, [*notes, *artefacts.sources(task.artefact)])]


def values(scored: Sequence[Scored], arm: str) -> dict[str, float]:
    """Everything a column can ask for, of one arm."""
    points: dict[str, float] = {}
    splits: list[float] = []
    for entry in scored:
        score, name = entry.arms[arm].score, entry.benchmark.name
        points[name] = score.value
        if name == "mme":
            points["mme_total"] = score.parts["total"]
        if name in REFCOCO:
            own = {split: value for split, value in score.parts.items() if "/" not in split}
            points |= {f"{name}_{split}": value for split, value in own.items()}
            splits += own.values()
    parts = {name: value / scale(name) for name, value in points.items() if name in {o.benchmark.name for o in scored}}
    if len(parts) == len(scored) and parts:
        points["mean"] = sum(parts.values()) / len(parts)
    if set(parts) == set(AVERAGES["avg10"].members):
        points["avg10"] = points["mean"]
    if splits:
        points["overall"] = sum(splits) / len(splits)
    tokens = [entry.arms[arm].tokens for entry in scored]
    if tokens and None not in tokens:
        points["tokens"] = sum(tokens) / len(tokens)  # type: ignore[arg-type]
    return points


def diagnosed(task: Task, heads: bool = False) -> dict[str, Any]:
    """A diagnosis of the model on the pictures of the artefact's benchmarks, or on drawn scenes; also as figures."""
    base = task.base
    asked = DiagnosisSettings(
        task.checkpoint, images=None if base.data is None else pictures(task), heads=heads, device=base.device
    )
    diagnosis = diagnose(asked if base.limit is None else replace(asked, limit=max(4, base.limit)))
    task.write("diagnosis.json", diagnosis)
    for name, figure in figures.diagnosis_figures(diagnosis, None).items():
        drawings.save(figure, task.here / "figures" / name)
    return diagnosis


def pictures(task: Task) -> Path:
    """The folder that the first benchmark's pictures lie in."""
    samples = questions(benchmarks.get(task.benchmarks[0]), task.base.data or "", 1)
    path = samples[0].image
    if not isinstance(path, Path):
        raise ValueError(f"{task.benchmarks[0]} keeps its pictures inside its files; expected a folder of pictures")
    return path.parent


def layers(task: Task) -> list[Table]:
    """The deep-layer paper's three numbers by layer, and the signed number that tells a bias from chance."""
    result = diagnosed(task)
    config = config_of(task.checkpoint)
    depth = (config.get("text_config") or config)["num_hidden_layers"]
    known = {row.facts["layer"]: row.values for row in artefacts.published(task.artefact.published)}
    rows: list[list[Any]] = []
    for layer in result["layers"]:
        raw, chance = layer["arms"]["none"], layer["chance"]
        ours = [
            layer["prompt_stability"],
            layer["prompt_stability_chance"],
            raw["absolute_correlation"],
            chance["absolute_correlation"],
            raw["entropy"],
            raw["correlation"],
            layer["no_rope"]["correlation"],
        ]
        rows.append([layer["layer"], "ours", *(diagnosis.bracket(measured, 3) for measured in ours)])
        for number, cells in known.items():
            if at_depth(number, depth) == layer["layer"]:
                stable, related, spread = (f"{value:g}" for value in cells.values())
                rows.append(
                    [layer["layer"], f"published: layer {number}", stable, None, related, None, spread, None, None]
                )
    head = ["layer", "whose", "prompt stability", "by chance", "|correlation|", "by chance", "entropy",
            "signed correlation", "same, before RoPE"]  # fmt: skip
    notes = [
        f"{result['pictures']} {result['source']}, {result['tokens']} tokens: entropy is at most "
        f"{np.log(result['tokens']):.2f}; in brackets 95 % over pictures",
        "by chance: of the same scores shuffled over the tokens; |correlation| cannot tell a shared bias from that",
        *artefacts.sources(task.artefact),
    ]
    return [Table(task.artefact.title, head, rows, notes)]


def fit_sizes(task: Task) -> list[Table]:
    """How many pictures a trend takes: the standard error of its rise by layer, and how many make it small."""
    facts = diagnosed(task)
    sizes = list(facts["layers"][0]["fit_error"])
    rows: list[list[Any]] = []
    for layer in facts["layers"]:
        last = layer["fit_error"][sizes[-1]] if sizes else math.nan
        needed = math.ceil(sizes[-1] * (last / SMALL) ** 2) if sizes else None
        what = "trend" if layer["trend"]["found"] else NONE
        rows.append(
            [layer["layer"], diagnosis.bracket(layer["trend"]["rise"]), *layer["fit_error"].values(), needed, what]
        )
    head = ["layer", "rise, 95 %", *(f"{size} pictures" for size in sizes), f"pictures for {SMALL}", "found"]
    notes = [
        f"{facts['pictures']} {facts['source']}, {facts['tokens']} tokens. Of each layer: the rise of the trend fitted "
        "to half of them (log of last over first), and its standard error when it is fitted to so many, which falls "
        f"with the root of their number. An error of {SMALL} is a tenth of the last position's weight.",
    ]
    return [Table(task.artefact.title, head, rows, notes)]


def bias_strengths(task: Task) -> list[Table]:
    """The diagnosis of the model in every arm, with its heads."""
    return diagnosis.tables(diagnosed(task, heads=True))


def iou(task: Task) -> list[Table]:
    """Mean IoU of what the kept tokens show with the box, over the questions that were answered."""
    known = artefacts.published(task.artefact.published)
    canvas = canvas_of(task.checkpoint)
    rows: list[list[Any]] = []
    drawn: dict[str, tuple[bias.Measured, bias.Measured]] = {}
    for planned, _, scored in task.finished():
        for arm in planned.arms:
            measured = [overlap for entry in scored for overlap in overlaps(entry, arm, canvas)]
            if measured:
                groups, mine, chance = zip(*measured, strict=True)
                ours = bias.mean(np.array(mine), groups=groups)
                by_chance = bias.mean(np.array(chance), groups=groups)
                drawn[f"{planned.label} {arm}"] = ours, by_chance
                rows.append(
                    [planned.label, arm, "ours", *(diagnosis.bracket(m, 3) for m in (ours, by_chance)), len(mine)]
                )
            rows += published_rows(known, planned, arm, lambda row: [f"{row.values['token_box_iou']:.3f}", None, None])
    if drawn:
        drawings.save(charts.boxes(drawn), task.here / "figures" / "token-box-iou")
    notes = [
        "IoU of the kept tokens' area with the box; in brackets 95 % over pictures. by chance: of as many tokens drawn "
        "at random.",
        *(
            []
            if world_of(task.base.model).boxes
            else ["The model was not taught to answer with a box: no answer counts."]
        ),
        *artefacts.sources(task.artefact),
    ]
    return [Table(task.artefact.title, ["run", "arm", "whose", "token-box IoU", "by chance", "questions"], rows, notes)]


def overlaps(scored: Any, arm: str, canvas: Any) -> list[tuple[str, float, float]]:
    """Of every question of one benchmark with kept tokens and a box: its picture, the IoU, and one of random tokens."""
    samples = {sample.key: sample for sample in scored.samples}
    rows = scored.arms[arm].rows if arm in scored.arms else []
    rng, measured = np.random.default_rng(0), []
    for row in rows:
        if row["metadata"].get("kept"):
            sample = samples[row["metadata"]["key"]]
            drawn = canvas(sample.meta["size"])
            kept = decode(row["metadata"]["kept"][-1])
            box = drawn.box(sample.target)
            drawn_by_lot = rng.choice(len(drawn.cells), len(kept), replace=False)
            mine, chance = (
                bias.token_box_iou(drawn.cells, np.array(tokens, int), box, drawn.size)
                for tokens in (kept, drawn_by_lot)
            )
            measured.append((sample.group, mine, chance))
    return measured


def sinks(task: Task) -> list[Table]:
    """A table of layers for every filling of the border, and one figure of all."""
    possible, left = strengths.each(task, hidden)
    by_label = {planned.label: sink for planned, sink in possible}
    drawings.save(drawings.activations(by_label), task.here / "figures" / "activations")
    made = []
    for label, sink in by_label.items():
        rows: list[list[Cell]] = []
        for layer, first in enumerate(sink.first):
            padding, valid = (sink.at_sink[kind][:, layer] for kind in KINDS)
            measured = (bias.mean(values) for values in (padding, valid, padding - valid))
            largest = [int(sink.profile[kind][layer].argmax()) for kind in KINDS]
            rows.append([layer, f"{first:.2f}", *map(diagnosis.bracket, measured), *largest])
        head = ["layer", "first token", *KINDS, "padding - valid", "largest: padding", "largest: valid"]
        notes = [
            *left,
            *artefacts.sources(task.artefact),
            f"{len(sink.at_sink['padding'])} pictures with padding. Of what enters a layer: the larger of dimensions "
            f"{' and '.join(map(str, sink.dimensions))}, over the root mean square of the hidden state; these are the "
            "largest of the sequence's first token. In brackets 95 % over pictures. largest: the dimension with the "
            "largest mean.",
        ]
        made.append(Table(f"{task.artefact.title} Border: {label}", head, rows, notes))
    return made


def hidden(task: Task, planned: Planned) -> Activations:
    """Hidden states on the padded pictures of one run, by layer."""
    with task.resolved(planned) as chosen:
        shown: Any = (request(sample, talk) for talk, sample in strengths.pictures(task, chosen))
        asked = [ask for ask in shown if len({*ask.images[0].size}) > 1]
        return activations(chosen.adapter(task.media), asked[: task.base.limit or 64])


def overhead(task: Task) -> list[Table]:
    """Milliseconds of one question's prefill and first token: unpruned, pruned, and pruned with debiasing, in turns."""
    benchmark = benchmarks.get(task.benchmarks[0])
    rows: list[list[Any]] = []
    note = ""
    for planned in task.artefact.runs:
        with task.resolved(planned) as chosen:
            times = timed(chosen, benchmark, task, ["unpruned", "none", "both"])
            note = f"{chosen.device}, {chosen.dtype}, {chosen.settings.attention}, {torch.get_num_threads()} threads"
        middle = {arm: statistics.median(taken) for arm, taken in times.items()}
        pairs = [b - a for a, b in zip(times["none"], times["both"], strict=True)]
        rows.append(
            [planned.label, *middle.values(), statistics.median(pairs), f"{min(pairs):.2f} to {max(pairs):.2f}"]
        )
    head = ["method", "unpruned ms", "none ms", "both ms", "debias ms", "range"]
    rounds = min(ROUNDS, task.base.limit or ROUNDS)
    notes = [
        f"medians of {rounds} rounds in turn on one question of {benchmark.name}; {note}",
        "debias: difference of both and none within a round. `eval speed --debias` times one call by itself.",
    ]
    return [Table(task.artefact.title, head, rows, notes)]


def timed(chosen: Resolved, benchmark: Any, task: Task, arms: Sequence[str]) -> dict[str, list[float]]:
    """Milliseconds by arm; the first round warms up."""
    adapter = chosen.adapter("image")
    data = task.base.data or chosen.heldout("image")
    ((_, (sample, *_)),) = calibration("image", data, [benchmark.name], 1)
    encoded = adapter.encode([request(sample, benchmark.conversation)])
    config = greedy(adapter.model, 1)
    debias = {arm: chosen.debias(benchmark, arm) for arm in arms if arm != "unpruned"}

    def milliseconds(arm: str) -> float:
        clock = Stopwatch(adapter.model.device)
        around = chosen.pruner(adapter.model, debias[arm], sizes=encoded.sizes) if arm in debias else nullcontext()
        with torch.inference_mode(), around:
            clock.mark()
            adapter.model.generate(**encoded.inputs, generation_config=config)
            clock.mark()
        return clock.milliseconds()[0]

    return in_turn(milliseconds, arms, min(ROUNDS, task.base.limit or ROUNDS))
