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
from pathlib import Path
from typing import Any

from eval.bias.settings import DiagnosisSettings
from eval.commands import flags
from eval.core.files import write_json
from eval.core.tables import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the pictures and requests, and what is measured on them."""
    flags.add(parser, of=DiagnosisSettings)
    parser.add_argument("--out", type=Path, help="also write the result to this file, for `python -m eval figures`")


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Shows the tables of the diagnosis; returns its numbers, and writes them with --out."""
    asked = flags.read(DiagnosisSettings, args)

    from eval.bias import diagnosis
    from eval.bias.diagnose import diagnose

    result = diagnose(asked)
    for table in diagnosis.tables(result):
        show(table)
    if args.out is not None:
        write_json(args.out, result)
    return result
