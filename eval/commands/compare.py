"""Paired differences between arms: joined by question, resampled by image or group, corrected over benchmarks.

examples:
  python -m eval compare runs/fastv                              every arm against none
  python -m eval compare runs/fastv --baseline padding           against another arm
  python -m eval compare runs/fastv:both runs/random:none        arms of different runs
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.answering.store import Folder
from eval.commands import flags
from eval.core.tables import say, write
from eval.scoring import judge as judging
from eval.scoring.compare import across, outcome, told
from eval.scoring.contrast import DRAWS
from eval.scoring.results import not_judged, results, unjudged


def arguments(parser: argparse.ArgumentParser) -> None:
    """The runs and the arm to compare with, how often to draw, and what to show."""
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run folder, or RUN:ARM; several are compared with the first")
    add("--baseline", default="none", help="the arm that the others of one run are compared with")
    add("--data", help="where the annotations are, when they moved since the run")
    add("--draws", type=flags.positive, default=DRAWS, help="bootstrap draws and permutations")
    add("--seed", type=int, default=0, help="of the draws")
    add("--common", action="store_true", help="runs of other --limit: compare what both were asked")
    add("--wide", action="store_true", help="show all arms and columns, not one row a benchmark")
    add("--out", type=Path, help="also write table.md, table.csv and table.tex into this folder")
    flags.judging(parser)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Shows the differences; returns them with the verdict."""
    judge = judging.judge_of(flags.judge(args))
    references = [_reference(text) for text in args.runs]
    if len(references) == 1 and references[0][1] is None:
        folder = references[0][0]
        scored = results(folder, args.data, judge=judge)
        if not scored:
            raise ValueError(f"{folder.path} holds no scored rows; run its benchmarks first")
        arms = {arm for entry in scored for arm in entry.arms}
        if args.baseline not in arms:
            raise ValueError(f"{folder.path} has no arm {args.baseline!r}; it has {', '.join(sorted(arms))}")
        seen, left = outcome(str(folder.path), scored, args.draws, args.baseline, args.seed), unjudged(scored)
    elif len(references) == 1:
        raise ValueError("compare needs a run folder, or at least two RUN:ARM")
    else:
        sides = [(folder, arm or "none") for folder, arm in references]
        contrasts, left = across(sides, args.data, judge, args.draws, args.seed, args.common)
        seen = told([], contrasts, args.draws, every=True)
    seen.show(args.wide)
    if left:
        say(not_judged(left))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write(seen.full, args.out)
    comparisons = [asdict(entry) for entry in seen.contrasts]
    result = {"verdict": seen.verdict, "comparisons": comparisons, "draws": args.draws, "seed": args.seed}
    return {**result, "exit": 1} if left else result


def _reference(text: str) -> tuple[Folder, str | None]:
    if Path(text).is_dir() or ":" not in text:
        return Folder(text), None
    path, _, arm = text.rpartition(":")
    return Folder(path), arm
