"""DART: behind the second layer, keep what resembles a few pivot tokens least, since it repeats none of them.

https://arxiv.org/abs/2502.11494
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pruners.base import Pruner
from pruners.cut import Cut
from pruners.parts.greedy import chosen, unit
from pruners.view import View


def least_alike(likeness: Tensor, count: int, free: Tensor) -> Tensor:
    """`count` of the `free` tokens [V], in turn for each pivot its share of those least like it, by `likeness` [P, V].

    Shares are equal; the first pivots have one more where they do not divide. Ties go to the earlier token.
    """
    taken: list[Tensor] = [torch.arange(0, device=free.device)]
    share, more = divmod(count, len(likeness))
    for number, row in enumerate(likeness):
        order = row.masked_fill(~free, float("inf")).argsort(stable=True)[: share + (number < more)]
        free = free.index_fill(0, order, False)
        taken.append(order)
    return torch.cat(taken)


@dataclass(frozen=True)
class DART(Pruner):
    """The pivots are the tokens of the picture, and of the text behind it, whose keys are largest (by the sum of their
    absolute values). Pivots of the picture stay; each pivot then adds an equal share of the tokens least like it."""

    layer: int = 2
    image_pivots: int = 4
    text_pivots: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_pivots", "text_pivots"):
            if getattr(self, name) < (name == "image_pivots"):
                raise ValueError(f"{name}={getattr(self, name)}: give a count, of the picture's tokens at least 1")

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(self.layer, self.keep)]

    def score(self, view: View) -> Tensor:
        return view.keys.float().abs().sum((0, 2))

    def select(self, score: Tensor, view: View) -> Tensor:
        order = score.argsort(descending=True, stable=True)
        words = view.text_keys.float().abs().sum((0, 2)).argsort(descending=True, stable=True)[: self.text_pivots]
        own, text = unit(view.hidden), unit(view.text[words])

        def choose(count: int, among: Tensor | None) -> Tensor:
            pivots = order[: min(self.image_pivots, count)]  # silenced ones are behind the valid, of which are `count`
            free = torch.ones_like(order, dtype=torch.bool) if among is None else among
            likeness = torch.cat([own[pivots], text]) @ own.T
            rest = count - len(pivots)
            more = least_alike(likeness, rest, free.index_fill(0, pivots, False)) if rest else pivots[:0]
            return torch.cat([pivots, more])

        return chosen(view, choose)
