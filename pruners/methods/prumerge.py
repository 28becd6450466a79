"""PruMerge: before the LLM, keep the patches [CLS] looks at most, and add to each what resembles it.

https://arxiv.org/abs/2403.15388
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut, Merged, top
from pruners.parts.greedy import unit
from pruners.view import View


def outliers(attention: Tensor) -> Tensor:
    """How many of [N] weights lie above the third quartile by more than 1.5 times the quartiles' distance."""
    low, high = (attention.float().quantile(share) for share in (0.25, 0.75))
    above: Tensor = attention > high + 1.5 * (high - low)
    return above.sum()


def gathered(
    features: Tensor, keys: Tensor, attention: Tensor, kept: Tensor, neighbours: int, valid: Tensor | None = None
) -> Tensor:
    """[m, C] of `features` [N, C]: each of the `kept` [m], plus the `neighbours` whose `keys` [N, c] are most like its
    own, each times its `attention` [N]: a sum, not an average. Only `valid` [N] tokens are taken in."""
    own = unit(keys)
    alike = own[kept] @ own.T
    if valid is not None:
        alike, attention = alike.masked_fill(~valid, -2.0), attention * valid
    alike = alike.scatter(1, kept[:, None], -3.0)
    nearest = alike.argsort(descending=True, stable=True)[:, : min(neighbours, len(own) - 1)]
    weights = torch.zeros_like(alike).scatter(1, nearest, attention.float()[nearest])
    return (features[kept].float() + weights @ features.float()).to(features.dtype)


@dataclass(frozen=True)
class PruMerge(Pruner):
    """`keep` is met exactly, so that methods can be compared. adaptive: as many stay as the paper's rule calls outliers
    of the attention, at most `keep`; how many that are has to be read from the device.

    neighbours: how many of the other tokens each kept one takes in.
    """

    neighbours: int = 32
    adaptive: bool = False

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "vision"
    share: ClassVar[float] = 1.0  # of what stays, the part that attention chooses

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]

    def score(self, view: View) -> Tensor:
        return view.vision.attention.mean(0)

    def select(self, score: Tensor, view: View) -> Tensor:
        count = view.count
        if self.adaptive and count < len(score):
            seen = view.vision.attention.mean(0)
            seen = seen if view.valid is None else seen[view.valid]
            count = min(count, round(max(1, int(outliers(seen))) / self.share))
        return self.chosen(score, count, view)

    def chosen(self, score: Tensor, count: int, view: View) -> Tensor:
        """Which `count` tokens stay, ascending."""
        return top(score, count)

    def merge(self, view: View, kept: Tensor) -> Merged | None:
        patches = view.vision
        if len(kept) == len(patches.features) or not len(kept):
            return None
        keys, attention = patches.keys.transpose(0, 1).flatten(1), patches.attention.mean(0)
        states = gathered(patches.features, keys, attention, kept, self.neighbours, view.valid)
        return Merged(view.project(states), kept, torch.ones_like(kept, dtype=torch.bool))
