"""One self-contained HTML page of a run: tables, figures, and questions with the tokens that each arm kept.

examples:
  python -m eval report runs/fastv                    writes runs/fastv/report.html
  python -m eval report runs/fastv --samples 50 --out page.html
  python -m eval report runs/fastv --tensorboard events --wandb pruning
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.commands import flags
from eval.core.settings import Settings
from eval.core.tables import say


def arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and what the page shows of it."""
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder")
    add("--out", type=Path, help="the page to write (default: report.html in the run folder)")
    add("--samples", type=int, default=Settings.report_samples, help="questions shown of each benchmark")
    add("--data", help="where the data is, when it moved since the run")
    flags.add(parser, "draws")
    add("--tensorboard", type=Path, metavar="DIR", help="also write the scores for TensorBoard")
    add("--wandb", metavar="PROJECT", help="also for Weights & Biases: offline, unless WANDB_MODE says otherwise")
    flags.judging(parser)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the page; returns its path and how many questions it shows."""
    from eval.answering.store import Folder
    from eval.scoring import compare
    from eval.scoring import judge as judging
    from eval.scoring.results import results, unjudged

    folder = Folder(args.run)
    scored = results(folder, args.data, judge=judging.judge_of(flags.judge(args)))
    if not scored:
        raise ValueError(f"{folder.path} holds no scored rows to report; run its benchmarks first")
    from eval.showing import trackers
    from eval.showing.report import write

    seen = compare.outcome("Scores", scored, args.draws)
    out = args.out or folder.path / "report.html"
    written = write(folder, scored, seen, out, args.samples, args.data)
    say(f"wrote {out}")
    if args.tensorboard:
        say(f"for TensorBoard: {trackers.to_tensorboard(scored, seen, args.tensorboard)}")
    if args.wandb:
        say(f"for Weights & Biases: {trackers.to_wandb(folder, scored, seen, args.wandb)}")
    return {"report": str(out), "samples": written, **({"exit": 1} if unjudged(scored) else {})}
