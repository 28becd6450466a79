"""Attention of a few query rows against keys that exist already; the model's own kernel stays untouched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

# GPU, as torch names it -> the fewest visual tokens with which pruners.engine.fused was faster there than what stands
# here (`python -m eval speed --fused`). Empty: nobody has measured it yet.
FASTER: dict[str, int] = {}
_asked: bool | None = None


def fuses(device: torch.device, tokens: int) -> bool:
    """Whether scores and choices of so many tokens are left to the kernels of pruners.engine.fused."""
    if _asked is not None:
        return _asked
    return device.type == "cuda" and bool(FASTER) and tokens >= least(device)


@cache
def kernels() -> Any:
    """The module pruners.engine.fused. It needs triton, and is loaded when it is first asked for."""
    return import_module("pruners.engine.fused")


def lacking() -> str:
    """Why the fused kernels cannot run here, in a sentence; empty: they can."""
    if find_spec("triton") is None:
        return "the fused kernels need triton: pip install 'attention-debiasing[triton]'"
    if torch.cuda.is_available():
        return ""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "without a GPU the fused kernels run in triton's interpreter only: set TRITON_INTERPRET=1"
    new = tuple(map(int, version("numpy").split(".")[:2])) >= (2, 4)
    return "triton's interpreter, which runs the fused kernels without a GPU, needs numpy below 2.4" if new else ""


@contextmanager
def fusing(on: bool = True) -> Iterator[None]:
    """Inside the block the kernels serve, or do not, wherever it was measured: to measure, and to compare."""
    global _asked  # noqa: PLW0603
    if on and (why := lacking()):
        raise ValueError(why)
    before, _asked = _asked, on
    try:
        yield
    finally:
        _asked = before


@cache
def least(device: torch.device) -> float:
    """The fewest tokens with which the kernels are faster there."""
    known = find_spec("triton") is not None
    return FASTER.get(torch.cuda.get_device_name(device), float("inf")) if known else float("inf")


def attended(
    query: Tensor,
    keys: Tensor,
    scale: float,
    slots: Tensor,
    allowed: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """[V] what the columns `slots` [V] get of `attention_rows`: the mean of the heads, summed over the rows by their
    [R] shares (None: 1 each)."""
    if fuses(keys.device, len(slots)):
        rated: Tensor = kernels().attended(query, keys, scale, slots, allowed, shares)
        return rated
    weights = attention_rows(query, keys, scale, allowed)
    heads, rows, columns = weights.shape
    shares = (weights.new_ones(rows) if shares is None else shares.to(weights)) / heads
    shares = shares.expand(heads, -1).reshape(1, 1, -1)
    # one product, where the weights themselves would be copied
    return (shares @ weights.reshape(1, heads * rows, columns))[0, 0].index_select(0, slots)


def attention_rows(query: Tensor, keys: Tensor, scale: float, allowed: Tensor | None = None) -> Tensor:
    """float32 softmax weights [H, R, n] of query [H, R, d] on keys [H_kv, n, d]; allowed [R or 1, n] hides columns."""
    heads, rows, size = query.shape
    groups = keys.shape[0]
    grouped = (query.float() * scale).reshape(groups, heads // groups * rows, size)
    columns = keys.float().transpose(1, 2)
    if allowed is None:
        logits = grouped @ columns
    else:  # one pass over the logits instead of three
        hidden = torch.zeros(allowed.shape, device=keys.device).masked_fill_(~allowed, float("-inf"))
        hidden = hidden.expand(heads // groups, rows, -1).reshape(1, -1, keys.shape[1])
        logits = torch.baddbmm(hidden, grouped, columns)
    return logits.reshape(heads, rows, -1).softmax(-1)


def allowed_columns(rows: Tensor, columns: int, valid: Tensor | None) -> Tensor:
    """[R, n] bool: column j is visible to the query at slot rows[i] when it is no later and not padding."""
    causal = torch.arange(columns, device=rows.device) <= rows[:, None]
    return causal if valid is None else causal & valid


def all_heads(heads: Tensor, model: Any) -> Tensor:
    """[H, ...] of the heads that this process holds; all of them where tensor parallelism spreads a model by heads."""
    mesh = getattr(model, "_device_mesh", None)
    if mesh is None or (getattr(model, "_tp_size", None) or 1) < 2:
        return heads
    group = (mesh["tp"] if mesh.ndim > 1 else mesh).get_group()
    parts = [torch.empty_like(heads) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(parts, heads.contiguous(), group=group)
    return torch.cat(parts)
