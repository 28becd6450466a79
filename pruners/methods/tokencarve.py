"""TokenCarve: rank by attention and by information together, keep the best, fold the next into their likes.

https://arxiv.org/abs/2503.10501
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from debias.names import one_of
from pruners.base import Pruner
from pruners.cut import Cut, Merged
from pruners.parts.budget import check_share
from pruners.parts.cluster import members
from pruners.parts.greedy import unit
from pruners.view import View


def information(states: Tensor) -> Tensor:
    """L1 norm of each row of U diag(S), from the thin SVD of [V, D] `states`.

    They come from the smaller Gram matrix, V x V or D x D, in float64, which is finer than a float32 SVD.
    """
    wide = states.double()
    if len(wide) > wide.shape[1]:
        rows = wide @ torch.linalg.eigh(wide.T @ wide).eigenvectors
    else:
        value, vector = torch.linalg.eigh(wide @ wide.T)
        rows = vector * value.clamp_min(0).sqrt()
    norm: Tensor = rows.abs().sum(-1)
    return norm.float()


def borda(attention: Tensor, content: Tensor, weight: float, stable: bool = True) -> Tensor:
    """Points by place (V for the first, 1 for the last) in the two rankings, `weight` of them for attention's.

    stable: equal scores stand in the order of their tokens, not where torch.sort happens to put them.
    """

    def points(score: Tensor) -> Tensor:
        return len(score) - score.sort(descending=True, stable=stable).indices.argsort()

    return weight * points(attention).float() + (1 - weight) * points(content).float()


def carve(states: Tensor, top: Tensor, merges: int, silenced: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fold `merges` of the lower half of `top` into their likes of the upper half: (kept ascending, new states).

    `top` lists tokens of [V, D] `states`, best first. Silenced tokens leave first and leave nothing behind.
    """
    half = len(top) // 2
    upper, lower = top[:half], top[half:]
    merges = min(half, merges)
    if not merges:
        return top.sort().values, states
    own = unit(states)
    likeness, target = (own[lower] @ own[upper].T).max(-1)
    if silenced is not None:
        likeness = likeness.masked_fill(silenced[lower], torch.inf)
    order = likeness.argsort(descending=True, stable=True)
    leave, stay = order[:merges], order[merges:]
    share = members(target[leave], half)
    if silenced is not None:
        share = share * ~silenced[lower[leave]]
    total = states[upper].float() + share @ states[lower[leave]].float()
    states = states.clone()
    states[upper] = (total / (1 + share.sum(-1, keepdim=True))).to(states.dtype)
    return torch.cat([upper, lower[stay]]).sort().values, states


@dataclass(frozen=True)
class TokenCarve(Pruner):
    """Half as many again as the budget are chosen, then folded down to it. `rank`: whose order chooses them."""

    layer: int = 2
    weight: float = 0.5  # of attention's order, when both choose
    rank: Literal["both", "information", "attention"] = "both"

    shrink_cache: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("rank of TokenCarve", self.rank, ("both", "information", "attention"))
        check_share("weight", self.weight)

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(self.layer, self.keep)]

    def start(self, view: View) -> dict[str, Tensor]:
        return {}  # select puts the merged states here for merge to hand on

    def score(self, view: View) -> Tensor:
        return view.attended()

    def select(self, score: Tensor, view: View) -> Tensor:
        if view.count == len(score):
            return torch.arange(len(score), device=score.device)
        states, released = view.hidden, view.debiaser.release is not None
        if self.rank != "attention":
            content = information(states)
            score = content if self.rank == "information" else borda(score, content, self.weight, not released)
        wanted = min(view.count + view.count // 2, len(score))
        silenced = None if view.valid is None or released else ~view.valid
        if silenced is not None:
            score = score.masked_fill(silenced, -1)  # both orders count from zero up
        best = score.topk(wanted).indices if released else score.argsort(descending=True, stable=True)
        chosen = best[:wanted]
        kept, view.memo["states"] = carve(states, chosen, len(chosen) - view.count, silenced)
        return kept

    def merge(self, view: View, kept: Tensor) -> Merged | None:
        states = view.memo.pop("states", None)
        if states is None:
            return None
        return Merged(states[kept], kept, torch.ones_like(kept, dtype=torch.bool))
