"""Maximal independent set: keep high scores that do not repeat each other, in meaning or in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from debias.names import one_of
from pruners.parts.budget import check_share
from pruners.parts.greedy import likeness


def independent(adjacent: Tensor, free: Tensor, wanted: int) -> tuple[Tensor, bool]:
    """The set a sequential greedy walk over nodes 0..n-1 picks from the `free` ones, in a few parallel rounds, at least
    as far as its first `wanted`; and whether there are so many.

    A node none of whose undecided neighbours comes before it will be picked by the walk whatever happens elsewhere;
    picking all of these at once, and striking out their neighbours, leaves a smaller problem of the same kind.
    """
    before = adjacent.tril()  # no node is next to itself
    picked = torch.zeros_like(free)
    rounds = 1 if free.device.type == "cpu" else 8  # a device is asked less often: rounds are cheap, an answer is not
    while True:
        for _ in range(rounds):
            first = free & ~(before & free).any(-1)
            picked |= first
            free = free & ~first & ~(adjacent & first).any(-1)
        settled = picked & (free.cumsum(0) == 0)
        enough, more = torch.stack([settled.sum() >= wanted, free.any()]).tolist()
        if enough or not more:
            return picked, enough


@dataclass(frozen=True)
class MIS:
    """Selection by independent set. The first `r_pivot` of the budget are the top scores, whatever their neighbours.

    The D2Pruner paper can be read in several ways; each reading is a field. `rule`: `fused` joins likeness and
    adjacency in one number, `union` takes an edge from either, `semantic` looks at likeness only.
    """

    r_pivot: float = 0.7
    theta: float = 0.8
    alpha: float = 0.5
    rule: Literal["fused", "union", "semantic"] = "fused"
    suppress_pivots: bool = True
    radius: float = 1.5

    def __post_init__(self) -> None:
        one_of("rule of MIS", self.rule, ("fused", "union", "semantic"))
        check_share("r_pivot", self.r_pivot)

    def graph(self, features: Tensor, xy: Tensor, view: Tensor) -> Tensor:
        """[N, N] bool: who repeats whom. `xy` [N, 2] are patch places, `view` [N] says which picture they lie in."""
        alike = likeness(features)
        if self.rule == "semantic":
            edges = alike > self.theta
        else:
            x, y = ((part[:, None] - part).square() for part in xy.float().T)
            near = (x + y <= self.radius**2) & (view[:, None] == view)
            if self.rule == "union":
                edges = near | (alike > self.theta)
            else:
                edges = self.alpha * alike.clamp_min(0) + (1 - self.alpha) * near > self.theta
        return edges.fill_diagonal_(False)

    def __call__(
        self, score: Tensor, edges: Callable[[Tensor], Tensor], keep: int, silenced: Tensor | None = None
    ) -> Tensor:
        """Ascending indices of `keep` tokens: pivots, then the independent set, then the best of what is left.

        `edges` gives the graph of some of the tokens: pairs are compared among the best alone, while these are enough.
        `silenced` tokens come after every other token, also after those that an edge has blocked.
        """
        n, pivots, size = len(score), max(1, int(self.r_pivot * keep)), 2 * keep
        order = score.argsort(descending=True, stable=True)
        if silenced is not None:
            order = order[silenced[order].to(torch.uint8).argsort(stable=True)]
        taken = torch.zeros_like(order, dtype=torch.bool)
        taken[:pivots] = True
        open_to = ~taken if silenced is None else ~(taken | silenced[order])
        while True:
            graph, free = edges(order[:size]), open_to[:size]
            if self.suppress_pivots:
                free = free & ~graph[:, :pivots].any(-1)
            picked, enough = independent(graph, free, keep - pivots)
            if enough or size >= n:
                break
            size *= 2
        taken[:size] |= picked
        return order[(~taken).to(torch.uint8).argsort(stable=True)[:keep]].sort().values  # the best fill what is left
