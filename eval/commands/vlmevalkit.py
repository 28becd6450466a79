"""Run VLMEvalKit on pruned models, from its own checkout and without changing it.

The models are named debias_METHOD_ARM, and everything behind --run goes to the kit's run.py. Multiple choice and yes/no
questions are put as LLaVA's evaluation puts them; the kit's own wording is meant for other models.

examples:
  python -m eval vlmevalkit --kit VLMEvalKit --method fastv --keep 128 --arms none,both \\
                            --model llava-hf/llava-1.5-7b-hf --run --data MMBench_DEV_EN MME POPE
  torchrun --nproc-per-node 8 -m eval vlmevalkit --kit VLMEvalKit ...     one model on each GPU
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from debias.names import one_of
from eval.commands import flags
from eval.core.fields import apart
from eval.core.settings import HARNESS, several
from pruners.catalogue import names as methods


def arguments(parser: argparse.ArgumentParser) -> None:
    """The kit's folder, the method and its arms, and the kit's own flags."""
    add = parser.add_argument
    add("--kit", required=True, help="the folder of VLMEvalKit, with run.py in it")
    flags.add(parser, "method", "model")
    flags.add(parser, "arms", default="none,both", help="of none, trend, padding, both, unpruned")
    flags.add(parser, "max_new_tokens", default=1024, help="longest answer")
    add("--rows", help="a file that gets a JSON line for each answer, with the tokens that stayed")
    for name in HARNESS:
        add(f"--{name}", help=f"as for `python -m eval run`: its --{name}")
    add("--run", nargs=argparse.REMAINDER, required=True, help="everything behind it goes to the kit: --data POPE ...")
    parser.set_defaults(takes_fields=flags.of_methods)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the kit; returns the names of the models that it ran."""
    script = Path(args.kit) / "run.py"
    if not (script.is_file() and (script.parent / "vlmeval").is_dir()):
        raise ValueError(f"--kit {args.kit}: no VLMEvalKit there; expected its checkout, with run.py and vlmeval/")
    one_of("method", args.method, methods())
    settings: dict[str, Any] = {name: getattr(args, name) for name in HARNESS} | given(args.fields)
    settings |= {"pretrained": args.model, "method": args.method, "longest": args.max_new_tokens}

    from eval.harnesses.vlmevalkit import launch

    return {"models": launch(script, several(args.arms), settings, args.run, args.rows)}


def given(words: Sequence[str]) -> dict[str, list[str]]:
    """The fields among the flags, and their values: {"keep": ["64"]}."""
    return {flag[2:].replace("-", "_"): values for flag, values in apart(words)}
