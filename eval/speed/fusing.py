"""Score and choice of one cut by the fused kernels and by plain torch (`python -m eval speed --fused`).

What the last token pays each visual one, trend and padding, and the tokens that stay; as a share of a prefill that is
one decoder layer of the shape, timed in the same run, times its depth.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from eval.core.tables import Table, show
from eval.speed.debiasing import Layer, span_of
from eval.speed.measure import FULL, machine, quickest
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import AFTER, BEFORE, SHAPES, Shape
from pruners.cut import top
from pruners.engine.attention import attended, fusing, kernels
from pruners.parts.budget import tokens_kept


def report(asked: SpeedSettings, device: torch.device) -> dict[str, Any]:
    """Measure, and show as a table."""
    shape, rows = SHAPES[asked.shape], []
    for length in asked.tokens or [shape.tokens]:
        rows.append(measure(shape, length, tokens_kept(asked.keep[0], length), device, asked.rounds))
    name = machine(device)["device"] if device.type == "cuda" else "cpu, in triton's interpreter"
    result = {"shape": asked.shape, "layers": shape.layers, "device": name, "torch": torch.__version__, "rows": rows}
    show(table(result))
    return result


@torch.inference_mode()
def measure(shape: Shape, length: int, keep: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """One row of the table: both ways on the same numbers, with what differs in what they keep."""
    dice = torch.Generator().manual_seed(0)
    layer, columns, size = Layer(shape, device), BEFORE + length + AFTER, shape.width // shape.heads

    def made(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=dice).to(layer.out)

    query, keys, hidden = made(shape.heads, 1, size), made(shape.groups, columns, size), made(columns, shape.width)
    slots, span = torch.arange(BEFORE, BEFORE + length, device=device), span_of(length)

    def plain() -> tuple[torch.Tensor, torch.Tensor]:
        with fusing(False):
            score = FULL(attended(query, keys, size**-0.5, slots), span)
        return score, top(score, keep)

    def fused() -> tuple[torch.Tensor, torch.Tensor]:
        with fusing():
            raw = attended(query, keys, size**-0.5, slots)
        score, kept = kernels().best(raw, FULL.terms(raw, span), keep)
        return score, kept

    (score, kept), (other, chosen) = plain(), fused()
    times = 50 if device.type == "cuda" else 1
    seconds = {way.__name__: quickest(way, device, times, rounds) for way in (plain, fused)}
    prefill = shape.layers * quickest(functools.partial(layer, hidden), device, 1, rounds)
    return {
        "tokens": length,
        **{f"{name}_us": round(taken * 1e6, 1) for name, taken in seconds.items()},
        "percent": {name: round(100 * taken / prefill, 4) for name, taken in seconds.items()},
        "ratio": round(seconds["plain"] / seconds["fused"], 2),
        "error": float(((score - other).abs() / score.abs().amax()).amax()),
        "other_tokens": keep - int(torch.isin(chosen, kept).sum()),
    }


def table(result: dict[str, Any]) -> Table:
    """The result as people read it."""
    rows = [
        [
            *(row[name] for name in ("tokens", "plain_us", "fused_us", "ratio")),
            *(f"{row['percent'][name]:.3f}" for name in ("plain", "fused")),
            row["other_tokens"],
        ]
        for row in result["rows"]
    ]
    head = ["tokens", "plain us", "fused us", "ratio", "plain %", "fused %", "other tokens kept"]
    note = f"{result['device']}, torch {result['torch']}; %: of a prefill of {result['layers']} layers"
    return Table(f"{result['shape']}: score and choice of one cut", head, rows, [note])
