"""HoloV: before the LLM, share the budget out over all parts of the picture, by how much there is to see in each.

https://arxiv.org/abs/2510.02912
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cluster import members
from pruners.cut import Cut
from pruners.greedy import likeness
from pruners.regions import regions, shared
from pruners.view import View


def variety(features: Tensor, region: Tensor, valid: Tensor | None = None) -> Tensor:
    """[V] the variance of each token's cosine similarity with the other (`valid`) tokens of its region."""
    others = (region[None] == region[:, None]).fill_diagonal_(False)
    others = (others if valid is None else others & valid).float()
    alike, number = likeness(features), others.sum(-1).clamp_min(1)
    mean = (alike * others).sum(-1) / number
    return ((alike - mean[:, None]).square() * others).sum(-1) / number


@dataclass(frozen=True)
class HoloV(Pruner):
    """A token's score is its attention from [CLS], plus `diversity` times how much its likeness to the rest of its part
    varies, each over its mean. A part's share of the budget goes by the mean score in it to the power of `sharpness`.

    across: the picture is taken apart in `across` x `across` parts.
    """

    across: int = 4
    diversity: float = 1.0
    sharpness: float = 1.0

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "vision"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.across < 1:
            raise ValueError(f"across={self.across}: give a whole number of at least 1")
        for name in ("diversity", "sharpness"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a number of at least 0")

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]

    def score(self, view: View) -> Tensor:
        attention = view.vision.attention.mean(0)
        spread = variety(view.vision.features, regions(view.places[0], self.across), view.valid)
        return attention / self._mean(attention, view) + self.diversity * spread / self._mean(spread, view)

    def select(self, score: Tensor, view: View) -> Tensor:
        if view.count >= len(score):
            return torch.arange(len(score), device=score.device)
        assert view.raw is not None
        region = regions(view.places[0], self.across)
        valid = torch.ones_like(score, dtype=torch.bool) if view.valid is None else view.valid
        inside = members(region, self.across**2) * valid
        mean = (inside @ view.raw.float()) / inside.sum(-1).clamp_min(1)
        weight = (mean**self.sharpness).clamp_min(1e-12)[region]
        return shared(score, region, weight, view.count, ~valid).sort().values

    def _mean(self, part: Tensor, view: View) -> Tensor:
        """Of what shows the picture; never zero."""
        if view.valid is None:
            return part.mean().clamp_min(1e-12)
        return ((part * view.valid).sum() / view.valid.sum().clamp_min(1)).clamp_min(1e-12)
