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
  python -m eval fit --method fastv --video --scope factorised       clips: one trend within frames, one over them
  python -m eval run --method fastv --model DIR --trend gqa.toml ...
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from debias import Trend
from debias import trends as files
from debias.fit import KINDS
from debias.settle import LEAST_R2, NONE
from debias.shape import SCOPES
from eval.answering.checkpoints import folder_of
from eval.answering.resolved import Resolved
from eval.answering.trends import is_published, trended
from eval.bias import fitting
from eval.bias.fitting import QUESTIONS, Fit, calibration, prior
from eval.commands import flags
from eval.commands.flags import device, methods, of_methods, positive, sets
from eval.embedded import EMBEDDED
from eval.showing import drawings
from eval.tables import Table, say, show
from pruners import find
from pruners.prior import BESIDE, named
from tiny.benchmarks import ensure

HELDOUT = "held-out"
Found = dict[str, tuple[dict[str, Any], torch.Tensor]]  # where it was measured -> record, curve


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    add = parser.add_argument
    add("--method", default="fastv", help="the method whose first cut is measured; several with commas, or all")
    add("--model", help="a checkpoint folder or hub id (default: the embedded model)")
    add("--video", action="store_true", help="fit the video model on clips")
    add("--data", help="a data root (default: the embedded world's held-out half; with --each its scored half)")
    add("--benchmarks", help="names with commas (default: all that the data holds)")
    add("--limit", type=positive, default=QUESTIONS, help="questions of each benchmark (default %(default)s)")
    add("--kind", default="exponential", choices=[*KINDS, "prior"], help="what is fitted (default %(default)s)")
    add("--scope", default="sequence", choices=SCOPES, help="clips: over the whole clip, in every frame, or both")
    add("--refine", action="store_true", help="an exponential with an offset, by non-linear least squares")
    add("--each", action="store_true", help="one trend per benchmark of the data, as the released ones; needs --out")
    add("--plot", type=Path, metavar="STEM", help="draw curve, fit and stored trend into STEM.svg and STEM.png")
    add("--out", help="a trends file; this method's trends in it are replaced (default: the model's own)")
    add("--dtype", default="auto", help="auto, float32, float16 or bfloat16 (default: the checkpoint's)")
    add("--attention", default="sdpa", help="sdpa, eager or flash_attention_2 (default %(default)s)")
    add("--device", type=device, help="cpu, cuda, cuda:1, or auto (default: cuda when there is one)")
    parser.set_defaults(takes_fields=of_methods)
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    wanted = methods(args.method)
    if len(wanted) == 1:
        return fit_one(args, wanted[0])
    return {"methods": {method: fit_one(args, method) for method in wanted if trended(find(method))}}


def fit_one(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """Fit to one method, write the file, show and draw what was found."""
    if args.each and not args.out:
        raise ValueError("--each fits to questions that are scored; name the file that may hold such trends with --out")
    media = "video" if args.video else "image"
    model = args.model or str(EMBEDDED[media])
    only = sets(args.benchmarks) if args.benchmarks else None
    how = Fit(args.kind, args.scope, args.refine)
    data = None if args.data is None else Path(args.data)
    chosen = Resolved(flags.settings(args, method, out=None), [], {media: model})
    try:
        if args.kind == "prior":
            out = named(args.out or folder_of(model) / BESIDE[0])
            tiled = chosen.layout[media].tokens is None
            measured_on = data or fitting.heldout()
            return prior(chosen.adapter(media), chosen.pruner, media, tiled, measured_on, out, args.limit)
        found = (each if args.each else together)(chosen, media, data, only, args.limit, how)
        out = Path(args.out) if args.out else folder_of(model) / "trends.toml"
        stored = known(chosen, media)
    finally:
        chosen.close()
    written = [one for name, (one, _) in found.items() if name != HELDOUT] or [one for one, _ in found.values()]
    others = [one for one in files.load(out) if one["method"] != method] if out.exists() else []
    out.parent.mkdir(parents=True, exist_ok=True)
    files.dump(sorted([*others, *written], key=lambda one: (one["method"], one["benchmark"])), out)
    show(table(method, {name: one for name, (one, _) in found.items()}))
    say(f"written to {out}")
    drawn = plot(args.plot, found, stored) if args.plot else []
    first = written[0] if not args.each else {"trends": written, "heldout": found[HELDOUT][0]}
    return {**first, "file": str(out), "figures": drawn}


def together(
    chosen: Resolved, media: str, data: Path | None, only: Sequence[str] | None, limit: int, how: Fit
) -> Found:
    """One trend for everything."""
    one, curve = chosen.record(media, data or fitting.heldout(), only, limit, how)
    return {one["data"]: (one, curve)}


def each(chosen: Resolved, media: str, data: Path | None, only: Sequence[str] | None, limit: int, how: Fit) -> Found:
    """The held-out trend, and one of every benchmark of the data."""
    found = {HELDOUT: chosen.record(media, fitting.heldout(), None, limit, how)}
    root = data or ensure()
    for benchmark, _ in calibration(media, root, only, 1):
        one, curve = chosen.record(media, root, [benchmark.name], limit, how)
        found[benchmark.name] = ({**one, "benchmark": benchmark.name}, curve)
    return found


def known(chosen: Resolved, media: str) -> dict[str, Trend]:
    """Trends that are there already: beside the checkpoint, and the released ones of this method."""
    out, method, own = {}, chosen.settings.method, chosen.own_trends(media)
    if own is not None and any(one["method"] == method for one in files.load(own)):
        out["beside the checkpoint"] = files.find(method, None, own)
    if is_published(method, chosen.layout[media].tokens):
        out["released"] = files.find(method)
    return out


def table(method: str, found: dict[str, dict[str, Any]]) -> Table:
    head = ["measured on", "kind", "rate", "rise", "its 95 %", "R^2", "layer", "questions", "found"]
    rows = []
    for name, one in found.items():
        rate, trend = one.get("rate"), files.make(one, name)
        slots = trend.curve(trend.length).log() if trend.length else None
        rise = None if slots is None else float(slots[0] - slots[-1])
        bounds = f"[{one['rise'][1]:.2f}, {one['rise'][2]:.2f}]" if "rise" in one else None
        rise = one["rise"][0] if "rise" in one else rise
        rows.append([name, one["kind"], f"{rate:.6f}" if rate is not None else None, rise, bounds, one.get("r2"),
                     one["layer"], one["questions"], one.get("found")])  # fmt: skip
    first = next(iter(found.values()))
    notes = [
        f"{first['pruner']} on {first['model']}",
        "rise: the log of last over first, and its interval over pictures. A trend is kept when that leaves out 0 and "
        f"R^2 is at least {LEAST_R2}; otherwise its weights are 1: {NONE}.",
    ]
    return Table(f"Trend of {method}", head, rows, notes)


def plot(stem: Path, found: Found, stored: dict[str, Trend]) -> list[str]:
    """The measured curves with what was fitted to them, and stored trends of the same layout."""
    curves, fits = {}, {}
    for name, (one, curve) in found.items():
        trend = files.make(one, name)
        curves[name] = curve.tolist()
        what = NONE if one.get("found") == NONE else one["kind"]
        fits[f"{name}, {what}"] = inverse(trend, len(curve))
    fits |= {name: inverse(trend, len(curve)) for name, trend in stored.items() if trend.length in (None, len(curve))}
    return [str(path) for path in drawings.save(drawings.fits(curves, fits), stem)]


def inverse(trend: Trend, length: int) -> list[float]:
    """The trend itself: what scores are divided by."""
    frames = length // trend.length if trend.scope != "sequence" and trend.length else 1
    values: list[float] = (1 / trend.weight(None, length, frames)).tolist()
    return values
