"""Answer benchmarks with a pruning method, in arms with and without debiasing, and compare the arms.

examples:
  python -m eval run --method fastv                                       the embedded model and data
  python -m eval run --method fastv --keep 64 --layer 3 --benchmarks pope,gqa --limit 500
  python -m eval run --method fastv --keep 128 --model llava-hf/llava-1.5-7b-hf --data playground/data/eval \\
                     --batch-size 8 --out runs/fastv-128
  torchrun --nproc-per-node 8 -m eval run --method fastv ...              one process per GPU, each its share
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.commands import flags
from eval.core import tables
from eval.core.settings import UNPRUNED, Settings, arm, several
from eval.core.tables import say
from pruners import catalogue

arguments = flags.running


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one method or several; returns the scores and comparisons of each."""
    methods = flags.methods(args.method)
    if len(methods) == 1:
        return run_method(flags.settings(args, methods[0]), args)
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    asked: dict[str, Settings] = {}
    for method in methods:
        try:
            out = args.out and args.out / method
            asked[method] = flags.settings(args, method, out=out, arms=arms_among(args.arms, method))
        except ValueError as error:  # the others can still run
            failed[method] = str(error)
            if len(failed) == len(methods):
                raise
    for method in methods:
        say(f"\n{method}")
        try:
            if method in asked:
                done[method] = run_method(replace(asked[method], unpruned=not done), args)
        except ValueError as error:
            if args.tensor_parallel or args.zero:  # but not with processes that know nothing of it
                raise
            failed[method] = str(error)
        if method in failed:
            say(f"{method}: {failed[method]}")
    if any("averages" in result for result in done.values()):
        shown = overview(done)
        tables.show(shown)
        if args.out:
            tables.write([shown], args.out)
    if failed:
        say(f"not done: {', '.join(failed)} (messages above)")
    wrong = failed or any(result.get("exit") for result in done.values())
    return {"methods": done, "failed": failed, "exit": 1 if wrong else 0}


def arms_among(asked: str | None, method: str) -> Sequence[str]:
    """Of the arms that several methods are asked for, those that this method has."""
    own, named = (UNPRUNED, *catalogue.arms(method)), [arm(name) for name in several(asked or "")]
    return [name for name in named if name in own] or named


def run_method(settings: Settings, args: argparse.Namespace) -> dict[str, Any]:
    """One method: the results are shown, and returned."""
    from eval.evaluation import evaluate

    if args.dry_run:
        return plan(settings)
    report = evaluate(settings)
    report.outcome.show(args.wide)
    return report.to_dict()


def plan(settings: Settings) -> dict[str, Any]:
    """What would run (`--dry-run`)."""
    from eval.evaluation import planned

    would_run = planned(settings)
    arms, data, run = would_run["arms"], would_run.pop("data"), would_run["run"]
    rows: list[list[tables.Cell]] = [
        [name, n, n * len(arms), data[name]] for name, n in would_run["benchmarks"].items()
    ]
    head = ["benchmark", "questions", "answers", "data"]
    tables.show(
        tables.Table(f"{run['method']} on {run['models'].get('image') or run['models'].get('video')}", head, rows)
    )
    say(f"arms: {', '.join(arms)}; rows would go to {would_run['out']}; nothing was run")
    return would_run


def overview(done: Mapping[str, Mapping[str, Any]]) -> tables.Table:
    """Methods by arms: the average over the benchmarks."""
    from eval.scoring import compare
    from eval.scoring.verdict import MARK, main_arm

    arms = list(dict.fromkeys(arm for result in done.values() for arm in result.get("averages", {})))
    rows: list[list[tables.Cell]] = []
    strong = []
    for method, result in done.items():
        values = result.get("averages", {})
        averages = {c["b"]: c for c in result.get("comparisons", []) if c["benchmark"] == "average"}
        last = averages.get(main_arm(list(averages)) or "")
        shown = tables.between(last["delta"], last["low"], last["high"]) if last else None
        if last and last["differs"]:
            strong.append(len(rows))
        scores = [None if values.get(arm) is None else f"{tables.tenths(values[arm]):.1f}" for arm in arms]
        rows.append([method, *scores, shown, MARK if last and last["differs"] else ""])
    notes = [
        "Mean over the benchmarks (MME / 20); debiased: both, or padding where a method has no more. unpruned is "
        f"answered once, with the first method. {MARK}: differs, p < 0.05 of sign flips, each method by itself."
    ]
    faults: dict[str, int] = {}  # of each benchmark, whose broken pictures every method and arm meets
    for result in done.values():
        for name, by_arm in result.get("scores", {}).items():
            faults[name] = max(faults.get(name, 0), *(score["failed"] for score in by_arm.values()))
    if failed := sum(faults.values()):
        notes.append(compare.broken(failed))
    return tables.Table("All methods", ["method", *arms, "debiased − none, 95 %", ""], rows, notes, strong)
