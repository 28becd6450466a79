"""Grid: the second honest baseline, tokens spread evenly over the picture, whatever it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.view import View


def spread(count: int, valid: Tensor) -> Tensor:
    """Sorted [count] indices, evenly spaced over where `valid` [V] is True; the rest fills up if those are too few."""
    order = valid.logical_not().to(torch.uint8).argsort(stable=True)  # the valid ones first, both in raster order
    among = valid.sum().clamp(min=count)  # on the device: nothing waits for it
    step = (torch.arange(count, device=valid.device) * 2 + 1) * among // (2 * max(count, 1))
    return order.gather(0, step).sort().values


@dataclass(frozen=True)
class Grid(Pruner):
    """Evenly spaced tokens stay before `layer`, of those that are not padding if a debias silences it."""

    layer: int = 2

    reads: ClassVar[Reads] = "nothing"

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(self.layer, self.keep)]

    def score(self, view: View) -> Tensor:
        return torch.ones(len(view.tokens), device=view.tokens.slots.device)

    def select(self, score: Tensor, view: View) -> Tensor:
        return spread(view.count, torch.ones_like(score, dtype=torch.bool) if view.valid is None else view.valid)
