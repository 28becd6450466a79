"""A small page in the browser: drop a picture, ask, slide the budget, and see what every arm keeps, side by side.

examples:
  python -m eval demo
  python -m eval demo --model llava-hf/llava-1.5-7b-hf --method fastv --keep 0.2

It is served on this machine alone, together with the protocol of `serve`.
"""

from __future__ import annotations

import argparse

from eval.commands import flags

arguments = flags.serving


def work(args: argparse.Namespace) -> None:
    """Serves the page until it is stopped."""
    told = flags.served(args, "demo")

    from eval.serving.start import demo

    demo(*told)
