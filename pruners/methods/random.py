"""Random: the baseline every table should have. The same picture size and seed always keep the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.view import View


@dataclass(frozen=True)
class Random(Pruner):
    """Uniformly drawn tokens stay before `layer`, of those that are not padding if a debias silences it."""

    layer: int = 2
    seed: int = 0

    reads: ClassVar[Reads] = "nothing"

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(self.layer, self.keep)]

    def score(self, view: View) -> Tensor:
        # Drawn on the CPU, so that device, batch size and order of questions make no difference.
        draw = torch.rand(view.span.total, generator=torch.Generator().manual_seed(self.seed))
        return draw.to(view.tokens.slots.device, non_blocking=True).index_select(0, view.tokens.raster)
