"""Run a study that was planned and committed first, and compare what its plan says.

A result is called a confirmation only if the plan stands in a commit that is older than the run and that the run's code
descends from. `--rehearse N` tries everything on N other pictures and confirms nothing.

examples:
  python -m eval study                                  the study of smol: 600 pictures, over half an hour on one core
  python -m eval study --rehearse 12                    everything once, in a few minutes
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.commands import flags
from eval.core.embedded import shipped
from eval.core.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """The plan, and what to change of it for a rehearsal."""
    add = parser.add_argument
    add("plan", nargs="?", type=Path, help="a plan (default: that of smol, assets/studies/smol.toml)")
    add("--rehearse", type=flags.positive, metavar="N", help="N other pictures instead; confirms nothing")
    add("--model", help="another model than the plan's; confirms nothing")
    add("--dtype", default="auto", help="another precision than the plan's; confirms nothing")
    flags.add(parser, "batch_size", "device")
    add("--out", type=Path, help="where runs and tables go (default: runs/study/NAME, with --rehearse NAME-rehearsal)")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the study; returns its tables, and whether the plan is confirmed."""
    if args.plan is not None and not args.plan.is_file():
        raise ValueError(f"{args.plan}: no such plan; leave it out for smol's, {shipped('studies/smol.toml')}")

    from eval.papers import study
    from eval.papers.confirm import confirm

    plan = study.load(args.plan or shipped("studies/smol.toml"))
    name = f"{plan.name}-rehearsal" if args.rehearse else plan.name
    base = Settings(model=args.model, dtype=args.dtype, batch_size=args.batch_size, device=args.device)
    return confirm(plan, args.out or Path("runs/study") / name, base, args.rehearse)
