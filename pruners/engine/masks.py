"""The attention mask of one segment of layers, in the form the kernel expects."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

KERNELS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


def segment_mask(
    kernel: str, like: Tensor, valid: Tensor | None, seen: int, columns: int | None = None
) -> Tensor | None:
    """Mask for the q rows of `like` [B, q, D], the last of `seen` tokens; None where the kernel does that by itself.

    valid [B, <= seen]: which of the first tokens may be looked at (None: all); later ones always may.
    columns: how many columns the cache returns, when that is more than `seen` (static caches).
    """
    rows = like.shape[1]
    if kernel.startswith("flash"):
        return None if valid is None else pad(valid, (0, seen - valid.shape[1]), value=True)
    if valid is None and kernel == "sdpa" and (rows > 1 or columns is None):
        return None  # the kernel's own causal rule is aligned to the upper left, which is where an empty cache starts
    columns = seen if columns is None else columns
    queries = torch.arange(seen - rows, seen, device=like.device)
    allowed = (torch.arange(columns, device=like.device) <= queries[:, None])[None, None]
    if valid is not None:
        allowed = allowed & pad(valid, (0, columns - valid.shape[1]), value=True)[:, None, None]
    if kernel == "sdpa":
        return allowed
    return like.new_zeros(()).where(allowed, torch.finfo(like.dtype).min)
