"""Fit the positional trend of a method's score on a model: the mean score at the method's first cut, by position.

The pictures come from data that is not scored: by default the embedded world's held-out half.

examples:
  python -m eval fit --method fastv                                  the embedded model, into its trends.toml
  python -m eval fit --method fastv --model llava-hf/llava-1.5-7b-hf --out fastv-7b.toml
  python -m eval fit --method fastv --model DIR --data playground/data/eval --benchmarks gqa --limit 500 --out gqa.toml
  python -m eval run --method fastv --model DIR --trend gqa.toml ...
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from debias import Debias, Padding, Trend, names
from debias import trends as files
from eval.benchmarks.base import Benchmark
from eval.images import open_image
from eval.plan import batches, limited
from eval.sample import Sample
from eval.tables import Table, say, show

log = logging.getLogger("debias")
QUESTIONS = 64  # of each benchmark, when a trend is fitted on the way to a run


@dataclasses.dataclass(frozen=True)
class Probe(Debias):
    """Sums up the scores of first cuts by original position, leaving out padding; changes nothing."""

    padding: Padding | None = dataclasses.field(default_factory=lambda: Padding(0.5, "even"))
    sums: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict, compare=False)  # span length -> [2, length]
    special: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict, compare=False)

    def __call__(self, score: Any, span: Any, stage: int = 0, role: str = "select") -> Any:
        if stage == 0 and role in ("select", "weigh"):
            assert self.padding is not None
            total = self.sums.setdefault(span.total, torch.zeros(2, span.total, dtype=torch.float64))
            index = span.raster(score.device)
            there = (index >= 0) & self.padding.valid(span).to(score.device)
            flat = score.detach().double().reshape(-1, score.shape[-1]).mean(0)
            total[0].index_add_(0, index[there].cpu(), flat[there].cpu())
            total[1].index_add_(0, index[there].cpu(), torch.ones(int(there.sum()), dtype=torch.float64))
            if span.special is not None:
                self.special[span.total] = span.special.cpu()
        return score


def measure(adapter: Any, pruner: Any, asked: Iterable[tuple[Benchmark, Sequence[Sample]]], clips: Any = None) -> Probe:
    """The mean score of every position over the questions, one prefill each."""
    from eval.backends import greedy
    from pruners.models import Request

    probe = Probe()
    for benchmark, samples in asked:
        for batch in batches(samples, 8):
            requests = []
            for sample in batch:
                frames = clips(sample.video) if sample.video is not None else None
                images = [] if frames is not None or sample.image is None else [open_image(sample)]
                requests.append(Request(sample.text, images, frames, conversation=benchmark.conversation))
            encoded = adapter.encode(requests).to(adapter.model.device, adapter.model.dtype)
            with torch.inference_mode(), pruner(adapter.model, probe, sizes=encoded.sizes):
                adapter.model.generate(**encoded.inputs, generation_config=greedy(adapter.model, 1))
    return probe


def fitted(probe: Probe) -> tuple[Trend, torch.Tensor]:
    """The exponential that fits the mean curve, and the curve. Spans of several lengths have no one curve."""
    if not probe.sums:
        raise ValueError("the method scored no visual token of these questions, so there is no trend to fit")
    length = max(probe.sums, key=lambda length: float(probe.sums[length][1].sum()))
    total, seen = probe.sums[length]
    curve = total / seen  # positions that were never seen are NaN, and left out
    trend = Trend.fit(curve, ignore=probe.special.get(length))
    return dataclasses.replace(trend, length=length, residual=None), curve


def heldout() -> Path:
    from tiny.benchmarks import ensure

    return ensure(size="default", half="heldout")


def calibration(media: str, data: Path, only: Sequence[str] | None = None, limit: int = QUESTIONS) -> list[Any]:
    """(benchmark, questions) to measure on: benchmarks of one medium that `data` holds."""
    from eval import benchmarks
    from eval.choices import there

    found = [benchmarks.get(name) for name in only or benchmarks.NAMES]
    found = [one for one in found if one.media == media and (only or there(one, data))]
    return [(one, limited([s for s in one.load(data) if s.image or s.video], limit)) for one in found]


def record(choice: Any, media: str, data: Path, only: Sequence[str] | None, limit: int) -> dict[str, Any]:
    """One fitted trend with where it comes from, as a record of a trends file."""
    from eval.checkpoints import digest_of
    from eval.video import Clips

    adapter = choice.adapter(media)
    asked = calibration(media, data, only, limit)
    if not asked:
        raise ValueError(f"{data} holds no {media} benchmark to fit on")
    trend, _ = fitted(measure(adapter, choice.pruner, asked, Clips()))
    cut = choice.pruner.cuts(len(adapter.decoder.layers))[0]
    own = data == heldout()
    return {
        "method": choice.args.method,
        "benchmark": files.EVERY,
        **files.describe(trend),
        "model": f"{Path(choice.models[media]).name} {digest_of(choice.models[media])}",
        "layer": cut.layer,
        "attention": f"{cut.source}, {cut.rows} rows",
        "pruner": repr(choice.pruner),
        "prompt": ", ".join(sorted({benchmark.conversation for benchmark, _ in asked})),
        "questions": sum(len(samples) for _, samples in asked),
        "data": "tiny world, held-out half" if own else f"{data.name}: {', '.join(one.name for one, _ in asked)}",
        "command": "python -m eval fit",
    }


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    parser.add_argument("--method", default="fastv", help="the method whose first cut is measured")
    parser.add_argument("--model", help="a checkpoint folder or hub id (default: the embedded model)")
    parser.add_argument("--video", action="store_true", help="fit the video model on clips")
    parser.add_argument("--data", help="a data root (default: the embedded world's held-out half)")
    parser.add_argument("--benchmarks", help="names with commas (default: all that the data holds)")
    parser.add_argument(
        "--limit", type=int, default=QUESTIONS, help="questions of each benchmark (default %(default)s)"
    )
    parser.add_argument("--out", help="a trends file; this method's trend in it is replaced (default: the model's own)")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--device")
    parser.set_defaults(takes_fields=True)
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    from eval.checkpoints import folder_of
    from eval.choices import EMBEDDED, Choice
    from eval.cli import one_of
    from pruners import names as methods

    one_of("method", args.method, methods())
    media = "video" if args.video else "image"
    model = args.model or str(EMBEDDED[media])
    data = Path(args.data) if args.data else heldout()
    only = [names.benchmark(name) for name in args.benchmarks.split(",")] if args.benchmarks else None
    out = Path(args.out) if args.out else folder_of(model) / "trends.toml"
    choice = Choice(args, [], [], {media: model})
    try:
        found = record(choice, media, data, only, args.limit)
    finally:
        choice.close()
    others = [one for one in files.load(out) if one["method"] != args.method] if out.exists() else []
    files.dump(sorted([*others, found], key=lambda one: (one["method"], one["benchmark"])), out)
    rows = [[name, value if isinstance(value, str) else f"{value:.6g}"] for name, value in found.items()]
    show(Table(f"trend of {args.method}", ["", ""], rows))
    say(f"written to {out}")
    return {**found, "file": str(out)}
