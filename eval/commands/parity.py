"""Run a native method and the authors' own code on the same questions, and say how far they agree.

examples:
  python -m eval parity fastv                                   8 questions of the embedded POPE, arms none and both
  python -m eval parity fastv --mode mask --benchmarks tgif     clips, under Video-LLaVA's own code
  python -m eval parity pyramiddrop --model llava-hf/llava-1.5-7b-hf --data playground/data/eval --benchmarks pope

Per arm: the share of kept tokens that both keep (stage by stage, and how many questions keep exactly the same ones),
the largest and mean difference of the logits of the prompt's last token, and how many answers are the same text.
Needs `bash setup.sh --forks METHOD`. Without it, docs/differences.md and tests/golden hold the results.
"""

from __future__ import annotations

import argparse
from typing import Any

from eval.commands import flags
from pruners import catalogue


def arguments(parser: argparse.ArgumentParser) -> None:
    """The method, and the model and data to compare on."""
    parser.add_argument("name", metavar="METHOD", help="a method whose authors' code is a submodule")
    flags.choosing(parser)
    parser.set_defaults(arms="none,both", benchmarks="pope", limit=8)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Shows how far both agree in each arm; returns the numbers."""
    settings = flags.settings(args, catalogue.named(args.name), backend="fork")

    from eval.forks.parity import parity

    return parity(settings)
