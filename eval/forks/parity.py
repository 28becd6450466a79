"""A native method and the authors' own code on the same questions: kept tokens, logits and answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from eval.answering.backends import generate, greedy
from eval.answering.resolved import Resolved, resolve
from eval.benchmarks.base import Benchmark
from eval.core.settings import UNPRUNED, Settings
from eval.core.tables import Table, show
from eval.forks.backend import Fork
from eval.reading.sample import Sample
from eval.scoring.results import questions
from pruners.models import Request

ANEW = (
    "same answer: in this mode the authors' code has no cache and ranks the picture's tokens anew for every new token, "
    "where ours ranks once; kept sets and logits are the prompt's, and answers may differ behind their first token"
)


def parity(settings: Settings) -> dict[str, Any]:
    """Asks both sides every question in every arm, shows a table for each benchmark, and returns the numbers."""
    chosen = resolve(settings)
    compared: dict[str, dict[str, dict[str, Any]]] = {}
    notes: list[str] = []
    try:
        for benchmark, data in chosen.benchmarks:
            # The fork first: what is missing shows before a model is loaded.
            fork = chosen.fork(benchmark.media)
            notes = [ANEW] if fork.options.get("cache") is False else []
            samples = questions(benchmark, data, settings.limit)
            compared[benchmark.name] = {arm: compare(chosen, fork, benchmark, samples, arm) for arm in chosen.arms}
    finally:
        chosen.close()
    for name, arms in compared.items():
        show(table(f"{chosen.pruner!r} and the authors' code on {name}", arms, notes))
    return {
        "method": chosen.settings.method,
        "pruner": repr(chosen.pruner),
        "patched": fork.patched,
        "benchmarks": compared,
    }


def compare(chosen: Resolved, fork: Fork, benchmark: Benchmark, samples: list[Sample], arm: str) -> dict[str, Any]:
    """Both answers to every question of a benchmark in an arm, in numbers; `differ` lists the questions apart."""
    overlap: list[list[float]] = []
    same: list[bool] = []
    gaps: list[tuple[float, float]] = []
    answers: list[bool] = []
    differ: list[str] = []
    for sample in samples:
        theirs = fork.ask(sample, arm, benchmark, logits=True)
        ours = native(chosen, benchmark, fork.reader.read(sample, benchmark.conversation), arm)
        gap = (torch.tensor(theirs["logits"]) - ours["logits"]).abs()
        gaps.append((float(gap.max()), float(gap.mean())))
        answers.append(theirs["text"] == ours["text"])
        if theirs["kept"]:
            pairs = [({i for i in a if i >= 0}, set(b)) for a, b in zip(theirs["kept"], ours["kept"], strict=True)]
            overlap.append([len(a & b) / max(1, len(a | b)) for a, b in pairs])
            same.append(all(a == b for a, b in pairs))
        if not answers[-1] or (same and not same[-1]):
            differ.append(sample.key)
    return {
        "n": len(samples),
        "kept_overlap": [sum(stage) / len(stage) for stage in zip(*overlap, strict=True)],
        "kept_same": sum(same) if same else None,
        "logit_max": max(most for most, _ in gaps),
        "logit_mean": sum(mean for _, mean in gaps) / len(gaps),
        "answers_same": sum(answers),
        "differ": differ,
    }


def native(chosen: Resolved, benchmark: Benchmark, request: Request, arm: str) -> dict[str, Any]:
    """Our answer to one question, with what it kept and the logits of the prompt's last token."""
    adapter = chosen.adapter(benchmark.media)
    encoded = adapter.encode([request])
    debias = None if arm == UNPRUNED else chosen.debias(benchmark, arm)
    pruned = None if debias is None else chosen.pruner(adapter.model, debias, sizes=encoded.sizes)
    config = greedy(adapter.model, chosen.longest(benchmark))
    config.output_logits = True
    done = generate(adapter, encoded, config, pruned)
    assert done.logits is not None
    kept = [] if done.trace is None or not encoded.sizes else [stage[0].tolist() for stage in done.trace.kept]
    return {"text": adapter.decode(done.new)[0], "logits": done.logits[0][0].float().cpu(), "kept": kept}


def table(title: str, arms: dict[str, dict[str, Any]], notes: Sequence[str] = ()) -> Table:
    """A row for each arm with what `compare` returned."""
    head = ["arm", "questions", "same kept set", "overlap per cut", "logits: largest", "mean", "same answer"]
    rows = []
    for arm, result in arms.items():
        overlap = " ".join(f"{value:.4f}" for value in result["kept_overlap"]) or None
        same = None if result["kept_same"] is None else f"{result['kept_same']}/{result['n']}"
        largest, mean = f"{result['logit_max']:.1e}", f"{result['logit_mean']:.1e}"
        rows.append([arm, result["n"], same, overlap, largest, mean, f"{result['answers_same']}/{result['n']}"])
    return Table(title, head, rows, notes)
