"""What a study costs in GPU hours: operations and bytes counted from shapes, divided by a device's rates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from debias.names import one_of
from eval import benchmarks
from eval.core.settings import UNPRUNED
from eval.core.tables import Cell, Table
from eval.speed.shapes import BEFORE, CLIP_LARGE, DEVICES, SHAPES, Architecture
from pruners import make
from pruners.parts.budget import REFERENCE_TOKENS


@dataclass(frozen=True)
class Load:
    """What one benchmark asks: pictures (or clips), text tokens behind the picture, and tokens of an answer."""

    pictures: int
    text: int = 30
    answer: int = 3


# Pictures are counted where the set says so, else a third of the questions; lengths are assumed, in LLaMA's tokens.
LOADS = {
    "vqav2": Load(35_798),
    "gqa": Load(398),
    "vizwiz": Load(8_000, 40),
    "scienceqa": Load(2_017, 110),
    "textvqa": Load(3_166, 60),
    "pope": Load(500),
    "mme": Load(1_187),
    "mmbench": Load(1_459, 80),
    "mmbench_cn": Load(1_443, 100),
    "mmvet": Load(200, 35, 120),
    "tgif": Load(8_584, 30, 12),
    "msvd": Load(4_386, 30, 12),
    "msrvtt": Load(24_274, 30, 12),
    "refcoco": Load(7_195, 45, 28),
    "refcoco+": Load(7_124, 45, 28),
    "refcocog": Load(4_833, 50, 28),
}


@dataclass(frozen=True)
class Rates:
    """What a device does: operations in a prefill, bytes in a decoding step; and where that is known from."""

    tflops: float
    terabytes: float
    source: str
    of: Mapping[str, tuple[float, float]] | None = None  # variant -> measured (TFLOP/s, ms per token of a batch)


START = 60.0  # seconds to start and load a model
PREFILL, DECODE = 0.5, 0.6  # the parts of a data sheet's rates that are assumed to be reached


def assumed(device: str) -> Rates:
    """A share of what the data sheet of a device promises."""
    peak, bandwidth = DEVICES[device]
    source = f"assumed: {PREFILL:.0%} of {peak:g} TFLOP/s and {DECODE:.0%} of {bandwidth:g} TB/s of a data sheet"
    return Rates(peak * PREFILL, bandwidth * DECODE, f"{device.upper()}, {source}")


def measured(path: Path, base: Rates) -> Rates:
    """The rates of an `eval speed --out` file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        largest = max(row["batch"] for row in record["rows"])
        first = record["rows"][0]  # other kernels and lengths may follow
        rows = [
            row
            for row in record["rows"]
            if row["batch"] == largest and all(row.get(key) == first.get(key) for key in ("attention", "tokens"))
        ]
        of = {row["variant"]: (float(row["tflops"]), float(row["decode_ms"])) for row in rows}
        whole = of[UNPRUNED]
        source = f"measured: {path.name}, {record['device']}, {record['shape']}, batches of {largest}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = "no such file; " if isinstance(error, FileNotFoundError) else ""
        raise ValueError(f"--speed {path}: {why}expected what `python -m eval speed --out FILE` writes") from None
    weights = weight_bytes(SHAPES[one_of("shape", record["shape"], list(SHAPES))])
    return Rates(whole[0], weights / whole[1] / 1e9 if whole[1] else base.terabytes, source, of)


def weight_bytes(shape: Architecture) -> float:
    """Of the decoder in 16 bits."""
    return 2.0 * (shape.layers * linear(shape) / 2 + shape.vocabulary * shape.width)


def linear(shape: Architecture) -> float:
    """Operations of one layer's matrices for one token."""
    attention = 2 * shape.width * (1 + shape.groups / shape.heads)
    return 2.0 * shape.width * (attention + 3 * shape.inner)


def layer(shape: Architecture, tokens: float) -> float:
    """Operations of one layer for a prompt of so many tokens; attention counts whole, as `speed` counts it."""
    return tokens * linear(shape) + 4 * tokens**2 * shape.width


def tower(tokens: int, frames: int = 1) -> float:
    """Operations of a CLIP-L tower for `frames` pictures of so many patches."""
    width, inner = CLIP_LARGE["hidden_size"], CLIP_LARGE["intermediate_size"]
    each = (tokens + 1) * 2 * width * (4 * width + 2 * inner) + 4 * (tokens + 1) ** 2 * width
    return float(frames * (CLIP_LARGE["num_hidden_layers"] - 1) * each)


def prefill(shape: Architecture, pruner: Any, text: int, visual: int) -> tuple[float, float]:
    """Operations before the first cut and behind it, the last token's vocabulary with the latter."""
    cuts = [] if pruner is None else pruner.cuts(shape.layers)
    edges = [0, *(cut.layer for cut in cuts), shape.layers]
    held = [visual, *([] if pruner is None else pruner.counts(shape.layers, visual))]
    if cuts and edges[1]:  # a tower that prunes hands over fewer than it sees; the mean over all layers tells how many
        behind = sum(n * (edges[i + 1] - edges[i]) for i, n in enumerate(held) if i)
        held[0] = (pruner.mean_count(shape.layers, visual) * shape.layers - behind) / edges[1]
    parts = [layer(shape, text + n) * (edges[i + 1] - edges[i]) for i, n in enumerate(held)]
    return parts[0], sum(parts[1:]) + 2.0 * shape.vocabulary * shape.width


@dataclass(frozen=True)
class Workload:
    """One study: how questions are worked through, and by what."""

    images: str
    videos: str
    keep: int
    batch: int
    rates: Rates
    share_prefix: bool

    def pruner(self, method: str, shape: Architecture) -> Any:
        """The method with its budget on a shape; None: the unpruned model."""
        if method == UNPRUNED:
            return None
        share = min(1.0, self.keep / REFERENCE_TOKENS)
        return make(method, keep=self.keep if shape.tokens == REFERENCE_TOKENS else share)

    def seconds(self, method: str, benchmark: str, arms: int) -> float | None:
        """One GPU's seconds for a benchmark; None where the method cannot run."""
        load, set_ = LOADS[benchmark], benchmarks.get(benchmark)
        video = set_.media == "video"
        name = self.videos if video else self.images
        shape = SHAPES[name]
        pruner = self.pruner(method, shape)
        looks = pruner is not None and pruner.needs_tower()
        if video and looks:
            return None
        first, rest = prefill(shape, pruner, BEFORE + load.text, shape.tokens)
        shared = self.share_prefix and pruner is not None and not looks
        prefix_runs = 1 if shared else arms
        rate, step = self.of(method, shape)
        asked = set_.expected_n
        seen = tower(256, 8) if video else tower(shape.tokens)
        towers = (asked * arms if looks else load.pictures) * seen
        operations = asked * (first * prefix_runs + rest * arms) + towers
        return float(operations / (rate * 1e12) + asked * arms * load.answer * step / self.batch)

    def of(self, method: str, shape: Architecture) -> tuple[float, float]:
        """(TFLOP/s of a prefill, seconds of a decoding step of a batch)."""
        step = weight_bytes(shape) / (self.rates.terabytes * 1e12)
        label = method if method == UNPRUNED else f"{method} {self.keep} none"
        if self.rates.of and label in self.rates.of:
            return self.rates.of[label][0], step
        return self.rates.tflops, step


def spread(questions: Mapping[str, int], seconds: Mapping[str, float], gpus: int, start: float) -> float:
    """Hours on so many GPUs: questions fall to processes by a hash, so the slowest has a few more than its share."""
    total = 0.0
    for name, spent in seconds.items():
        mean = questions[name] / gpus
        slowest = mean + math.sqrt(2 * mean * math.log(gpus)) if gpus > 1 else mean
        total += spent / questions[name] * min(slowest, questions[name])
    return (total + start) / 3600


def study(
    plan: Workload, methods: Sequence[str], names: Sequence[str], gpus: Sequence[int], arms: int | None = None
) -> dict[str, Any]:
    """The hours of the unpruned model and of every method on the named benchmarks, alone and on so many GPUs.

    arms: of each method; None: as many as it has.
    """
    questions = {name: benchmarks.get(name).expected_n for name in names}
    rows: list[dict[str, Any]] = []
    for method in [UNPRUNED, *methods]:
        pruner = plan.pruner(method, SHAPES[plan.images])
        count = 1 if pruner is None else arms or len(pruner.arms())
        spent = {name: plan.seconds(method, name, count) for name in names}
        seconds = {name: value for name, value in spent.items() if value is not None}
        hours = {str(number): spread(questions, seconds, number, START) for number in gpus}
        asked = sum(questions[name] for name in seconds)
        rows.append({"method": method, "arms": count, "answers": asked * count, "seconds": seconds, "hours": hours,
                     "gpu_hours": sum(seconds.values()) / 3600})  # fmt: skip
    return {
        "estimate": True,
        "rates": asdict(plan.rates),
        "plan": {"shape": plan.images, "video_shape": plan.videos, "keep": plan.keep, "batch": plan.batch,
                 "share_prefix": plan.share_prefix, "start_seconds": START},
        "questions": questions,
        "loads": {name: asdict(LOADS[name]) for name in names},
        "methods": rows,
        "gpu_hours": sum(row["gpu_hours"] for row in rows),
        "wall_hours": {str(number): sum(row["hours"][str(number)] for row in rows) for number in gpus},
    }  # fmt: skip


def tables(result: Mapping[str, Any], gpus: Sequence[int]) -> list[Table]:
    """What the study costs by method and by benchmark. gpus: how many to show the hours for."""

    def wall(hours: Mapping[str, float]) -> list[Cell]:
        return [f"{hours[str(count)]:.2f}" for count in gpus]

    plan = result["plan"]
    head = ["method", "arms", "answers", "GPU hours", *(f"hours on {count}" for count in gpus)]
    rows: list[list[Cell]] = [
        [row["method"], row["arms"], f"{row['answers']:,}", f"{row['gpu_hours']:.1f}", *wall(row["hours"])]
        for row in result["methods"]
    ]
    answers = sum(row["answers"] for row in result["methods"])
    rows.append(["all", None, f"{answers:,}", f"{result['gpu_hours']:.1f}", *wall(result["wall_hours"])])
    notes = [
        f"An estimate. Rates {result['rates']['source']}.",
        f"{plan['shape']} for pictures, {plan['video_shape']} for clips, keep {plan['keep']} of {REFERENCE_TOKENS}, "
        f"batches of {plan['batch']}, {'a shared' if plan['share_prefix'] else 'no shared'} prefix, "
        f"{plan['start_seconds']:g} s to start each method. Methods that look into the vision tower do not run on "
        "clips.",
    ]
    by_set: list[list[Cell]] = []
    for name, count in result["questions"].items():
        load = result["loads"][name]
        hours = sum(row["seconds"].get(name, 0.0) for row in result["methods"]) / 3600
        by_set.append([name, f"{count:,}", f"{load['pictures']:,}", load["text"], load["answer"], f"{hours:.1f}"])
    sets = Table(
        "By benchmark",
        ["benchmark", "questions", "pictures", "text tokens", "answer tokens", "GPU hours"],
        by_set,
        ["Text tokens behind the picture and tokens of an answer are assumed; GPU hours of all methods and arms."],
    )
    return [Table("What the study costs", head, rows, notes), sets]
