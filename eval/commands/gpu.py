"""Measure everything that needs a GPU, in steps of under eight minutes; each writes STEP.json and STEP.md and can be
interrupted: started again, it goes on where it was.

examples:
  python -m eval gpu smoke                     does everything run: all methods on all families, and who waits
  python -m eval gpu speed                     prefill, decoding, memory, CUDA graphs on a 7B shape
  python -m eval gpu speed --rehearse          every line of it on a CPU, with everything scaled down
  python -m eval speed --import runs/gpu/smoke.json runs/gpu/speed.json

steps: smoke, speed, forks (the authors' codes beside ours), throughput, train (the embedded models), vllm.
What a step needs and this machine lacks is said in a sentence, and the rest of the step is done.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

STEPS = ("smoke", "speed", "forks", "throughput", "train", "vllm")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The step, and how it is run."""
    add = parser.add_argument
    add("step", choices=STEPS, help="what to measure")
    add("--rehearse", action="store_true", help="on the CPU, scaled down: whether every line runs")
    add("--out", type=Path, default=Path("runs/gpu"), help="folder for STEP.json and STEP.md")
    add("--seconds", type=float, help="what the step may take (default: 460)")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Runs a step; returns its parts with their numbers, or with what failed."""
    if args.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for one
        os.environ["TRITON_INTERPRET"] = "1"  # before a kernel is read
    import torch

    from eval.core.tables import say, show
    from eval.speed.gpu import pages, running, steps

    if not (args.rehearse or torch.cuda.is_available()):
        raise ValueError(f"there is no GPU here (torch {torch.__version__}); --rehearse runs the step on the CPU")
    result = running.run(args.step, args.out, args.rehearse, args.seconds or steps.SECONDS)
    show(pages.judged(result))
    say(f"{pages.on(result['machine'])}\nwrote {args.out / args.step}.json and .md")
    if args.rehearse:
        say(pages.REHEARSED)
    failed = any("failed" in part for part in result["parts"])
    return {**result, "exit": int(failed)}
