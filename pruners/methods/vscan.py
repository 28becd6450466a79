"""VScan: keep what [CLS] looks at, in the whole picture and in every part of it, and cut again in the middle decoder.

https://arxiv.org/abs/2505.22654
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut, Merged, others, top
from pruners.parts.budget import check_share
from pruners.parts.cluster import members
from pruners.parts.greedy import unit
from pruners.parts.regions import evenly, regions
from pruners.parts.schedule import at_depth
from pruners.view import View


def averaged(features: Tensor, kept: Tensor, valid: Tensor | None = None) -> Tensor:
    """[m, C] of `features` [N, C]: the mean of each of the `kept` [m] and of all others that are most like it by cosine
    similarity. Tokens that are not `valid` [N] join none."""
    states, rest = features.float(), others(len(features), kept)
    own = unit(states)
    joined = members((own[rest] @ own[kept].T).argmax(-1), len(kept))
    if valid is not None:
        joined = joined * valid[rest]
    return ((states[kept] + joined @ states[rest]) / (1 + joined.sum(-1, keepdim=True))).to(features.dtype)


@dataclass(frozen=True)
class VScan(Pruner):
    """`keep` is the mean over the decoder's layers, as the authors count: 288 tokens of 576 in the first half of them
    and 96 in the second make 192.

    layer: before which the decoder cuts again, by the last token's attention; 16 of 32.
    second: the share of the tokens there that it leaves.
    local: the share of the first choice that is made part by part, by the attention of the tower's layer `shallow` (5
        of 24, counted from 0), in `across` x `across` parts of the picture; the rest goes to what the output layer
        attends to most of what is left.
    """

    layer: int | None = None
    second: float = 1 / 3
    local: float = 0.5
    shallow: int | None = None
    across: int = 4

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "vision and decoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("second", self.second)
        check_share("local", self.local)
        if self.across < 1:
            raise ValueError(f"across={self.across}: give a whole number of at least 1")

    def cuts(self, layers: int) -> list[Cut]:
        middle = at_depth(16, layers) if self.layer is None else self.layer
        return [Cut(0, 1.0, source="tower"), Cut(middle, 1.0)]  # counts() knows how many

    def counts(self, layers: int, tokens: int) -> list[int]:
        mean = self.keep * tokens if isinstance(self.keep, float) else min(self.keep, tokens)
        before = self.cuts(layers)[1].layer / layers
        first = min(mean / (before + (1 - before) * self.second), tokens)
        then = (mean - before * first) / (
            1 - before
        )  # more than `second` of them where there are no more to begin with
        return [int(first + 1e-6), max(int(then + 1e-6), min(1, int(first + 1e-6)))]

    def own_count(self, layers: int, tokens: int) -> float:
        return self.mean_count(layers, tokens)

    def glances(self, layers: int) -> Sequence[int]:
        return (at_depth(5, layers, reference=24) if self.shallow is None else self.shallow,)

    def score(self, view: View) -> Tensor:
        return view.attended() if view.stage else view.vision.attention.mean(0)

    def select(self, score: Tensor, view: View) -> Tensor:
        if view.stage:
            return view.top(score, view.count)
        last = torch.zeros_like(score, dtype=torch.bool) if view.valid is None else ~view.valid
        shallow = view.debias(view.vision.glances[0].mean(0))
        narrow = evenly(shallow, regions(view.places[0], self.across), int(view.count * self.local), last)
        wide = top(score.index_fill(0, narrow, float("-inf")), view.count - len(narrow))
        return torch.cat([wide, narrow]).sort().values

    def merge(self, view: View, kept: Tensor) -> Merged | None:
        if view.stage or len(kept) == len(view.tokens) or not len(kept):
            return None
        states = averaged(view.vision.features, kept, view.valid)
        return Merged(view.project(states), kept, torch.ones_like(kept, dtype=torch.bool))
