"""HoloV: before the LLM, share the budget out over all parts of the picture, by how much attention each gets.

https://arxiv.org/abs/2510.02912
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.parts.cluster import members
from pruners.parts.greedy import likeness
from pruners.parts.regions import shared
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
    varies, each over its mean. A part's share of the budget goes by the mean score in it.

    crops: the picture is taken apart in so many stretches of its raster, of equal length.
    """

    crops: int = 16
    diversity: float = 0.001

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "vision"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crops < 1:
            raise ValueError(f"crops={self.crops}: give a whole number of at least 1")
        if self.diversity < 0:
            raise ValueError(f"diversity={self.diversity}: give a number of at least 0")

    def region(self, score: Tensor) -> Tensor:
        """[V] the stretch that each token lies in."""
        return torch.arange(len(score), device=score.device) * self.crops // len(score)

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]

    def score(self, view: View) -> Tensor:
        attention = view.vision.attention.mean(0)
        spread = variety(view.vision.features, self.region(attention), view.valid)
        return attention / self._mean(attention, view) + self.diversity * spread / self._mean(spread, view)

    def select(self, score: Tensor, view: View) -> Tensor:
        assert view.raw is not None
        region = self.region(score)
        valid = torch.ones_like(score, dtype=torch.bool) if view.valid is None else view.valid
        inside = members(region, self.crops) * valid
        mean = (inside @ view.raw.float()) / inside.sum(-1).clamp_min(1)
        return shared(score, region, mean.clamp_min(1e-12), view.count, ~valid).sort().values

    def _mean(self, part: Tensor, view: View) -> Tensor:
        """Of what shows the picture; never zero."""
        if view.valid is None:
            return part.mean().clamp_min(1e-12)
        return ((part * view.valid).sum() / view.valid.sum().clamp_min(1)).clamp_min(1e-12)
