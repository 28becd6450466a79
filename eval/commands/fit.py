"""Fit the positional trend of a method's score on a model: the mean score at the method's first cut, by position.

The pictures come from data that is not scored: by default the embedded world's held-out half. `--each` fits one trend
to every benchmark of the data, as the released ones are, and shows the held-out one beside them. `--kind prior`
measures the average attention that D2Pruner divides by. A trend fitted to each score as it comes needs no file:
`run --trend online`.

examples:
  python -m eval fit --method all                                    the embedded model, into its trends.toml
  python -m eval fit --method fastv --model llava-hf/llava-1.5-7b-hf --out fastv-7b.toml --plot fastv-7b
  python -m eval fit --method fastv --model DIR --data playground/data/eval --benchmarks gqa --limit 500 --out gqa.toml
  python -m eval fit --method himap --each --model DIR --data playground/data/eval --out himap.toml
  python -m eval fit --method fastv --video --scope factorised       clips: one trend within frames, another over them
  python -m eval run --method fastv --model DIR --trend gqa.toml ...
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from debias.names import FITTED, SCOPES
from eval.commands import flags
from eval.core.embedded import EMBEDDED
from eval.core.settings import QUESTIONS
from pruners import catalogue


def arguments(parser: argparse.ArgumentParser) -> None:
    """The method and model, what the trend is fitted on and how, and the file for it."""
    add = parser.add_argument
    flags.add(parser, "method", help="the method whose first cut is measured; several with commas, or all")
    flags.add(parser, "model", "benchmarks", "device")
    add("--video", action="store_true", help="fit the video model on clips")
    data = "a data root, or with --kind prior a folder of pictures (default: the embedded world's held-out half; "
    flags.add(parser, "data", help=f"{data}with --each its scored half)")
    flags.add(parser, "limit", default=QUESTIONS, help="questions of each benchmark")
    add("--kind", default="exponential", choices=[*FITTED, "prior"], help="what is fitted")
    add("--scope", default="sequence", choices=SCOPES, help="clips: over the whole clip, in every frame, or both")
    add("--refine", action="store_true", help="an exponential with an offset, by non-linear least squares")
    add("--each", action="store_true", help="one trend per benchmark of the data, as the released ones; needs --out")
    add("--plot", type=Path, metavar="STEM", help="draw curve, fit and stored trend into STEM.svg and STEM.png")
    add("--out", type=Path, help="a trends file; this method's trends in it are replaced (default: the model's own)")
    add("--dtype", default="auto", help="auto, float32, float16 or bfloat16 (default: the checkpoint's)")
    add("--attention", default="sdpa", help="sdpa, eager or flash_attention_2")
    parser.set_defaults(takes_fields=flags.of_methods)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Fits to one method or to several; returns the fitted records."""
    wanted = flags.methods(args.method)
    if len(wanted) == 1:
        return fit_method(args, wanted[0])
    return {"methods": {method: fit_method(args, method) for method in wanted if "trend" in catalogue.arms(method)}}


def fit_method(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """Fit to one method, write the file, show and draw the result."""
    if args.kind != "prior" and "trend" not in catalogue.arms(method):
        raise ValueError(f"{catalogue.title(method)} reads no attention of the decoder, so there is no trend to fit")
    if args.each and not args.out:
        raise ValueError("--each fits to questions that are scored; name the file that may hold such trends with --out")
    only = flags.sets(args.benchmarks) if args.benchmarks else None
    pictures = {"data": None} if args.kind == "prior" else {}  # a plain folder of pictures holds no benchmark
    model = args.model or str(EMBEDDED["video" if args.video else "image"])
    settings = replace(flags.settings(args, method, out=None, model=model, **pictures), data=args.data)

    from eval.bias.fits import fit
    from eval.bias.fitting import Fit

    how = Fit(args.kind, args.scope, args.refine)
    return fit(settings, how, video=args.video, only=only, each=args.each, out=args.out, plot=args.plot)
