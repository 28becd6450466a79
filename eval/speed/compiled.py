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

from eval.core.tables import Table
from eval.speed.drawn import Laid, prompt
from eval.speed.measure import Stopwatch, Variant, conditions, in_turn, varying
from eval.speed.settings import SpeedSettings

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
    inputs, clock = prompt(family, batch), Stopwatch(family.model.device)
    with variant.around(family, batch), torch.no_grad():
        clock.mark()
        out = family.model.generate(**inputs, **options)
        clock.mark()
    return clock.milliseconds()[0], out[:, -steps:].tolist()


def measure(family: Laid, wanted: Sequence[Variant], batch: int, asked: SpeedSettings) -> list[dict[str, Any]]:
    """One row a variant and cache."""
    rounds, steps = asked.rounds, asked.decode
    pairs = [(variant, cache) for variant in wanted for cache in CACHES]
    begun = {pair: answer(family, *pair, batch, steps) for pair in pairs}
    first = {pair: took for pair, (took, _) in begun.items()}

    def step(pair: tuple[Variant, str]) -> float:
        short, long = (answer(family, *pair, batch, tokens)[0] for tokens in (1, steps))
        first[pair] = max(0.0, first[pair] - long / rounds)
        return (long - short) / (steps - 1)

    return [
        {
            "variant": variant.label,
            "method": variant.method,
            "cache": cache,
            "batch": batch,
            "tokens": family.tokens,
            "attention": variant.kernel,
            "decode_ms": statistics.median(ms),
            "decode_range_ms": [min(ms), max(ms)],
            "first_ms": first[variant, cache],
            "same_tokens": begun[variant, cache][1] == begun[variant, CACHES[0]][1],
        }
        for (variant, cache), ms in in_turn(step, pairs, rounds, warm=0).items()
    ]


def table(result: dict[str, Any]) -> Table:
    """Both caches of every variant."""
    several = dict.fromkeys(["batch", *varying(result["rows"])])
    rows = [
        [row["variant"], *map(row.get, several), row["cache"], row["decode_ms"],
         "{:.2f}-{:.2f}".format(*row["decode_range_ms"]), row["first_ms"] / 1e3, "yes" if row["same_tokens"] else "no"]
        for row in result["rows"]
    ]  # fmt: skip
    notes = [
        f"{conditions(result)}; answers of {result['decode']} tokens, medians of {result['rounds']} rounds in turn",
        "static: generate(cache_implementation='static'), whose step is compiled; first: what the first answer took "
        "longer; equal: the same tokens as with the dynamic cache",
    ]
    head = ["variant", *several, "cache", "ms/token", "range", "first, s", "equal"]
    return Table(f"{result['shape']}: compiled decoding", head, rows, notes)
