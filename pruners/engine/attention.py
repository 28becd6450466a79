"""Attention of a few query rows against keys that exist already; the model's own kernel stays untouched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
