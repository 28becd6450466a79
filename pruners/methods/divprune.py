"""DivPrune: before the LLM, keep the tokens that lie farthest apart, whatever they show.

https://arxiv.org/abs/2503.02175
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.parts.greedy import chosen, farthest, likeness
from pruners.view import View


@dataclass(frozen=True)
class DivPrune(Pruner):
    """Greedy max-min diversity of the projected tokens by their cosine distance. A token has no score of its own: it is
    worth what the tokens chosen before it leave."""

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "tokens"

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]

    def score(self, view: View) -> Tensor:
        return torch.ones(len(view.tokens), device=view.tokens.slots.device)

    def select(self, score: Tensor, view: View) -> Tensor:
        distance = 1 - likeness(view.hidden)
        return chosen(view, lambda count, among: farthest(distance, count, among))
