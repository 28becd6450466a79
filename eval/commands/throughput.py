"""Measure how many questions a second a whole evaluation answers, and what each way of sharing work brings.

examples:
  python -m eval throughput                                          the tiny model: one at a time, then all that helps
  python -m eval throughput --threads 1,2 --method fastv,deeplayer --limit 64
  python -m eval throughput --method fastv --model llava-hf/llava-1.5-7b-hf --data playground/data/eval \\
                            --benchmarks pope --limit 500 --batch-size 16 --json

Settings follow each other round after round, to cancel drift; medians are printed. Answers
of every setting are compared with those of one question at a time.
"""

from __future__ import annotations

import argparse
from typing import Any

from eval.commands import flags
from eval.core.tables import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is answered, as for `run`, with how many threads and how often."""
    flags.answering(parser)
    add = parser.add_argument
    add("--threads", type=flags.numbers, default=[1], help="CPU threads of the model, with commas (default: 1)")
    add("--rounds", type=flags.positive, default=3, help="times that every setting is run")
    parser.set_defaults(limit=32, benchmarks="gqa", batch_size=16, backend="native")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Shows the rates of every way of sharing work; returns them."""
    asked = [flags.settings(args, method) for method in flags.methods(args.method)]

    import torch

    from eval.speed.throughput import measure, table

    rows = []
    for settings in asked:
        for threads in args.threads:
            torch.set_num_threads(threads)
            rows += measure(settings, threads, args.rounds)
    result = {"rounds": args.rounds, "rows": rows}
    show(table(result))
    return result
