"""Estimate what a whole study costs: every method, arm and benchmark, in GPU hours, and on how many GPUs in what time.

examples:
  python -m eval scale                                        LLaVA-1.5-7B and Video-LLaVA-7B, assumed rates of an A100
  python -m eval scale --device h100 --gpus 1,8,64 --share-prefix
  python -m eval speed --shape llava-1.5-7b --method fastv,sparsevlm --batch-size 8 --out speed.json
  python -m eval scale --speed speed.json                     rates measured on your GPU instead of assumed ones

Questions are those of the official sets. What a prompt and an answer are long, and without --speed how fast the device
is, is assumed and listed below the table. The result is an estimate; time spent by a judge is not part of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from debias.names import one_of
from eval import benchmarks
from eval.commands import flags
from eval.core.tables import show
from eval.speed.shapes import DEVICES, SHAPES
from pruners.parts.budget import REFERENCE_TOKENS

VIDEO_SHAPE = "video-llava-7b"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be run, on which devices, and how fast they are."""
    add = parser.add_argument
    add("--method", default="all", help="methods with commas, or all (default)")
    add("--arms", type=int, help="arms of each method (default: those that it has, and the unpruned model once)")
    add("--benchmarks", help="names with commas (default: all)")
    add("--shape", default="llava-1.5-7b", help=f"for pictures, of {', '.join(SHAPES)}")
    add("--keep", type=flags.positive, default=128, help=f"budget, of {REFERENCE_TOKENS} tokens")
    flags.add(parser, "batch_size", help="questions at once")
    add("--device", default="a100", help=f"whose rates are assumed: {', '.join(DEVICES)}")
    add("--speed", type=Path, metavar="FILE", help="measured rates: what `eval speed --out FILE` wrote")
    add("--gpus", type=flags.numbers, default=[1, 8, 64], help="with commas (default: 1,8,64)")
    add("--share-prefix", action="store_true", help="the layers before the first cut once for all arms")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Shows the estimate; returns its numbers."""
    from eval.speed import cost

    rates = cost.assumed(one_of("device", args.device, list(DEVICES)))
    if args.speed is not None:
        rates = cost.measured(args.speed, rates)
    one_of("shape", args.shape, list(SHAPES))
    names = flags.sets(args.benchmarks) if args.benchmarks else list(benchmarks.NAMES)
    plan = cost.Workload(args.shape, VIDEO_SHAPE, args.keep, args.batch_size, rates, args.share_prefix)
    result = cost.study(plan, flags.methods(args.method), names, args.gpus, args.arms)
    for table in cost.tables(result, args.gpus):
        show(table)
    return result
