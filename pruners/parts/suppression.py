"""Suppression in space: a token that is kept makes those near it and like it worth less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pruners.parts.budget import check_share
from pruners.parts.greedy import NEVER, likeness

LEAST = 2.0**-40  # a share that is left of a score, so that minus infinity times it stays where it is


@dataclass(frozen=True)
class Suppression:
    """Selection by attention, distance and likeness, after AdaptPrune (https://arxiv.org/abs/2503.08019).

    Token after token, the best is kept, and every other score s(j) falls to
        s(j) (1 - strength near(i, j) alike(i, j)),   near = exp(-d(i, j)^2 / (2 radius^2)),   alike = max(0, cosine)
    where i is the token that was kept, d is in patches, and tokens of two pictures are not near each other. Scores are
    brought to 0..1 before, so that any score will do. AdaptPrune has these three parts; its own formula may differ.

    radius: None leaves distance out. alike: False leaves likeness out.
    """

    radius: float | None = 2.0
    alike: bool = True
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_share("strength", self.strength)
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius={self.radius!r}: give a number of patches above 0, or None to leave distance out")
        if self.radius is None and not self.alike:
            raise ValueError("suppression needs distance or likeness: give a radius, or alike=True")

    def pull(self, features: Tensor, xy: Tensor, picture: Tensor) -> Tensor:
        """[N, N] what share of its score each token loses when another is kept."""
        pull = (
            likeness(features).clamp(min=0) if self.alike else features.new_ones(len(features), len(features)).float()
        )
        if self.radius is not None:
            x, y = ((part[:, None] - part).square() for part in xy.float().T)
            near = (-(x + y) / (2 * self.radius**2)).exp()
            pull = pull * near * (picture[:, None] == picture)
        return self.strength * pull

    def __call__(self, score: Tensor, pull: Tensor, count: int, among: Tensor | None = None) -> Tensor:
        """`count` of the tokens in the order in which they are kept; ties go to the earlier token.

        pull: [N, N]. among: [N] the tokens that take part, of which there are `count`; None: all.
        """
        outside = torch.zeros_like(score, dtype=torch.bool) if among is None else ~among
        low = score.masked_fill(outside, -NEVER).amin()
        left = (score - low).masked_fill(outside, NEVER)
        left = (left / left.amax().clamp(min=torch.finfo(left.dtype).tiny))[None]
        stays = (1 - pull).clamp(min=LEAST)
        order: list[Tensor] = []
        for _ in range(count):
            best = left.argmax(-1)
            left = (left * stays.index_select(0, best)).index_fill(1, best, NEVER)
            order.append(best)
        return torch.cat(order) if order else torch.arange(0, device=score.device)
