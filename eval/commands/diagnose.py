"""Measure the biases of a model's attention, layer by layer, before any benchmark is at hand.

examples:
  python -m eval diagnose                                  the embedded model, on drawn scenes
  python -m eval diagnose --model llava-hf/llava-1.5-7b-hf --images photos/ --keep 128
  python -m eval diagnose --layers 1,7,15 --heads --json
  python -m eval diagnose --model smol-bare --text-only    the bias of a language model that never saw a picture
  python -m eval diagnose --video                          the embedded video model, on drawn clips

For every layer and arm: how steeply attention rises with position (`rise`: log of last over first of the fitted
exponential, with R^2), its rank correlation with position (signed mean over pictures; and the mean absolute value that
the deep-layer paper reports, which chance alone lifts to the noise floor), entropy, how steeply it rises with position
how often a token is kept when the `--keep` highest scores stay (`kept: rise`), and where these tokens lie: in padding,
in the lowest third of the picture, and of a clip in the last third of its frames. In brackets: 95 %
bootstrap intervals over pictures. The trend of the arms is fitted on one half of the pictures and everything is
measured on the other; where the first half does not agree on a trend, nothing is divided (debias/fitting/settle.py).
`no RoPE`: scores taken before the rotary embedding. `chance`: the scores of every picture shuffled over its tokens, so
the noise floor of every number.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from eval.answering import early
from eval.answering.checkpoints import folder_of
from eval.commands import flags
from eval.core.embedded import BARE, EMBEDDED, SMOL
from eval.core.files import write_json
from eval.core.tables import show

FEWEST = 4  # pictures: two of either half


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the pictures and requests, and what is measured on them."""
    add = parser.add_argument
    flags.add(parser, "model", "device")
    add("--video", action="store_true", help="clips instead of pictures")
    add("--text-only", action="store_true", help="random words for visual tokens: the bias of the language model")
    add("--images", type=Path, help="folder of pictures, or of videos (default: the tiny world's)")
    add("--prompts", type=Path, help="text file, one request a line; the first is the main request")
    add("--limit", type=flags.positive, default=256, help="how many pictures")
    add("--keep", type=float, default=0.11, help="tokens that would be kept: a count, or a share < 1")
    add("--layers", help="which layers, as in 1,7,15 (default: all)")
    add("--heads", action="store_true", help="also the rise of every head, before and after RoPE")
    add("--out", type=Path, help="also write the result to this file, for `python -m eval figures`")
    add("--seed", type=int, default=0, help="another seed draws other pictures")
    flags.add(parser, "batch_size", help="pictures at once")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Shows the tables of the diagnosis; returns its numbers, and writes them with --out."""
    if args.model is not None:
        folder_of(args.model)  # says what is wrong with it before torch is loaded
    if args.limit < FEWEST:
        raise ValueError(
            f"--limit {args.limit}: half of the pictures fit the trend, the others measure; give at least {FEWEST}"
        )
    early.check_keep(int(args.keep) if args.keep >= 1 else args.keep)
    if args.layers is not None and args.model not in (SMOL, BARE):  # these two are put together later
        early.layers_named(args.layers, early.depth_of(args.model or str(EMBEDDED["video" if args.video else "image"])))

    from eval.bias import diagnosis
    from eval.bias.diagnose import DiagnosisSettings, diagnose

    asked = {field.name: getattr(args, field.name) for field in fields(DiagnosisSettings)}
    result = diagnose(DiagnosisSettings(**asked))
    for table in diagnosis.tables(result):
        show(table)
    if args.out is not None:
        write_json(args.out, result)
    return result
