"""Measuring a method's mean score by position on pictures that are not scored, and fitting a trend to it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from debias import Debias, Padding, Reading, Trend
from debias import trends as files
from debias.fitting.settle import NONE, Settled, none, resampled, settle
from eval import benchmarks
from eval.answering.backends import greedy
from eval.answering.plan import batches, limited
from eval.benchmarks.base import Benchmark
from eval.core.settings import QUESTIONS
from eval.core.tables import say
from eval.reading.images import of_folder, open_clip, open_image
from eval.reading.media import request
from eval.reading.sample import Sample
from eval.reading.video import Clips
from pruners.prior import CLIP_PROMPT, PROMPT, Prior

QUICK = 16  # questions of each benchmark, when a trend is fitted on the way to a run
PICTURES = 128  # at least so many questions in all, where the data holds few benchmarks


@dataclasses.dataclass(frozen=True)
class Fit:
    """What is fitted to a curve."""

    kind: str = "exponential"
    scope: str = "sequence"
    refine: bool = False
    reading: Reading | None = None  # of the attention that the curve is made of


@dataclasses.dataclass(frozen=True)
class ScoreProbe(Debias):
    """Sums up the scores of first cuts by original position, leaving out padding; changes nothing."""

    padding: Padding | None = dataclasses.field(default_factory=lambda: Padding(0.5, "even"))
    seen: dict[int, list[torch.Tensor]] = dataclasses.field(default_factory=dict, compare=False)  # by span length
    groups: dict[int, list[str]] = dataclasses.field(default_factory=dict, compare=False)  # the picture of each
    asked: list[str] = dataclasses.field(default_factory=list, compare=False)  # whose scores come next, in their order
    special: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict, compare=False)
    frames: dict[int, int] = dataclasses.field(default_factory=dict, compare=False)

    def __call__(self, score: Any, span: Any, stage: int = 0, role: str = "select", valid: Any = None) -> Any:
        if stage == 0 and role in ("select", "weigh"):
            assert self.padding is not None
            index = span.raster(score.device)
            there = (index >= 0) & self.padding.valid(span).to(score.device)
            flat = score.detach().double().reshape(-1, score.shape[-1]).mean(0)
            curve = torch.full((span.total,), math.nan, dtype=torch.float64)
            curve[index[there].cpu()] = flat[there].cpu()
            rows = self.seen.setdefault(span.total, [])
            rows.append(curve)
            self.groups.setdefault(span.total, []).append(self.asked.pop(0) if self.asked else f"picture {len(rows)}")
            self.frames[span.total] = span.frames
            if span.special is not None:
                self.special[span.total] = span.special.cpu()
        return score


Asked = Sequence[tuple[Benchmark, Sequence[Sample]]]
Probes = dict[str, ScoreProbe]  # by everything that decides what was measured


def measure(adapter: Any, pruner: Any, asked: Asked, reading: Reading | None = None) -> ScoreProbe:
    """The mean score of every position over the questions, one prefill each."""
    probe, clips = ScoreProbe(reading=reading), Clips()
    for benchmark, samples in asked:
        for batch in batches(samples, 8):
            encoded = adapter.encode([request(sample, benchmark.conversation, clips) for sample in batch])
            shown = zip(batch, adapter.spans(encoded.inputs, encoded.sizes), strict=True)
            probe.asked[:] = [f"{benchmark.name} {sample.group}" for sample, spans in shown for _ in spans]
            with torch.inference_mode(), pruner(adapter.model, probe, sizes=encoded.sizes):
                adapter.model.generate(**encoded.inputs, generation_config=greedy(adapter.model, 1))
    return probe


def fitted(probe: ScoreProbe, how: Fit = Fit(), **options: Any) -> tuple[Trend, torch.Tensor, Settled | None]:
    """The trend that fits the mean curve, the curve, and for an exponential what the pictures say about it.

    Spans of several lengths have no one curve: the commonest. An exponential that the pictures do not agree on has
    weights of 1; other kinds follow the curve's own shape and are taken as they are asked for.
    """
    if not probe.seen:
        raise ValueError("the method scored no visual token of these questions, so there is no trend to fit")
    length = max(probe.seen, key=lambda length: sum(int(row.isfinite().sum()) for row in probe.seen[length]))
    pictures = torch.stack(probe.seen[length])
    curve = resampled(pictures, draws=0)[0]  # positions that were never seen are NaN, and left out
    special, frames = probe.special.get(length), probe.frames.get(length, 1)
    asked: dict[str, Any] = {"scope": how.scope, "frames": 1 if how.scope == "sequence" else frames}
    settled = settle(pictures, special, probe.groups[length], **asked) if how.kind == "exponential" else None
    trend = Trend.fit(curve, how.kind, special, refine=how.refine, **asked, **options)
    if settled is not None:
        trend = trend if settled.agreed else none(trend)
    if how.scope == "sequence":
        trend = dataclasses.replace(trend, length=length)
    return dataclasses.replace(trend, residual=None), curve, settled


def settled_facts(trend: Trend, settled: Settled) -> dict[str, Any]:
    """What the pictures say about a trend, in a record: the rise of the fit with its interval, and what it comes to."""
    return {"rate": trend.rate, "rise": list(settled.rise), "found": "trend" if settled.agreed else NONE}


def rotary(adapter: Any) -> dict[str, Any]:
    """What the rope trend needs to know of a model."""
    config = adapter.model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    known = getattr(config, "rope_parameters", None) or {}
    theta = known.get("rope_theta") or getattr(config, "rope_theta", None) or 10_000.0
    return {"head_dim": width, "theta": float(theta)}


def calibration(media: str, data: Path, only: Sequence[str] | None = None, limit: int | None = QUESTIONS) -> Asked:
    """(benchmark, questions) to measure on: benchmarks of one medium that `data` holds.

    limit: questions of each benchmark; None: a few, and more where the benchmarks are few.
    """
    chosen = [benchmarks.get(name) for name in only or benchmarks.NAMES]
    chosen = [benchmark for benchmark in chosen if benchmark.media == media and (only or benchmark.lies_in(data))]
    if limit is None:
        limit = max(QUICK, math.ceil(PICTURES / max(1, len(chosen))))
    asked = [
        (benchmark, limited([s for s in benchmark.load(data) if s.image or s.video], limit)) for benchmark in chosen
    ]
    if not asked:
        among = f" among {', '.join(only)}" if only else ""
        raise ValueError(f"{data} holds no {media} benchmark to fit on{among}; clips are meant with --video alone")
    return asked


def record(
    adapter: Any,
    pruner: Any,
    probe: ScoreProbe,
    asked: Asked,
    data: Path,
    how: Fit,
    known: Mapping[str, str],
    own: str = "",
) -> tuple[dict[str, Any], torch.Tensor]:
    """One trend fitted to what was measured, with where it comes from, as a record of a trends file; and the curve.

    asked: what `calibration` chose of `data`. known: the names of the method and of the model.
    own: the world whose held-out questions these are, where they are a model's own.
    """
    options = rotary(adapter) if how.kind == "rope" else {}
    trend, curve, settled = fitted(probe, how, **options)
    cut = next(cut for cut in pruner.cuts(len(adapter.decoder.layers)) if cut.source != "tower")
    return {
        "method": known["method"],
        "benchmark": files.EVERY,
        **files.describe(trend),
        **({} if settled is None else settled_facts(trend, settled)),
        "model": known["model"],
        "layer": cut.layer,
        "attention": f"{cut.source}, {cut.rows} rows",
        "pruner": repr(pruner),
        "prompt": ", ".join(sorted({benchmark.conversation for benchmark, _ in asked})),
        "questions": sum(len(samples) for _, samples in asked),
        "data": f"{own}, held-out half" if own else f"{data.name}: {', '.join(source.name for source, _ in asked)}",
        "command": "python -m eval fit",
    }, curve


def prior(
    adapter: Any, pruner: Any, media: str, tiled: bool, data: Path, out: Path, limit: int = 1000
) -> dict[str, Any]:
    """The average attention that D2Pruner divides by, over the pictures or clips of the data, one of each; `data` may
    also be a plain folder of them.

    tiled: pictures are cut into tiles, as many as fit each; the average is that of a tile.
    """
    film, clips = media == "video", Clips()
    if any(benchmarks.get(name).lies_in(data) for name in benchmarks.NAMES):
        asked = [sample for _, samples in calibration(media, data, None, limit) for sample in samples]
        chosen = list({str(sample.image or sample.video): sample for sample in reversed(asked)}.values())[::-1][:limit]
        shown: Iterable[Any] = (open_clip(sample, clips) if film else open_image(sample) for sample in chosen)
    else:
        shown = of_folder(data, limit, film)
    tile = int(adapter.model.config.image_seq_length) if tiled and not film else None
    cut = pruner.cuts(len(adapter.decoder.layers))[0].layer
    measured = Prior.measure(adapter, shown, cut, CLIP_PROMPT if film else PROMPT, tile)
    out.parent.mkdir(parents=True, exist_ok=True)
    measured.save(out)
    what = "clips" if film else "pictures"
    say(f"prior of layer {measured.layer} over {measured.images} {what} written to {out}")
    return {
        "kind": "prior",
        "layer": measured.layer,
        what: measured.images,
        "digest": measured.digest,
        "file": str(out),
    }


def rounded(record: dict[str, Any]) -> dict[str, Any]:
    """A trend's record with four significant digits."""
    return dict(json.loads(json.dumps(record), parse_float=lambda number: float(f"{float(number):.4g}")))
