"""PruMerge+: PruMerge with tokens spread evenly over the picture beside those that [CLS] looks at.

https://arxiv.org/abs/2403.15388
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.cut import others, top
from pruners.methods.grid import spread
from pruners.methods.prumerge import PruMerge
from pruners.view import View


@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """A quarter of what stays is chosen by attention, the rest evenly from what is left."""

    share: ClassVar[float] = 0.25

    def chosen(self, score: Tensor, count: int, view: View) -> Tensor:
        best = top(score, max(1, int(count * self.share)) if count else 0)
        left = others(len(score), best)
        free = torch.ones_like(left, dtype=torch.bool) if view.valid is None else view.valid[left]
        return torch.cat([best, left[spread(count - len(best), free)]]).sort().values
