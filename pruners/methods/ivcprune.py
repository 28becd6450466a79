"""IVC-Prune: keep tokens that stand at the origin of the rotary embedding's turns, and those like the question.

https://arxiv.org/abs/2602.03060
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut, top
from pruners.parts.budget import check_share
from pruners.parts.schedule import at_depth
from pruners.view import View


def likeness(words: Tensor, patches: Tensor) -> Tensor:
    """[V] the share of its attention that each of [T, D] `words` would pay [V, D] `patches`, by values, on average."""
    scale = patches.shape[-1] ** 0.5
    shares: Tensor = (words @ patches.T / scale).softmax(-1)
    return shares.sum(0) / max(1, len(words))


def anchors(cos: Tensor, sin: Tensor, count: int) -> Tensor:
    """[V] True for `count` tokens: in turn the one with the next highest sum of its cosines, and of its sines, of
    [V, d] rotary tables; there the turn is nearest to none, and to a quarter. A token may be both."""
    ranks = [part.float().sum(-1).argsort(descending=True, stable=True).argsort() for part in (cos, sin)]
    order = torch.minimum(2 * ranks[0], 2 * ranks[1] + 1).argsort(stable=True)
    return torch.zeros(len(cos), dtype=torch.bool, device=cos.device).index_fill_(0, order[:count], True)


@dataclass(frozen=True)
class IVCPrune(Pruner):
    """Both kinds share the budget. What leaves also leaves the caches of the layers below the cut.

    layer: before which the tokens leave (default: 16 of 32).
    coordinates: share of the budget for tokens that carry coordinates.
    seeds: share of the tokens that are most like the question, which then count as part of it.
    """

    layer: int | None = None
    coordinates: float = 0.2
    seeds: float = 0.01

    shrink_cache: ClassVar[bool] = True
    reads: ClassVar[Reads] = "tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("coordinates", self.coordinates)
        check_share("seeds", self.seeds)

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(at_depth(16, layers) if self.layer is None else self.layer, self.keep)]

    def score(self, view: View) -> Tensor:
        patches, words = (part.transpose(0, 1).flatten(1).float() for part in (view.values, view.text_values))
        first = view.debias(likeness(words, patches))
        seeds = top(first, max(1, int(self.seeds * len(first))))
        return likeness(torch.cat([words, patches.index_select(0, seeds)]), patches)

    def select(self, score: Tensor, view: View) -> Tensor:
        silenced = None if view.valid is None else ~view.valid
        cos, sin = view.rotary
        if silenced is not None:  # a turn is never further from none, or from a quarter, than half a circle
            cos, sin = (part.masked_fill(silenced[:, None], -2.0) for part in (cos, sin))
        fixed = anchors(cos, sin, int(self.coordinates * view.count))
        return top(score, view.count, fixed if view.valid is None else fixed & view.valid)
