"""What debiasing costs beside the prefill of a decoder (`python -m eval speed --debias`).

One decoder layer of the shape (LLaVA-1.5-7B's, unless another is named) is timed at each length on the same machine in
the same run; as many as the shape has are the prefill. The debias is the most expensive kind: a trend, padding to
silence, and a layout that is already known.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F

from debias import Padding, Span
from eval.core.tables import Table, show
from eval.speed.measure import FULL, machine, quickest
from eval.speed.settings import SpeedSettings
from eval.speed.shapes import SHAPES, Shape


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

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape, dtype = shape, torch.bfloat16 if device.type == "cuda" else torch.float32

        def make(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, device=device, dtype=dtype) / math.sqrt(columns)

        width, inner = shape.width, shape.inner
        self.qkv, self.out = make(width + 2 * width * shape.groups // shape.heads, width), make(width, width)
        self.up, self.down = make(2 * inner, width), make(width, inner)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        shape, size = self.shape, self.shape.width // self.shape.heads
        heads = F.linear(hidden, self.qkv).reshape(1, len(hidden), -1, size).transpose(1, 2)
        query, key, value = heads.split([shape.heads, shape.groups, shape.groups], dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shape.groups < shape.heads)
        hidden = hidden + F.linear(mixed.transpose(1, 2).reshape(hidden.shape), self.out)
        gate, value = F.linear(hidden, self.up).chunk(2, dim=-1)
        return hidden + F.linear(F.silu(gate) * value, self.down)


@torch.inference_mode()
def measure(shape: Shape, lengths: list[int], device: torch.device, rounds: int) -> dict[str, Any]:
    dice = torch.Generator().manual_seed(0)
    layer, rows = Layer(shape, device), []
    for length in lengths:
        span, score = span_of(length), torch.rand(length, generator=dice).to(device)
        hidden = torch.randn(length, shape.width, generator=dice).to(layer.out)
        FULL(score, span)
        layer(hidden[:64])
        ours = quickest(functools.partial(FULL, score, span), device, times=200, rounds=10)
        theirs = quickest(functools.partial(layer, hidden), device, times=1, rounds=rounds)
        prefill = shape.layers * theirs
        rows.append(
            {
                "tokens": length,
                "debias_us": round(ours * 1e6, 1),
                "layer_ms": round(theirs * 1e3, 2),
                "percent_of_prefill": round(100 * ours / prefill, 5),
            }
        )
    heights = itertools.count(1)
    mask = quickest(lambda: Padding().valid((100_000, next(heights)), (24, 24)), torch.device("cpu"), 100, 20)
    return {
        **machine(device),
        "rows": rows,
        "mask_of_a_new_size_us": round(mask * 1e6, 1),
    }


def report(asked: SpeedSettings, device: torch.device) -> dict[str, Any]:
    """Measure, and show as a table."""
    shape = SHAPES[asked.shape]
    result = measure(shape, list(asked.tokens or [576, 2056, 2880, 3328]), device, min(asked.rounds, 3))
    result = {"shape": asked.shape, "layers": shape.layers, **result}
    show(table(result))
    return result


def table(result: dict[str, Any]) -> Table:
    rows = [
        [row["tokens"], row["debias_us"], row["layer_ms"], f"{row['percent_of_prefill']:.5f}"] for row in result["rows"]
    ]
    notes = [
        f"{result['device']}, {result['threads']} thread(s), torch {result['torch']}; layers of {result['shape']}",
        f"mask of a new image size: {result['mask_of_a_new_size_us']} us",
    ]
    head = ["tokens", "debias us", "one layer ms", f"% of a {result['layers']}-layer prefill"]
    return Table("One debias call", head, rows, notes)
