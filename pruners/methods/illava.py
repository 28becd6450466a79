"""iLLaVA: the tokens that get least attention become one, in the vision tower and again in the decoder.

https://arxiv.org/abs/2412.06263
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.base import Pruner
from pruners.cut import Cut, Merged
from pruners.parts.budget import REFERENCE_TOKENS, Budget, check_budget, is_whole, tokens_kept
from pruners.parts.schedule import at_depth, depths
from pruners.view import View, VisionView


def merge_least(
    states: Tensor, score: Tensor, keep: int, silenced: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Average the tokens below the best `keep` - 1 of [V, D] `states` into one.

    Returns the kept tokens, ascending, the new states, and the place [1] of the average: the best of its members.
    As upstream has it, weights run 1, 2, 3, ... from there down, so the least attended token weighs most; `silenced`
    tokens weigh nothing unless all of the group is silenced.
    """
    order = score.argsort(descending=True, stable=True)
    group = order[keep - 1 :]
    weight = torch.arange(1, len(group) + 1, device=states.device).float()
    if silenced is not None:
        heard = weight * ~silenced[group]
        weight = torch.where(heard.any(), heard, weight)
    merged = weight @ states[group].float() / weight.sum()
    return order[:keep].sort().values, states.index_copy(0, group[:1], merged[None].to(states.dtype)), group[:1]


@dataclass(frozen=True)
class ILLaVA(Pruner):
    """The authors wrote iLLaVA for SigLIP towers and Qwen2 decoders. This port to CLIP towers and LLaVA-1.5 is ours:
    the [CLS] token takes no part in merging, and merges are spread evenly over the same four layers of the tower.

    `keep`: what the decoder continues with after `layer`. `tower_keep`: what the tower hands over, by default the share
    that the authors' setting leaves; 1.0 leaves the tower alone.
    `silence_merge`: padding weighs nothing in the average. Off, it weighs by its place as upstream has it: most of all.
    """

    title: ClassVar[str] = "iLLaVA"
    layer: int | None = None  # 8 of 32
    tower_keep: Budget = 284 / REFERENCE_TOKENS
    tower_layers: tuple[int, ...] | None = None  # 5, 6, 7, 8 of 24
    silence_merge: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self.tower_keep)

    def tower_count(self, tokens: int) -> int:
        """Tokens of an image of `tokens` that the tower hands over, never fewer than the decoder is to keep."""
        return max(tokens_kept(self.tower_keep, tokens), tokens_kept(self.keep, tokens), 1)

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(at_depth(8, layers) if self.layer is None else self.layer, self.keep)]

    def score(self, view: View) -> Tensor:
        return view.attended()

    def merge(self, view: View, kept: Tensor) -> Merged | None:
        assert view.score is not None
        if len(kept) == len(view.score) or not len(kept):
            return None
        silenced = ~view.valid if self.silence_merge and view.valid is not None else None
        _, states, _ = merge_least(view.hidden, view.score, len(kept), silenced)
        return Merged(states[kept], kept, torch.ones_like(kept, dtype=torch.bool))

    def vision_layers(self, layers: int) -> Sequence[int]:
        if is_whole(self.tower_keep) or is_whole(self.keep):
            return ()
        return depths((5, 6, 7, 8), layers, reference=24) if self.tower_layers is None else self.tower_layers

    def vision_merge(self, view: VisionView) -> Merged:
        patch = torch.arange(view.cls, len(view.index), device=view.index.device)  # [CLS] stands first for good
        left = view.stages - view.stage
        goal = min(len(patch), self.tower_count(view.total))
        keep = goal + (len(patch) - goal) * (left - 1) // left
        if keep == len(patch):
            place = torch.arange(len(view.index), device=patch.device)
            return Merged(view.hidden, place, place >= 0, place[:0])
        score = view.attention.mean((0, 1))[view.cls :]
        silenced = None
        if view.valid is not None:
            padding = ~view.valid[view.cls :]
            score = score.masked_fill(padding, -1)
            silenced = padding if self.silence_merge else None
        kept, states, average = merge_least(view.hidden[patch], score, keep, silenced)
        hidden = view.hidden.index_copy(0, patch, states)
        place = torch.cat([torch.arange(view.cls, device=patch.device), patch[kept]])
        fresh = view.cls + torch.searchsorted(kept, average)
        return Merged(hidden[place], place, torch.ones_like(place, dtype=torch.bool), fresh)

    def mean_count(self, layers: int, tokens: int) -> float:
        before, after = self.tower_count(tokens), self.counts(layers, tokens)[0]
        layer = self.cuts(layers)[0].layer
        return (before * layer + after * (layers - layer)) / layers
