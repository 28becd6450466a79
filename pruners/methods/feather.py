"""FEATHER: rank before the rotary embedding, keep a coarse grid of patches besides, and cut once more in the middle.

https://arxiv.org/abs/2412.13180
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pruners.base import Pruner
from pruners.cut import Cut, top
from pruners.parts.budget import tokens_kept
from pruners.parts.schedule import depths
from pruners.view import View

LAYERS = (8, 16)  # of 32


@dataclass(frozen=True)
class Feather(Pruner):
    """`keep` is the paper's 1 - R: the share of the tokens (or their number) that attention keeps at the first cut. The
    second leaves that share once more: keep * keep of the original tokens, without the grid.

    stride: every so many-th patch of every so many-th row stays at the first cut, whatever its score. The paper's union
        of grid and best tokens has a size that depends on the picture; here the next best tokens fill it up, so that
        the size is always the sum of both.
    """

    layers: tuple[int, ...] | None = None
    stride: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1:
            raise ValueError(f"stride={self.stride}: give a whole number of at least 1")
        if self.layers is not None and len(self.layers) != 2:
            raise ValueError(f"layers={self.layers}: FEATHER cuts before two layers")

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(layer, self.keep) for layer in self.layers or depths(LAYERS, layers)]

    def counts(self, layers: int, tokens: int) -> list[int]:
        share = self.keep if isinstance(self.keep, float) else self.keep / tokens
        grid = -(-tokens // self.stride**2)
        counts = [min(tokens, tokens_kept(self.keep, tokens) + grid), tokens_kept(share * share, tokens)]
        return counts[: len(self.cuts(layers))]

    def score(self, view: View) -> Tensor:
        return view.attend(rotary=False)[:, 0].mean(0)

    def select(self, score: Tensor, view: View) -> Tensor:
        if view.stage:
            return view.top(score, view.count)
        grid = spread(view.places[0], self.stride)
        return top(score, view.count, grid if view.valid is None else grid & view.valid)

    def own_count(self, layers: int, tokens: int) -> float:
        return self.mean_count(layers, tokens)  # the authors compare operations


def spread(places: Tensor, stride: int) -> Tensor:
    """[V] whether a patch at `places` [V, 2] lies on a grid of that stride, centred in its cells."""
    return ((places % stride == stride // 2) & (places >= 0)).all(-1)
