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
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from eval import tables
from eval.commands import flags
from eval.comparing import compare
from eval.evaluation import evaluate, planned
from eval.settings import Settings
from eval.tables import say


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    flags.running(parser)
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    methods = flags.methods(args.method)
    if len(methods) == 1:
        return one(flags.settings(args, methods[0]), args.dry_run)
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for method in methods:
        say(f"\n{method}")
        try:
            mine = flags.settings(args, method)
            done[method] = one(replace(mine, out=mine.out and mine.out / method), args.dry_run)
        except ValueError as error:  # the others can still run
            if args.tensor_parallel or args.zero:  # but not with processes that know nothing of it
                raise
            failed[method] = str(error)
            say(f"{method}: {error}")
    if any("averages" in found for found in done.values()):
        shown = overview(done)
        tables.show(shown)
        if args.out:
            tables.write([shown], args.out)
    if failed:
        say(f"not done: {', '.join(failed)} (messages above)")
    wrong = failed or any(found.get("exit") for found in done.values())
    return {"methods": done, "failed": failed, "exit": 1 if wrong else 0}


def one(settings: Settings, dry: bool) -> dict[str, Any]:
    """One method: its tables are shown, and what was found is returned."""
    if dry:
        return plan(settings)
    report = evaluate(settings)
    for table in report.tables:
        tables.show(table)
    return report.to_dict()


def plan(settings: Settings) -> dict[str, Any]:
    """What would run (`--dry-run`)."""
    found = planned(settings)
    arms, data, run = found["arms"], found.pop("data"), found["run"]
    rows: list[list[tables.Cell]] = [[name, n, n * len(arms), data[name]] for name, n in found["benchmarks"].items()]
    head = ["benchmark", "questions", "answers", "data"]
    tables.show(
        tables.Table(f"{run['method']} on {run['models'].get('image') or run['models'].get('video')}", head, rows)
    )
    say(f"arms: {', '.join(arms)}; rows would go to {found['out']}; nothing was run")
    return found


def overview(done: Mapping[str, Mapping[str, Any]]) -> tables.Table:
    """Methods by arms: the average over the benchmarks."""
    arms = list(dict.fromkeys(arm for found in done.values() for arm in found.get("averages", {})))
    rows = []
    for method, found in done.items():
        values = found.get("averages", {})
        last = next((c for c in found.get("comparisons", []) if c["benchmark"] == "average" and c["b"] == "both"), None)
        interval = f"{last['delta']:+.2f} [{last['low']:+.2f}, {last['high']:+.2f}]" if last else None
        rows.append([method, *(values.get(arm) for arm in arms), interval])
    notes = ["Mean over the benchmarks (MME / 20); both - none with its 95 % interval."]
    scores = [score for found in done.values() for arms in found.get("scores", {}).values() for score in arms.values()]
    if failed := sum(score["failed"] for score in scores):
        notes.append(compare.broken(failed))
    return tables.Table("All methods", ["method", *arms, "both - none"], rows, notes)
