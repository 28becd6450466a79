"""Measure prefill, decoding and memory with and without pruning, on real architectures with random weights.

examples:
  python -m eval speed                                        FastV keep 128 on a CPU-sized decoder
  python -m eval speed --method fastv,pyramiddrop,vispruner --keep 64,128 --shape llava-1.5-7b --batch-size 1,8
  python -m eval speed --shape internvl2.5-8b --tokens 3328 --attention flash_attention_2
  python -m eval speed --debias                               one debias call beside one 7B decoder layer

Every variant runs in turn, round after round, so that a machine's moods fall on all alike; medians are printed, with
the quickest and the slowest round. `possible` is the speed-up that the floating-point operations allow, `reached` the
achieved one as a share of it. The vision tower is part of the prefill where the shape has one.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from debias import Debias, Padding, Trend, names
from eval import speed_debias, speed_forks
from eval.cli import one_of
from eval.shapes import SHAPES, Laid, build, prompt
from eval.tables import Table, say, show

SIZE = (640, 427)  # of the picture, before padding
UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Variant:
    """What is measured: a method with its budget in one arm, or the unpruned model (method None)."""

    method: str | None = None
    keep: int = 0
    arm: str = "none"

    @property
    def label(self) -> str:
        return UNPRUNED if self.method is None else f"{self.method} {self.keep} {self.arm}"

    def around(self, family: Laid, batch: int) -> AbstractContextManager[Any]:
        if self.method is None:
            return nullcontext()
        from pruners import make

        full = Debias(Trend.exponential(0.003), Padding()).with_arm(self.arm)
        return make(self.method, keep=self.keep)(family, full, sizes=[SIZE] * batch)


@dataclass
class Timed:
    """One variant at one batch size."""

    variant: str
    batch: int
    prefill_ms: list[float]
    decode_ms: list[float]  # per token
    flops: int
    mean_tokens: float | None
    peak_bytes: int

    def summary(self, base: Timed, rate: float) -> dict[str, Any]:
        prefill, decode = statistics.median(self.prefill_ms), statistics.median(self.decode_ms)
        speed_up = statistics.median(base.prefill_ms) / prefill
        possible = base.flops / self.flops
        return {
            **{key: value for key, value in asdict(self).items() if not key.endswith("_ms")},
            "prefill_ms": prefill,
            "prefill_range_ms": [min(self.prefill_ms), max(self.prefill_ms)],
            "decode_ms": decode,
            "speed_up": speed_up,
            "possible": possible,
            "reached": speed_up / possible,
            "decode_speed_up": statistics.median(base.decode_ms) / decode,
            "memory": self.peak_bytes / base.peak_bytes,
            "tflops": self.flops / prefill / 1e9,
            "of_matrix_rate": self.flops / prefill * 1e3 / rate,
        }


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("--method", default="fastv", help="methods with commas (default: %(default)s)")
    parser.add_argument("--arms", default="none,both", help="arms with commas (default: %(default)s)")
    parser.add_argument("--keep", type=numbers, default=[128], help="budgets with commas (default: 128)")
    parser.add_argument("--shape", default="small", help=f"one of {', '.join(SHAPES)} (default: %(default)s)")
    parser.add_argument("--tokens", type=int, help="visual tokens (default: the shape's)")
    parser.add_argument("--batch-size", type=numbers, default=[1], help="with commas (default: 1)")
    parser.add_argument("--attention", default="sdpa", help="sdpa, eager or flash_attention_2 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="times that every variant is run (default: %(default)s)")
    parser.add_argument(
        "--decode", type=int, default=8, help="tokens decoded after each prefill (default: %(default)s)"
    )
    parser.add_argument("--dtype", help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--device", help="default: a GPU when there is one")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as torch chooses)")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    parser.add_argument("--debias", action="store_true", help="only time one debias call")
    parser.add_argument("--against", choices=["fork"], help="fork: the authors' code and ours in turn")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # in a process of its own: this variant's peak memory
    return work


def work(args: argparse.Namespace) -> dict[str, Any]:
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.debias:
        return finish(speed_debias.report(device), args.out)
    if args.against:
        return finish(speed_forks.report(args, device), args.out)
    shape = SHAPES[one_of("shape", args.shape, list(SHAPES))]
    tokens = args.tokens or shape.tokens
    dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    wanted = list(variants(args))
    say(f"speed: building {args.shape} with {tokens} visual tokens, {dtype}, on {device}")
    family = build(shape, tokens, str(device), dtype, args.attention)
    if args.peak:
        chosen = next(variant for variant in wanted if variant.label == args.peak)
        once(family, chosen, prompt(family, args.batch_size[0]), 1)
        return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    rate = matrix_rate(device, dtype)
    rows = [row for batch in args.batch_size for row in measure(family, wanted, batch, args, rate)]
    result = {
        "shape": args.shape,
        "tokens": tokens,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "attention": args.attention,
        "torch": torch.__version__,
        "matrix_tflops": rate / 1e12,
        "rounds": args.rounds,
        "rows": rows,
    }
    show(table(result))
    return finish(result, args.out)


def finish(result: dict[str, Any], out: Path | None) -> dict[str, Any]:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def variants(args: argparse.Namespace) -> Iterator[Variant]:
    from pruners import names as methods

    yield Variant()
    for method in args.method.split(","):
        one_of("method", method, methods())
        for keep in args.keep:
            for arm in args.arms.split(","):
                yield Variant(method, keep, names.arm(arm))


@torch.inference_mode()
def measure(
    family: Laid, wanted: Sequence[Variant], batch: int, args: argparse.Namespace, rate: float
) -> list[dict[str, Any]]:
    inputs = prompt(family, batch)
    timed = [
        Timed(variant.label, batch, [], [], flops_of(family, variant, inputs), mean_tokens(family, variant), 0)
        for variant in wanted
    ]
    for round_number in range(args.rounds + 1):  # the first round warms up
        for variant, row in zip(wanted, timed, strict=True):
            prefill, decode = once(family, variant, inputs, args.decode)
            if round_number:
                row.prefill_ms.append(prefill)
                row.decode_ms.append(decode)
    for variant, row in zip(wanted, timed, strict=True):
        row.peak_bytes = peak(family, variant, inputs, batch, args)
    return [row.summary(timed[0], rate) for row in timed]


def once(family: Laid, variant: Variant, inputs: dict[str, Tensor], steps: int) -> tuple[float, float]:
    """Milliseconds of one prefill, and of one decoding step behind it."""
    from transformers import DynamicCache

    model, clock = family.model, Clock(family.model.device)
    with variant.around(family, len(inputs["input_ids"])), torch.inference_mode():
        cache = DynamicCache(config=model.config.text_config)
        clock.mark()
        out = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        clock.mark()
        token, mask = out.logits[:, -1:].argmax(-1), inputs["attention_mask"]
        for _ in range(steps):
            mask = torch.cat([mask, mask[:, :1]], 1)
            out = model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        clock.mark()
    prefill, decode = clock.milliseconds()
    return prefill, decode / max(1, steps)


class Clock:
    """Times between marks: events on a GPU, where nothing waits for the host, seconds elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.marks = device, []  # type: ignore[var-annotated]

    def mark(self) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return [a.elapsed_time(b) for a, b in pairs]
        return [(b - a) * 1e3 for a, b in pairs]


def flops_of(family: Laid, variant: Variant, inputs: dict[str, Tensor]) -> int:
    """Floating-point operations of the prefill, as they are dispatched."""
    with FlopCounterMode(display=False) as counter:
        once(family, variant, inputs, 0)
    return int(counter.get_total_flops())


def mean_tokens(family: Laid, variant: Variant) -> float | None:
    if variant.method is None:
        return float(family.tokens)
    from pruners import make

    return float(make(variant.method, keep=variant.keep).mean_count(len(family.decoder.layers), family.tokens))


def peak(family: Laid, variant: Variant, inputs: dict[str, Tensor], batch: int, args: argparse.Namespace) -> int:
    """Peak memory of one prefill and one step: of the device, or of a whole process that does nothing else."""
    if family.model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        once(family, variant, inputs, 1)
        return torch.cuda.max_memory_allocated()
    flags = ["--shape", args.shape, "--tokens", str(family.tokens), "--batch-size", str(batch)]
    flags += ["--method", args.method, "--arms", args.arms, "--keep", ",".join(map(str, args.keep))]
    flags += ["--attention", args.attention, "--device", "cpu", "--threads", str(torch.get_num_threads())]
    command = [sys.executable, "-m", "eval", "speed", "--json", "--peak", variant.label, *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return int(json.loads(done.stdout)["peak_bytes"])


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product: what this device can do at best."""
    edge, times = (8192, 20) if device.type == "cuda" else (1024, 4)
    a, b = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        clock = Clock(device)
        clock.mark()
        for _ in range(times):
            a @ b
        clock.mark()
        best = min(best, clock.milliseconds()[0] / times)
    return 2 * edge**3 / best * 1e3


def table(result: dict[str, Any]) -> Table:
    head = [
        "variant",
        "batch",
        "tokens",
        "prefill ms",
        "range",
        "speed-up",
        "possible",
        "reached",
        "ms/token",
        "memory",
    ]
    rows = [
        [
            row["variant"],
            row["batch"],
            row["mean_tokens"],
            row["prefill_ms"],
            "{:.1f}-{:.1f}".format(*row["prefill_range_ms"]),
            row["speed_up"],
            row["possible"],
            row["reached"],
            row["decode_ms"],
            row["memory"],
        ]
        for row in result["rows"]
    ]
    notes = [
        f"{result['device']}, {result['threads']} threads, {result['dtype']}, {result['attention']}, "
        f"torch {result['torch']}; medians of {result['rounds']} rounds in turn; "
        f"matrix products reach {result['matrix_tflops']:.3f} TFLOP/s",
        "tokens: visual tokens that a layer reads, mean; memory: peak, relative to the unpruned model",
    ]
    return Table(f"{result['shape']}, {result['tokens']} visual tokens", head, rows, notes)
