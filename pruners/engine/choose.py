"""One image's way through a cut: score, debias, select, merge; view by view where the picture has several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pruners.cut import Merged
from pruners.engine.attention import fuses, kernels
from pruners.engine.sequence import Choice
from pruners.method import Method
from pruners.view import View


def choose(pruner: Method, view: View, dtype: torch.dtype | None) -> Choice:
    """What of the image goes on. dtype: what scores are ranked in; None: as they are."""
    split = view.patches is not None and view.patches.view is not None and view.span.index is None
    if split and pruner.views == "each":
        return _by_views(pruner, view, dtype)
    view.raw = _scored(pruner, view, dtype)
    view.score, kept = _ranked(pruner, view, view.raw)
    return Choice(view.tokens, kept, pruner.merge(view, kept), (view.raw, view.score))


def _scored(pruner: Method, view: View, dtype: torch.dtype | None) -> Tensor:
    raw = pruner.score(view)
    if raw.shape != (len(view.tokens),):
        raise ValueError(
            f"{type(pruner).__name__}.score returned shape {tuple(raw.shape)}; "
            f"expected ({len(view.tokens)},), one number per visual token"
        )
    return raw if dtype is None else raw.to(dtype)


def _ranked(pruner: Method, view: View, raw: Tensor) -> tuple[Tensor, Tensor]:
    """The debiased score and what stays. One kernel does both where a method takes just the best tokens."""
    plain = raw.dtype == torch.float32 and view.debiaser.release is None and type(pruner).select is Method.select
    if plain and fuses(raw.device, len(raw)):
        score, kept = kernels().best(raw, view.terms(raw), view.count)
        return score, kept
    view.score = view.debias(raw)
    return view.score, pruner.select(view.score, view)


def _by_views(pruner: Method, view: View, dtype: torch.dtype | None) -> Choice:
    """Each view (tile, frame) as a picture of its own. Tokens that are not a patch stay when all others do."""
    patches, device = view.vision, view.tokens.slots.device
    assert patches.view is not None
    here = list(patches.views())
    none = (patches.view < 0).nonzero()[:, 0]
    there = [own.to(device, non_blocking=True) for own in here]
    parts = [_part(view, number, *both) for number, both in enumerate(zip(here, there, strict=True))]
    scores = [_scored(pruner, part, dtype) for part in parts]
    view.raw = scores[0].new_zeros(len(view.tokens))
    for own, score in zip(there, scores, strict=True):
        view.raw.index_copy_(0, own, score)
    view.score = view.debias(view.raw)
    done: list[tuple[Tensor, Tensor, Merged | None]] = []
    for part, own, share in zip(parts, there, shares(view, here), strict=True):
        part.count, part.raw, part.score = share, view.raw[own], view.score[own]
        chosen = pruner.select(part.score, part)
        done.append((own, own[chosen], pruner.merge(part, chosen)))
    rest = none[: max(0, view.count - sum(map(len, here)))].to(device, non_blocking=True)
    kept = torch.cat([*(chosen for _, chosen, _ in done), rest]).sort().values
    return Choice(view.tokens, kept, _together(view, done, rest), (view.raw, view.score))


def _together(view: View, done: Sequence[tuple[Tensor, Tensor, Merged | None]], rest: Tensor) -> Merged | None:
    """What the views were merged to, in order; None where nothing was merged. done: (tokens, kept, merged)."""
    if all(merged is None for _, _, merged in done):
        return None
    hidden, place, mine = [], [], []
    for own, kept, merged in [*done, (rest, rest, None)]:
        hidden.append(view.hidden[kept] if merged is None else merged.hidden.to(view.hidden.dtype))
        place.append(kept if merged is None else own[merged.place])
        mine.append(torch.ones_like(kept, dtype=torch.bool) if merged is None else merged.own)
    return Merged(torch.cat(hidden), torch.cat(place), torch.cat(mine))


def _part(view: View, number: int, here: Tensor, there: Tensor) -> View:
    """One view of a picture; `here` and `there` are its tokens on the CPU and on the device."""
    tokens = view.tokens
    span = tokens.span.at(there)
    own = replace(tokens, slots=tokens.slots[there], span=span, here=here)
    return replace(view, tokens=own, patches=view.vision.at(there, number))


def shares(view: View, views: Sequence[Tensor]) -> list[int]:
    """How many tokens each view may keep: the same for all, and what one cannot use goes to the others. Padding that is
    silenced counts only when everything else is kept."""
    sizes = [len(own) for own in views]
    whole = view.valid_on_host
    if whole is None:
        return dealt(view.count, sizes)
    shown = [int(whole[own].sum()) for own in views]
    first = dealt(view.count, shown)
    more = dealt(view.count - sum(first), [size - count for size, count in zip(sizes, shown, strict=True)])
    return [a + b for a, b in zip(first, more, strict=True)]


def dealt(count: int, sizes: Sequence[int]) -> list[int]:
    """`count` in shares as even as `sizes` allow; the remainder goes to the first."""
    left, level = min(count, sum(sizes)), 0
    for taken, size in enumerate(sorted(sizes)):
        level = left // (len(sizes) - taken)
        if size > level:
            break
        left -= size
    odd = left % max(1, sum(size > level for size in sizes))
    more = [number for number, size in enumerate(sizes) if size > level][:odd]
    return [min(size, level) + (number in more) for number, size in enumerate(sizes)]
