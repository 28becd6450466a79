"""CDPruner: before the LLM, keep the tokens that are most diverse, those more that belong to the question.

https://arxiv.org/abs/2506.10967
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from debias.names import one_of
from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.method import Views
from pruners.models.base import Adapter
from pruners.parts.clip import words
from pruners.parts.greedy import chosen, determinantal, likeness, unit
from pruners.view import View


def conditional(features: Tensor, relevance: Tensor, among: Tensor | None = None) -> Tensor:
    """[N, N] kernel: the likeness of `features` [N, C], times the `relevance` [N] of both, made to run from 0 to 1 over
    the tokens `among` [N]. A relevance that is the same everywhere conditions nothing."""
    low, high = (
        relevance if among is None else relevance.masked_fill(~among, end) for end in (float("inf"), -float("inf"))
    )
    span = (high.amax() - low.amin()).double()
    share = torch.where(span > 0, (relevance.double() - low.amin()) / span, 1.0)
    return likeness(features.double()) * share[:, None] * share


@dataclass(frozen=True)
class CDPruner(Pruner):
    """The most likely set of a determinantal point process over the projected tokens, found greedily.

    `relevance` of a token to the question: `tokens` is its mean cosine similarity with the words behind the picture, as
    both enter the language model, which the authors use where there is no text tower; `clip` compares the patches with
    the question in the space of CLIP, turned round as the authors do; `none` is diversity alone.

    clip: the checkpoint of CLIP that `relevance="clip"` reads: that of the model's own vision tower, with its text
        tower.
    """

    relevance: Literal["tokens", "clip", "none"] = "tokens"
    clip: str = "openai/clip-vit-large-patch14-336"

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "tokens"
    views: ClassVar[Views] = "together"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("relevance of CDPruner", self.relevance, ("tokens", "clip", "none"))

    def watches_tower(self) -> bool:
        return self.relevance == "clip"

    def check(self, adapter: Adapter) -> None:
        if self.relevance == "clip":
            words(self.clip).check(adapter)

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]

    def score(self, view: View) -> Tensor:
        if self.relevance == "none" or not view.tokens.after:
            return torch.ones(len(view.tokens), device=view.tokens.slots.device)
        if self.relevance == "clip":
            clip, patches = words(self.clip), view.vision.features
            return -(clip.features_of_patches(patches) @ clip.features_of_text(view.question, patches.device).T).mean(
                -1
            )
        return (unit(view.hidden) @ unit(view.text).T).mean(-1)

    def select(self, score: Tensor, view: View) -> Tensor:
        features = view.hidden
        return chosen(view, lambda count, among: determinantal(conditional(features, score, among), count, among))
