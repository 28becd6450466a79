"""SparseVLM: the words that look at the picture rate its tokens; some of the dropped ones are recycled as clusters.

https://arxiv.org/abs/2410.04417
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.base import Pruner
from pruners.cut import Cut, Merged, others
from pruners.parts.cluster import cluster_means, density_peaks
from pruners.parts.schedule import budgets, check_keeps, depths
from pruners.view import View

LAYERS = (3, 7, 16)  # of 32: tokens leave after the layers that the authors number 2, 6 and 15
PUBLISHED = {64: (66, 30, 17), 128: (303, 110, 36), 192: (300, 200, 110)}  # kept at each, of 576, before recycling


def raters(visual: Tensor, text: Tensor) -> Tensor:
    """Which of the [R, D] `text` embeddings the [V, D] `visual` ones pay more than average attention to: [R] bool."""
    share = (visual.float() @ text.float().T).softmax(-1).mean(0)
    chosen = share > share.mean()
    return chosen | ~chosen.any()  # equal shares: every word rates


def recycled(dropped: int) -> tuple[int, int]:
    """Of so many dropped tokens, how many are recycled, and into how many clusters."""
    tokens = int(0.3 * dropped) + 1 if dropped else 0
    return tokens, tokens // 10 + 1 if dropped else 0


def recycle(states: Tensor, score: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Cluster the best of what is not `kept` of [V, D] `states`: (index of each centre, mean of each cluster)."""
    dropped = others(len(score), kept)
    tokens, clusters = recycled(len(dropped))
    chosen = dropped[score[dropped].argsort(descending=True, stable=True)[:tokens]]
    labels, centres = density_peaks(states[chosen], clusters)
    return chosen[centres], cluster_means(states[chosen], labels, clusters)


@dataclass(frozen=True)
class SparseVLM(Pruner):
    """`keep` names a budget on the published scale, between whose points others are interpolated; `keeps` gives the
    counts themselves. Clusters of recycled tokens come on top. Debias.recycle says whether their order is debiased too.
    """

    layers: tuple[int, ...] | None = None
    keeps: tuple[int, ...] | None = None

    positions: ClassVar[str] = "compact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_keeps(self.keeps, len(LAYERS if self.layers is None else self.layers))

    def cuts(self, layers: int) -> list[Cut]:
        places = depths(LAYERS, layers) if self.layers is None else self.layers
        return [Cut(layer, self.keep, rows="text") for layer in places]

    def chosen(self, tokens: int) -> tuple[int, ...]:
        """Tokens of an image of `tokens` that stay at each cut, without the clusters."""
        return self.keeps or budgets(self.keep, tokens, PUBLISHED)

    def counts(self, layers: int, tokens: int) -> list[int]:
        counts = []
        for keep in self.chosen(tokens)[: len(self.cuts(layers))]:
            tokens = min(keep, tokens) + recycled(tokens - min(keep, tokens))[1]
            counts.append(tokens)
        return counts

    def start(self, view: View) -> Tensor:
        return raters(view.hidden, view.text)

    def score(self, view: View) -> Tensor:
        # A weighted sum instead of a selection: how many words rate is known to the device alone.
        return view.attended(view.memo.float() / view.memo.sum())

    def select(self, score: Tensor, view: View) -> Tensor:
        return view.top(score, min(self.chosen(view.span.total)[view.stage], len(score)))

    def merge(self, view: View, kept: Tensor) -> Merged | None:
        assert view.raw is not None
        if len(kept) == len(view.raw):
            return None
        hidden = view.hidden
        centres, means = recycle(hidden, view.debias(view.raw, role="recycle"), kept)
        own = torch.arange(len(kept) + len(centres), device=kept.device) < len(kept)
        return Merged(torch.cat([hidden[kept], means]), torch.cat([kept, centres]), own)

    def own_count(self, layers: int, tokens: int) -> float:
        # The authors book the layer whose attention decides at what it leaves behind, not at what it worked on.
        booked = [tokens] * layers
        for cut, count in zip(self.cuts(layers), self.counts(layers, tokens), strict=True):
            booked[cut.layer - 1 :] = [count] * (layers - cut.layer + 1)
        return sum(booked) / layers
