"""Serve a model with any method and arm: OpenAI's chat completions on this machine.

examples:
  python -m eval serve --method fastv --keep 0.25
  python -m eval serve --model llava-hf/llava-1.5-7b-hf --method vispruner --keep 128 --arm padding --port 9000

A request may name another method, budget or arm in the fields `method`, `keep` and `arm`; `return_kept` returns the
kept tokens. docs/serving.md has the fields, the limits and what the server promises.
"""

from __future__ import annotations

import argparse

from eval.commands import flags

arguments = flags.serving


def work(args: argparse.Namespace) -> None:
    """Serves requests until it is stopped."""
    told = flags.served(args, "serve")

    from eval.serving.start import serve

    serve(*told)
