"""What an artefact measures: scores beside the published ones, biases, tokens in boxes, and what debiasing costs."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.answering.store import Folder, decode
from eval.bias import diagnose, diagnosis
from eval.bias import strength as bias
from eval.comparing.averages import AVERAGES
from eval.comparing.contrast import scale
from eval.comparing.results import Scored, questions, results
from eval.papers import artefacts
from eval.papers.artefacts import REFCOCO
from eval.papers.task import Task
from eval.showing import charts, drawings, figures
from eval.tables import Table

ROUNDS = 7  # times that every variant is timed


def scores(task: Task) -> list[Table]:
    """Every run and arm, each followed by what was published about it."""
    known = artefacts.published(task.artefact.published)
    ours: dict[str, dict[str, dict[str, float]]] = {}
    instead: dict[str, str] = {}
    loaded: dict[Path, Any] = {}
    for planned in task.artefact.runs:
        if not (task.folder(planned) / "run.json").exists():
            continue
        folder = Folder(task.folder(planned))
        scored = results(folder, task.data)
        loaded[folder.path] = folder.info(), scored
        instead |= {s.name: one.benchmark.name for one in scored for r in one.arms.values() for s in [r.score]}
        ours[planned.label] = {arm: values([one for one in scored if arm in one.arms], arm) for arm in planned.arms}
    columns = [c for c in task.artefact.columns if c != "mme_total" or any(c in row.values for row in known)]
    rows: list[list[Any]] = []
    for planned in task.artefact.runs:
        for arm in planned.arms:
            mine = ours.get(planned.label, {}).get(arm, {})
            rows.append([planned.label, arm, "ours", *(mine.get(column) for column in columns), mine.get("tokens")])
            rows += [
                [planned.label, arm, f"published: {row.table}", *(row.values.get(column) for column in columns), None]
                for row in known
                if row.of(planned, arm) and task.artefact.shows(planned)
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
    found: dict[str, float] = {}
    splits: list[float] = []
    for one in scored:
        score, name = one.arms[arm].score, one.benchmark.name
        found[name] = score.value
        if name == "mme":
            found["mme_total"] = score.parts["total"]
        if name in REFCOCO:
            own = {split: value for split, value in score.parts.items() if "/" not in split}
            found |= {f"{name}_{split}": value for split, value in own.items()}
            splits += own.values()
    parts = {name: value / scale(name) for name, value in found.items() if name in {o.benchmark.name for o in scored}}
    if len(parts) == len(scored) and parts:
        found["mean"] = sum(parts.values()) / len(parts)
    if set(parts) == set(AVERAGES["avg10"].members):
        found["avg10"] = found["mean"]
    if splits:
        found["overall"] = sum(splits) / len(splits)
    tokens = [one.arms[arm].tokens for one in scored]
    if tokens and None not in tokens:
        found["tokens"] = sum(tokens) / len(tokens)  # type: ignore[arg-type]
    return found


def diagnosed(task: Task, *flags: str) -> dict[str, Any]:
    """A diagnosis of the model on the pictures of the artefact's benchmarks, or on drawn scenes; also as figures."""
    parser = argparse.ArgumentParser()
    work = diagnose.command(parser)
    words = ["--out", str(task.here / "diagnosis.json"), "--model", task.checkpoint]
    if task.data is not None:
        words += ["--images", str(pictures(task))]
    if task.limit is not None:
        words += ["--limit", str(max(4, task.limit))]
    args, _ = parser.parse_known_args([*words, *flags, *task.more])
    found: dict[str, Any] = work(args)
    for name, figure in figures.diagnosis_figures(found, None).items():
        drawings.save(figure, task.here / "figures" / name)
    return found


def pictures(task: Task) -> Path:
    """The folder that the first benchmark's pictures lie in."""
    from eval import benchmarks

    samples = questions(benchmarks.get(task.benchmarks[0]), task.data or "", 1)
    path = samples[0].image
    if not isinstance(path, Path):
        raise ValueError(f"{task.benchmarks[0]} keeps its pictures inside its files; expected a folder of pictures")
    return path.parent


def layers(task: Task) -> list[Table]:
    """The deep-layer paper's three numbers by layer, and the signed one that tells a bias from chance."""
    from eval.answering.checkpoints import config_of
    from pruners.schedule import at_depth

    found = diagnosed(task)
    config = config_of(task.checkpoint)
    depth = (config.get("text_config") or config)["num_hidden_layers"]
    known = {row.facts["layer"]: row.values for row in artefacts.published(task.artefact.published)}
    rows: list[list[Any]] = []
    for layer in found["layers"]:
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
        f"{found['pictures']} {found['source']}, {found['tokens']} tokens: entropy is at most "
        f"{np.log(found['tokens']):.2f}; in brackets 95 % over pictures",
        "by chance: of the same scores shuffled over the tokens; |correlation| cannot tell a shared bias from that",
        *artefacts.sources(task.artefact),
    ]
    return [Table(task.artefact.title, head, rows, notes)]


def bias_strengths(task: Task) -> list[Table]:
    return diagnosis.tables(diagnosed(task, "--heads"))


def iou(task: Task) -> list[Table]:
    """Mean IoU of what the kept tokens show with the box, over the questions that were answered."""
    from eval.showing.cells import canvas_of

    known = artefacts.published(task.artefact.published)
    canvas = canvas_of(task.checkpoint)
    rows: list[list[Any]] = []
    drawn: dict[str, tuple[bias.Measured, bias.Measured]] = {}
    for planned in task.artefact.runs:
        if not (task.folder(planned) / "run.json").exists():
            continue
        scored = results(Folder(task.folder(planned)), task.data)
        for arm in planned.arms:
            found = [overlap for one in scored for overlap in overlaps(one, arm, canvas)]
            if found:
                groups, mine, chance = zip(*found, strict=True)
                ours = bias.mean(np.array(mine), groups=groups)
                by_chance = bias.mean(np.array(chance), groups=groups)
                drawn[f"{planned.label} {arm}"] = ours, by_chance
                rows.append(
                    [planned.label, arm, "ours", *(diagnosis.bracket(m, 3) for m in (ours, by_chance)), len(mine)]
                )
            rows += [
                [planned.label, arm, f"published: {row.table}", f"{row.values['token_box_iou']:.3f}", None, None]
                for row in known
                if row.of(planned, arm)
            ]
    if drawn:
        drawings.save(charts.boxes(drawn), task.here / "figures" / "token-box-iou")
    notes = [
        "IoU of the kept tokens' area with the box; in brackets 95 % over pictures. by chance: of as many tokens drawn "
        "at random.",
        *artefacts.sources(task.artefact),
    ]
    return [Table(task.artefact.title, ["run", "arm", "whose", "token-box IoU", "by chance", "questions"], rows, notes)]


def overlaps(scored: Any, arm: str, canvas: Any) -> list[tuple[str, float, float]]:
    """Of every question of one benchmark with kept tokens and a box: its picture, the IoU, and one of random tokens."""
    samples = {sample.key: sample for sample in scored.samples}
    rows = scored.arms[arm].rows if arm in scored.arms else []
    rng, found = np.random.default_rng(0), []
    for row in rows:
        if row["metadata"].get("kept"):
            sample = samples[row["metadata"]["key"]]
            drawn = canvas(sample.meta["size"])
            kept = decode(row["metadata"]["kept"][-1])
            box = drawn.box(sample.target)
            drawn_by_lot = rng.choice(len(drawn.cells), len(kept), replace=False)
            mine, chance = (
                bias.token_box_iou(drawn.cells, np.array(one, int), box, drawn.size) for one in (kept, drawn_by_lot)
            )
            found.append((sample.group, mine, chance))
    return found


def overhead(task: Task) -> list[Table]:
    """Milliseconds of one question's prefill and first token: unpruned, pruned, and pruned with debiasing, in turns."""
    from eval import benchmarks
    from eval.answering.choices import Choice

    benchmark = benchmarks.get(task.benchmarks[0])
    rows: list[list[Any]] = []
    note = ""
    for planned in task.artefact.runs:
        args = task.args(planned)
        choice = Choice(args, list(planned.arms), [], {"image": task.checkpoint})
        try:
            times = timed(choice, benchmark, task, ["unpruned", "none", "both"])
            note = f"{choice.device}, {choice.dtype}, {choice.args.attention}, {torch.get_num_threads()} threads"
        finally:
            choice.close()
        middle = {arm: statistics.median(found) for arm, found in times.items()}
        pairs = [b - a for a, b in zip(times["none"], times["both"], strict=True)]
        rows.append(
            [planned.label, *middle.values(), statistics.median(pairs), f"{min(pairs):.2f} to {max(pairs):.2f}"]
        )
    head = ["method", "unpruned ms", "none ms", "both ms", "debias ms", "range"]
    rounds = min(ROUNDS, task.limit or ROUNDS)
    notes = [
        f"medians of {rounds} rounds in turn on one question of {benchmark.name}; {note}",
        "debias: difference of both and none within a round. `eval speed --debias` times one call by itself.",
    ]
    return [Table(task.artefact.title, head, rows, notes)]


def timed(choice: Any, benchmark: Any, task: Task, arms: Sequence[str]) -> dict[str, list[float]]:
    """Milliseconds by arm; the first round warms up."""
    from contextlib import nullcontext

    from eval.answering.backends import greedy
    from eval.bias.fitting import calibration, heldout
    from eval.reading.images import open_image
    from eval.speed.measure import Clock
    from pruners.models import Request

    adapter = choice.adapter("image")
    data = Path(task.data) if task.data else heldout()
    ((_, (sample, *_)),) = calibration("image", data, [benchmark.name], 1)
    request = Request(sample.text, [open_image(sample)], conversation=benchmark.conversation)
    encoded = adapter.encode([request]).to(adapter.model.device, adapter.model.dtype)
    config = greedy(adapter.model, 1)
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    debias = {arm: choice.debias(benchmark, arm) for arm in arms if arm != "unpruned"}
    for number in range(min(ROUNDS, task.limit or ROUNDS) + 1):
        for arm in arms:
            clock = Clock(adapter.model.device)
            around = choice.pruner(adapter.model, debias[arm], sizes=encoded.sizes) if arm in debias else nullcontext()
            with torch.inference_mode(), around:
                clock.mark()
                adapter.model.generate(**encoded.inputs, generation_config=config)
                clock.mark()
            if number:
                found[arm] += clock.milliseconds()
    return found
