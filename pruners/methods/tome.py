"""ToMe: between attention and MLP of every layer of the vision tower, merge the tokens that are most alike.

https://arxiv.org/abs/2210.09461
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut, Merged, others
from pruners.models.base import Adapter
from pruners.parts.budget import is_whole, tokens_kept
from pruners.parts.cluster import members
from pruners.parts.greedy import likeness
from pruners.view import View, VisionView


def matched(keys: Tensor, count: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Bipartite soft matching of [n, c] `keys`: (which `count` tokens leave, the token that each of them joins).

    Every second token may leave, for the one of the others most like it by cosine similarity; those that are most alike
    do. Tokens that are not `valid` [n] leave before all others, the last one first, and none joins them. At most half
    of the tokens leave.
    """
    turn = torch.arange(len(keys), device=keys.device) if valid is None else valid.cumsum(0) - 1
    leaving, staying = turn % 2 == 1, turn % 2 == 0
    if valid is not None:
        leaving, staying = leaving & valid, staying & valid
    alike, target = likeness(keys).masked_fill(~staying, -3.0).max(-1)
    alike = alike.masked_fill(~leaving, -2.0)
    if valid is not None:
        alike = torch.where(valid, alike, 2.0 + torch.arange(len(keys), device=keys.device))
    leave = alike.argsort(descending=True, stable=True)[:count]
    return leave, target[leave]


def merged(
    states: Tensor, keys: Tensor, size: Tensor, keep: int, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`keep` tokens of [n, C] `states`: (the new states, how many patches each stands for, which token it was).

    A token that others join becomes their mean, each weighed by its `size` [n]. Where more than half of the tokens have
    to go, they go in several rounds. Tokens that are not `valid` weigh nothing.
    """
    place = torch.arange(len(states), device=states.device)
    states, keys = states.float(), keys.float()
    while len(states) > keep:
        leave, target = matched(keys, min(len(states) - keep, len(states) // 2), valid)
        weight = members(target, len(states)) * (size if valid is None else size * valid)[leave]
        total = size + weight.sum(1)
        stay = others(len(states), leave)
        states, keys = (
            ((part * size[:, None] + weight @ part[leave]) / total[:, None])[stay] for part in (states, keys)
        )
        size, place = total[stay], place[stay]
        valid = None if valid is None else valid[stay]
    return states, size, place


@dataclass(frozen=True)
class ToMe(Pruner):
    """`keep`: what the tower hands over. About the same number of tokens leaves in each of its layers, and a key counts
    as often in the tower's attention as the patches that it stands for."""

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "tokens"

    def check(self, adapter: Adapter) -> None:
        kernel = str(getattr(adapter.tower.module.config, "_attn_implementation", ""))
        if kernel.startswith("flash"):
            raise ValueError(
                "ToMe weighs the keys of the vision tower by the patches that they stand for, which flash attention "
                "cannot do: use attention='sdpa'"
            )

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]  # the tower has left no more than that

    def score(self, view: View) -> Tensor:
        return torch.ones(len(view.tokens), device=view.tokens.slots.device)

    def vision_layers(self, layers: int) -> Sequence[int]:
        return () if is_whole(self.keep) else range(layers)

    def vision_merge(self, view: VisionView) -> Merged:
        patch, left = slice(view.cls, None), view.stages - view.stage
        before = len(view.index) - view.cls  # [CLS] stands first for good
        goal = min(before, max(1, tokens_kept(self.keep, view.total)))
        keep = goal + (before - goal) * (left - 1) // left
        valid = None if view.valid is None else view.valid[patch]
        states, size, place = merged(view.hidden[patch], view.keys.mean(0)[patch], view.size[patch], keep, valid)
        first = torch.arange(view.cls, device=place.device)
        place = torch.cat([first, place + view.cls])
        size = torch.cat([view.size[: view.cls], size])
        hidden = torch.cat([view.hidden[: view.cls], states.to(view.hidden.dtype)])
        fresh = (size > view.size[place]).to(torch.uint8).argsort(descending=True, stable=True)[: before - keep]
        own = torch.ones_like(place, dtype=torch.bool)
        return Merged(hidden, place, own, fresh, size)
