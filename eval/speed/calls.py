"""What single calls cost beside the prefill of a decoder: one debias call (`python -m eval speed --debias`), and score
and choice of one cut by the fused kernels and by plain torch (`--fused`).

One decoder layer of the shape is timed at each length on the same machine in the same run; as many as the shape has
are the prefill. The debias is the most expensive kind: a trend, padding to silence, and a layout that is already known.
Score and choice are what the last token pays each visual one, trend and padding, and the tokens that stay.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from debias import Padding, Span
from eval.core.tables import Table
from eval.speed.measure import FULL, conditions, machine, quickest
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import AFTER, BEFORE, SHAPES, Architecture
from pruners.cut import top
from pruners.engine.attention import attended, fusing, kernels
from pruners.parts.budget import tokens_kept

LENGTHS = (576, 2056, 2880, 3328)


def span_of(length: int) -> Span:
    """A padded layout of that many tokens as models have it: one square, eight frames with a CLS each, or tiles."""
    if length == 576:
        return Span(35, (24, 24), size=(640, 427))
    if length == 2056:
        special = torch.zeros(length, dtype=torch.bool)
        special[::257] = True
        return Span(35, (16, 16), frames=8, size=(640, 427), special=special)
    return Span(35, (1, length), fraction=torch.linspace(0, 1, length))


class Layer:
    """One decoder layer, as matrix products: everything in it that takes time."""

    def __init__(self, shape: Architecture, device: torch.device) -> None:
        self.shape, dtype = shape, torch.bfloat16 if device.type == "cuda" else torch.float32

        def make(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns, device=device, dtype=dtype) / math.sqrt(columns)

        width, inner = shape.width, shape.inner
        self.qkv, self.out = make(width + 2 * width * shape.groups // shape.heads, width), make(width, width)
        self.up, self.down = make(2 * inner, width), make(width, inner)

    def __call__(self, hidden: Tensor) -> Tensor:
        shape, size = self.shape, self.shape.width // self.shape.heads
        heads = F.linear(hidden, self.qkv).reshape(1, len(hidden), -1, size).transpose(1, 2)
        query, key, value = heads.split([shape.heads, shape.groups, shape.groups], dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shape.groups < shape.heads)
        hidden = hidden + F.linear(mixed.transpose(1, 2).reshape(hidden.shape), self.out)
        gate, value = F.linear(hidden, self.up).chunk(2, dim=-1)
        return hidden + F.linear(F.silu(gate) * value, self.down)


@torch.inference_mode()
def debias(asked: SpeedSettings, device: torch.device) -> dict[str, Any]:
    """One debias call and one decoder layer at every length, and the padding mask of a new image size."""
    shape, dice, rows = SHAPES[asked.shape], torch.Generator().manual_seed(0), []
    layer = Layer(shape, device)
    for length in asked.tokens or LENGTHS:
        span, score = span_of(length), torch.rand(length, generator=dice).to(device)
        hidden = torch.randn(length, shape.width, generator=dice).to(layer.out)
        FULL(score, span)
        layer(hidden[:64])
        ours = quickest(functools.partial(FULL, score, span), device, times=200, rounds=10)
        theirs = quickest(functools.partial(layer, hidden), device, times=1, rounds=min(asked.rounds, 3))
        rows.append(
            {
                "tokens": length,
                "debias_us": round(ours * 1e6, 1),
                "layer_ms": round(theirs * 1e3, 2),
                "percent_of_prefill": round(100 * ours / (shape.layers * theirs), 5),
            }
        )
    heights = itertools.count(1)
    mask = quickest(lambda: Padding().valid((100_000, next(heights)), (24, 24)), torch.device("cpu"), 100, 20)
    named = {"shape": asked.shape, "layers": shape.layers, **machine(device)}
    return {**named, "rows": rows, "mask_of_a_new_size_us": round(mask * 1e6, 1)}


def debias_table(result: dict[str, Any]) -> Table:
    """Debias calls as people read them."""
    head = ["tokens", "debias us", "one layer ms", f"% of a {result['layers']}-layer prefill"]
    rows = [
        [row["tokens"], row["debias_us"], row["layer_ms"], f"{row['percent_of_prefill']:.5f}"] for row in result["rows"]
    ]
    notes = [
        f"{conditions(result)}; layers of {result['shape']}",
        f"mask of a new image size: {result['mask_of_a_new_size_us']} us",
    ]
    return Table("One debias call", head, rows, notes)


def fused(asked: SpeedSettings, device: torch.device) -> dict[str, Any]:
    """Score and choice in both ways at every length."""
    shape = SHAPES[asked.shape]
    rows = [
        both_ways(shape, length, tokens_kept(asked.keep[0], length), device, asked.rounds)
        for length in asked.tokens or [shape.tokens]
    ]
    place = machine(device)["device"] if device.type == "cuda" else "cpu, in triton's interpreter"
    return {"shape": asked.shape, "layers": shape.layers, "device": place, "torch": torch.__version__, "rows": rows}


@torch.inference_mode()
def both_ways(shape: Architecture, length: int, keep: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """One row of the table: both ways on the same numbers, with what differs in what they keep."""
    dice = torch.Generator().manual_seed(0)
    layer, columns, size = Layer(shape, device), BEFORE + length + AFTER, shape.width // shape.heads

    def made(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=dice).to(layer.out)

    query, keys, hidden = made(shape.heads, 1, size), made(shape.groups, columns, size), made(columns, shape.width)
    slots, span = torch.arange(BEFORE, BEFORE + length, device=device), span_of(length)

    def plain() -> tuple[Tensor, Tensor]:
        with fusing(False):
            score = FULL(attended(query, keys, size**-0.5, slots), span)
        return score, top(score, keep)

    def fused() -> tuple[Tensor, Tensor]:
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


def fused_table(result: dict[str, Any]) -> Table:
    """Both ways as people read them."""
    head = ["tokens", "plain us", "fused us", "ratio", "plain %", "fused %", "other tokens kept"]
    rows = []
    for row in result["rows"]:
        percent = (f"{value:.3f}" for value in row["percent"].values())
        rows.append([row["tokens"], row["plain_us"], row["fused_us"], row["ratio"], *percent, row["other_tokens"]])
    note = f"{result['device']}, torch {result['torch']}; %: of a prefill of {result['layers']} layers"
    return Table(f"{result['shape']}: score and choice of one cut", head, rows, [note])
