"""Decoding with a static cache, whose step generate() compiles (on a GPU into CUDA graphs), beside the usual way.

    python -m eval speed --compiled --shape llava-1.5-7b --method fastv

One answer of --decode tokens is generated with each cache, in turn; a step is the time of the whole answer less that
of an answer of one token. `first` is what the first compiled answer takes longer than the later ones: the compiling.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from eval.speed.drawn import Laid, build, prompt
from eval.speed.measure import Clock, Variant, fitting, machine
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import SHAPES
from eval.tables import Table, show

CACHES = ("dynamic", "static")


def answer(family: Laid, variant: Variant, cache: str, batch: int, steps: int) -> tuple[float, list[Any]]:
    """Milliseconds of one answer of so many tokens, and the tokens."""
    from transformers import CompileConfig

    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": steps, "min_new_tokens": steps}
    if cache == "static":
        options["cache_implementation"] = "static"
        if family.model.device.type != "cuda":  # where generate() does not compile by itself
            options["compile_config"] = CompileConfig(backend="eager", mode=None, fullgraph=True)  # type: ignore[arg-type]
            options["compile_config"]._compile_all_devices = True
    inputs, clock = prompt(family, batch), Clock(family.model.device)
    with variant.around(family, batch), torch.no_grad():
        clock.mark()
        out = family.model.generate(**inputs, **options)
        clock.mark()
    return clock.milliseconds()[0], out[:, -steps:].tolist()


def measure(family: Laid, wanted: Sequence[Variant], batch: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """One row a variant and cache."""
    taken: dict[tuple[Variant, str], list[float]] = {}
    first: dict[tuple[Variant, str], float] = {}
    tokens: dict[tuple[Variant, str], list[Any]] = {}
    for variant in wanted:
        for cache in CACHES:
            first[variant, cache], tokens[variant, cache] = answer(family, variant, cache, batch, steps)
    for _ in range(rounds):
        for variant, cache in first:
            short = answer(family, variant, cache, batch, 1)[0]
            long = answer(family, variant, cache, batch, steps)[0]
            taken.setdefault((variant, cache), []).append((long - short) / (steps - 1))
            first[variant, cache] = max(0.0, first[variant, cache] - long / rounds)
    return [
        {
            "variant": variant.label,
            "method": variant.method,
            "cache": cache,
            "batch": batch,
            "tokens": family.tokens,
            "decode_ms": statistics.median(ms),
            "decode_range_ms": [min(ms), max(ms)],
            "first_ms": first[variant, cache],
            "same_tokens": tokens[variant, cache] == tokens[variant, CACHES[0]],
        }
        for (variant, cache), ms in taken.items()
    ]


def report(asked: SpeedSettings, device: torch.device, every: Sequence[Variant]) -> dict[str, Any]:
    """Measure, and show as a table."""
    if asked.decode < 2:
        raise ValueError(f"--decode {asked.decode}: a step is told from the prefill by answers of at least 2 tokens")
    shape = SHAPES[asked.shape]
    dtype = getattr(torch, asked.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    family = build(shape, shape.tokens, str(device), dtype, asked.attention[0], asked.shared_layers)
    wanted, left_out = fitting(family, every)
    rows = [row for batch in asked.batch_size for row in measure(family, wanted, batch, asked.rounds, asked.decode)]
    how = {"rounds": asked.rounds, "decode": asked.decode, "shared_layers": asked.shared_layers}
    result = {"shape": asked.shape, **machine(device, dtype), **how, "rows": rows, "left_out": left_out}
    show(table(result))
    return result


def table(result: dict[str, Any]) -> Table:
    rows = [
        [row["variant"], row["batch"], row["cache"], row["decode_ms"], "{:.2f}-{:.2f}".format(*row["decode_range_ms"]),
         row["first_ms"] / 1e3, "yes" if row["same_tokens"] else "no"]
        for row in result["rows"]
    ]  # fmt: skip
    notes = [
        f"{result['device']}, {result['threads']} thread(s), {result['dtype']}, torch {result['torch']}; answers of "
        f"{result['decode']} tokens, medians of {result['rounds']} rounds in turn",
        "static: generate(cache_implementation='static'), whose step is compiled; first: what the first answer took "
        "longer; equal: the same tokens as with the dynamic cache",
    ]
    head = ["variant", "batch", "cache", "ms/token", "range", "first, s", "equal"]
    return Table(f"{result['shape']}: compiled decoding", head, rows, notes)
