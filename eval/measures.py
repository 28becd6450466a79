"""What an artefact measures besides scores: biases of attention, tokens in boxes, and what debiasing costs."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eval import artefacts, bias, diagnose, drawings
from eval.results import questions, results
from eval.store import Folder, decode
from eval.tables import Table

if TYPE_CHECKING:
    from eval.reproduce import Task

ROUNDS = 7  # times that every variant is timed


def diagnosis(task: Task) -> dict[str, Any]:
    """A diagnosis of the model on the pictures of the artefact's benchmarks, or on drawn scenes; also as figures."""
    from eval import figures

    parser = argparse.ArgumentParser()
    work = diagnose.command(parser)
    words = ["--out", str(task.here / "diagnosis.json"), "--model", task.checkpoint]
    if task.data is not None:
        words += ["--images", str(pictures(task))]
    if task.limit is not None:
        words += ["--limit", str(max(4, task.limit))]
    args, _ = parser.parse_known_args([*words, *task.more])
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


def bias_(found: dict[str, Any]) -> Table:
    table = diagnose.table(found)
    return Table("Bias of attention by layer and arm", table.head, table.rows, table.notes)


def layers(task: Task) -> list[Table]:
    """The deep-layer paper's three numbers by layer, and the signed one that tells a bias from chance."""
    from eval.checkpoints import config_of
    from eval.reproduce import sources
    from pruners.schedule import at_depth

    found = diagnosis(task)
    config = config_of(task.checkpoint)
    depth = (config.get("text_config") or config)["num_hidden_layers"]
    known = {row.facts["layer"]: row.values for row in artefacts.published(task.artefact.published)}
    rows: list[list[Any]] = []
    for layer in found["layers"]:
        raw = layer["arms"]["none"]
        rows.append([layer["layer"], "ours", layer["prompt_stability"], raw["absolute_correlation"][0],
                     raw["entropy"][0], raw["correlation"][0], layer["no_rope"]["correlation"][0]])  # fmt: skip
        for number, cells in known.items():
            if at_depth(number, depth) == layer["layer"]:
                rows.append([layer["layer"], f"published: layer {number}", *cells.values(), None, None])
    head = ["layer", "whose", "prompt stability", "|correlation|", "entropy", "signed correlation", "same, before RoPE"]
    notes = [
        f"{found['pictures']} {found['source']}, {found['tokens']} tokens; at most {np.log(found['tokens']):.2f}",
        f"|correlation| of {found['noise_floor']:.3f} is what chance alone gives; it cannot tell a shared bias from it",
        *sources(task.artefact),
    ]
    return [Table(task.artefact.title, head, rows, notes)]


def bias_strengths(task: Task) -> list[Table]:
    return [bias_(diagnosis(task))]


def iou(task: Task) -> list[Table]:
    """Mean IoU of what the kept tokens show with the box, over the questions that were answered."""
    from eval.cells import canvas_of
    from eval.reproduce import sources

    known = artefacts.published(task.artefact.published)
    rows: list[list[Any]] = []
    drawn: dict[str, tuple[float, float, float]] = {}
    for planned in task.artefact.runs:
        if not (task.folder(planned) / "run.json").exists():
            continue
        scored = results(Folder(task.folder(planned)), task.data)
        for arm in planned.arms:
            found = np.array([value for one in scored for value in overlaps(one, arm, canvas_of(task.checkpoint))])
            if len(found):
                low, high = bias.bootstrap(lambda pick, f=found: float(f[pick].mean()), len(found))  # type: ignore[misc]
                drawn[f"{planned.label} {arm}"] = float(found.mean()), low, high
                rows.append([planned.label, arm, "ours", float(found.mean()), f"[{low:.3f}, {high:.3f}]", len(found)])
            for row in known:
                if row.of(planned, arm):
                    rows.append(
                        [planned.label, arm, f"published: {row.table}", row.values["token_box_iou"], None, None]
                    )
    if drawn:
        drawings.save(drawings.boxes(drawn), task.here / "figures" / "token-box-iou")
    rows = [[*cells[:3], f"{cells[3]:.3f}", *cells[4:]] for cells in rows]
    notes = ["IoU of the kept tokens' area with the box; in brackets 95 % over questions.", *sources(task.artefact)]
    return [Table(task.artefact.title, ["run", "arm", "whose", "token-box IoU", "interval", "questions"], rows, notes)]


def overlaps(scored: Any, arm: str, canvas: Any) -> list[float]:
    """Of every question of one benchmark with kept tokens and a box."""
    boxes = {sample.key: (sample.target, sample.meta["size"]) for sample in scored.samples}
    rows = scored.arms[arm].rows if arm in scored.arms else []
    found = []
    for row in rows:
        if row["metadata"].get("kept"):
            box, size = boxes[row["metadata"]["key"]]
            drawn = canvas(size)
            kept = decode(row["metadata"]["kept"][-1])
            found.append(bias.token_box_iou(drawn.cells, np.array(kept, int), drawn.box(box), drawn.size))
    return found


def overhead(task: Task) -> list[Table]:
    """Milliseconds of one question's prefill and first token: unpruned, pruned, and pruned with debiasing, in turns."""
    from eval import benchmarks
    from eval.choices import Choice

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

    from eval.backends import greedy
    from eval.fit import calibration, heldout
    from eval.images import open_image
    from eval.speed import Clock
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
