"""Score and choice of a cut as three Triton kernels: no attention map in memory, no sort.

pruners.engine.attention chooses them. Its `attended` is the reference of the first two, debias and pruners.cut.top are
that of the third. They are tested in triton's interpreter, and have not been run on a GPU yet.

    _totals   of every query row the logarithm of the sum of its exponentials, over all columns
    _score    of every visual token its share of them, heads and rows summed up
    _choose   trend and padding, the count-th best by halving the range of all floats, and the places of the best
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from debias.core import Terms

# A tile of logits: the fewest rows that a matrix product takes, and the columns that fit into registers.
ROWS, COLUMNS = 16, 32
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
SMALLEST = tl.constexpr(torch.finfo(torch.float32).smallest_normal)
DOWN = tl.constexpr(-8388608)  # the bits of minus infinity


@triton.jit
def _logits(
    query, keys, allowed, scale, group, row, column, within, heads, rows, size,
    query_head, query_row, query_size, keys_head, keys_column, keys_size, allowed_row,
    HIDES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """A tile of logits of one group of heads; -inf where a column is hidden or not there."""
    at = tl.arange(0, SIZE)
    inside = row < heads * rows
    start = (group * heads + row // rows) * query_head + (row % rows) * query_row
    q = tl.load(
        query + start[:, None] + at[None, :] * query_size, mask=inside[:, None] & (at < size)[None, :], other=0.0
    )
    k = tl.load(
        keys + group * keys_head + column[None, :] * keys_column + at[:, None] * keys_size,
        mask=within[None, :] & (at < size)[:, None],
        other=0.0,
    )
    logits = tl.dot(q.to(tl.float32) * scale, k.to(tl.float32), input_precision="ieee")
    seen = inside[:, None] & within[None, :]
    if HIDES:
        where = (row % rows)[:, None] * allowed_row + column[None, :]
        seen = seen & tl.load(allowed + where, mask=seen)
    return tl.where(seen, logits, float("-inf"))


@triton.jit
def _totals(
    query, keys, allowed, scale, total, columns, heads, rows, size,
    query_head, query_row, query_size, keys_head, keys_column, keys_size, allowed_row,
    HIDES: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    high = tl.full([ROWS], float("-inf"), tl.float32)
    sums = tl.zeros([ROWS], tl.float32)
    for first in range(0, columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        logits = _logits(
            query, keys, allowed, scale, group, row, column, column < columns, heads, rows, size,
            query_head, query_row, query_size, keys_head, keys_column, keys_size, allowed_row, HIDES, SIZE,
        )  # fmt: skip
        now = tl.maximum(high, tl.max(logits, 1))
        base = tl.where(now == float("-inf"), 0.0, now)  # so far nothing but hidden columns
        sums = sums * tl.exp(high - base) + tl.sum(tl.exp(logits - base[:, None]), 1)
        high = now
    tl.store(total + group * heads * rows + row, high + tl.log(sums), mask=row < heads * rows)


@triton.jit
def _score(
    query, keys, allowed, scale, total, slots, shares, score, tokens, groups, heads, rows, size,
    query_head, query_row, query_size, keys_head, keys_column, keys_size, allowed_row,
    HIDES: tl.constexpr, SHARED: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    column = tl.load(slots + token, mask=token < tokens)
    summed = tl.zeros([COLUMNS], tl.float32)
    for group in range(groups):
        for first in range(0, heads * rows, ROWS):
            row = first + tl.arange(0, ROWS)
            inside = row < heads * rows
            logits = _logits(
                query, keys, allowed, scale, group, row, column, token < tokens, heads, rows, size,
                query_head, query_row, query_size, keys_head, keys_column, keys_size, allowed_row, HIDES, SIZE,
            )  # fmt: skip
            # Of rows that are not there the logits are -inf: they add 0, as long as no NaN is subtracted or multiplied.
            part = tl.exp(logits - tl.load(total + group * heads * rows + row, mask=inside, other=0.0)[:, None])
            if SHARED:
                part = part * tl.load(shares + row % rows, mask=inside, other=0.0)[:, None]
            summed += tl.sum(part, 0)
    tl.store(score + token, summed / (groups * heads), mask=token < tokens)


@triton.jit
def _choose(
    raw, weight, valid, step, score, kept, tokens, count,
    WEIGHS: tl.constexpr, OFFSET: tl.constexpr, SILENCES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.arange(0, BLOCK)
    here = token < tokens
    value = tl.load(raw + token, mask=here)
    if WEIGHS:
        by = tl.load(weight + token, mask=here)
        value = value - by if OFFSET else value * by
    if SILENCES:  # debias.core.silence
        missing = tl.max((here & (value != value)).to(tl.int32), 0) > 0
        low = tl.min(tl.where(here, value, float("inf")), 0)
        low = tl.where(missing, float("-inf"), tl.minimum(tl.maximum(low, LOWEST), -SMALLEST))
        below = tl.minimum(low.to(tl.int32, bitcast=True) + tl.load(step + token, mask=here), DOWN)
        value = tl.where(tl.load(valid + token, mask=here), value, below.to(tl.float32, bitcast=True))
    tl.store(score + token, value, mask=here)
    # Whole numbers in the order of the scores: both zeros alike, NaN above all. Lanes without a token are as low as a
    # score can be and come after every token, so that none of them is among the `count` best.
    value = tl.where(here, value, float("-inf"))
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) + 0x80000000
    order = tl.where(value != value, 0xFFFFFFFF, order)
    last = tl.zeros([], tl.int64)  # the largest number that `count` tokens reach
    for bit in tl.static_range(32):
        trial = last + (1 << (31 - bit))
        last = tl.where(tl.sum((order >= trial).to(tl.int32), 0) >= count, trial, last)
    better, equal = order > last, order == last
    first = tl.cumsum(equal.to(tl.int32), 0) <= count - tl.sum(better.to(tl.int32), 0)
    stays = better | (equal & first)
    place = tl.cumsum(stays.to(tl.int32), 0) - 1
    tl.store(kept + place, token.to(tl.int64), mask=stays)


def attended(
    query: Tensor,
    keys: Tensor,
    scale: float,
    slots: Tensor,
    allowed: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """What pruners.engine.attention.attended returns, without its [H, R, n] weights."""
    heads, rows, size = query.shape
    groups, columns, _ = keys.shape
    each, wide = heads // groups, max(16, triton.next_power_of_2(size))
    total = torch.empty(heads, rows, dtype=torch.float32, device=keys.device)
    score = torch.empty(len(slots), dtype=torch.float32, device=keys.device)
    if not len(slots):
        return score
    shown = query if allowed is None else allowed.contiguous().expand(rows, columns)
    weighed = score if shares is None else shares.to(score).contiguous()
    given = (query, keys, shown, scale, total)
    sizes = (each, rows, size, *query.stride(), *keys.stride(), shown.stride(0))
    tile = {"HIDES": allowed is not None, "SIZE": wide, "ROWS": ROWS, "COLUMNS": COLUMNS}
    with _on(keys):
        _totals[(groups, triton.cdiv(each * rows, ROWS))](*given, columns, *sizes, **tile)
        _score[(triton.cdiv(len(slots), COLUMNS),)](
            *given, slots.contiguous(), weighed, score, len(slots), groups, *sizes, SHARED=shares is not None, **tile
        )
    return score


def best(raw: Tensor, terms: Terms, count: int) -> tuple[Tensor, Tensor]:
    """The debiased score of a raw one [V] in float32, and the sorted indices of its `count` highest; ties go to the
    earlier token."""
    raw, tokens = raw.contiguous(), len(raw)
    score, kept = torch.empty_like(raw), torch.empty(min(count, tokens), dtype=torch.int64, device=raw.device)
    if not tokens:
        return score, kept
    weight, valid, step = (
        raw if part is None else part.to(raw.device).contiguous() for part in (terms.weight, terms.valid, terms.step)
    )
    fixed = {
        "WEIGHS": terms.weight is not None, "OFFSET": terms.offset, "SILENCES": terms.valid is not None,
        "BLOCK": max(16, triton.next_power_of_2(tokens)),
    }  # fmt: skip
    with _on(raw):
        _choose[(1,)](raw, weight.to(raw), valid, step, score, kept, tokens, len(kept), num_warps=8, **fixed)
    return score, kept


def _on(tensor: Tensor) -> AbstractContextManager[object]:
    """Kernels run on the device of their tensors, not on the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
