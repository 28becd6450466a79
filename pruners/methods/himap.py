"""HiMAP: first keep what the text looks at, later what the picture itself looks at.

https://arxiv.org/abs/2503.13108
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pruners.base import Pruner
from pruners.cut import Cut
from pruners.parts.schedule import at_depth, budgets, check_keeps
from pruners.view import View

PUBLISHED = {128: (115, 90)}  # tokens after the two cuts, of 576; 125 a layer on average


@dataclass(frozen=True)
class HiMAP(Pruner):
    """`keep` names a budget on the published scale (128: 115, then 90); `keeps` gives the two counts themselves."""

    layer: int = 2
    second: int | None = None  # layer 8 of 32
    keeps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_keeps(self.keeps, 2)

    def cuts(self, layers: int) -> list[Cut]:
        second = max(self.layer + 1, at_depth(8, layers)) if self.second is None else self.second
        cuts = [Cut(self.layer, self.keep, rows="text"), Cut(second, self.keep, rows="visual")]
        return [cut for cut in cuts if cut.layer < layers]

    def counts(self, layers: int, tokens: int) -> list[int]:
        counts = self.keeps or budgets(self.keep, tokens, PUBLISHED)
        return [min(count, tokens) for count in counts][: len(self.cuts(layers))]

    def score(self, view: View) -> Tensor:
        # What all query rows together pay to each token. Causality lets early tokens collect from more rows in the
        # second cut; the authors leave it so.
        return view.attended()

    def own_count(self, layers: int, tokens: int) -> float:
        return self.mean_count(layers, tokens)
