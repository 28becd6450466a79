"""VidCom2: before the LLM, keep the tokens that are unlike their clip and their frame, more of the frames that are.

https://arxiv.org/abs/2505.14454
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.parts.frames import OfClips, apart, numbers
from pruners.parts.regions import shared
from pruners.view import View


def unlike(states: Tensor, counted: Tensor, over: tuple[int, ...]) -> Tensor:
    """[T, M] minus the cosine similarity of `states` [T, M, D] with their mean `over` some of the first two dimensions,
    which their sum has too. Only tokens that are `counted` [T, M] (1.0, else 0.0) take part in it."""
    total = (states * counted[..., None]).sum(over, keepdim=True)
    return -torch.nn.functional.cosine_similarity(states, total, dim=-1)


def shares(unlike: Tensor, temperature: float) -> Tensor:
    """[T] how much of an even share of the budget each frame has, by how `unlike` [T] the clip it is; sum T."""
    return 1 + (unlike.double() / temperature).softmax(0) - 1 / len(unlike)


@dataclass(frozen=True)
class VidCom2(OfClips):
    """A token's score is how unlike the mean of the whole clip it is, plus how unlike the mean of its frame. A frame's
    share of the budget goes by the mean of the first part in it.

    temperature: of the softmax over frames that makes shares of these means.
    """

    temperature: float = 0.01

    positions: ClassVar[str] = "compact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: give a number above 0")

    def parts(self, view: View) -> tuple[Tensor, Tensor]:
        """[T, M] how unlike the clip each token is, and which tokens count."""
        states = apart(view.span, view.hidden.float())
        valid = states.new_ones(len(view.tokens)) if view.valid is None else view.valid.to(states)
        counted = apart(view.span, valid)
        return unlike(states, counted, (0, 1)), counted

    def score(self, view: View) -> Tensor:
        clip, counted = self.parts(view)
        own = unlike(apart(view.span, view.hidden.float()), counted, (1,))
        behind = len(view.tokens) - own.numel()
        return torch.nn.functional.pad((clip + own).flatten(), (0, behind), value=-3.0)  # below what a frame can have

    def select(self, score: Tensor, view: View) -> Tensor:
        clip, counted = self.parts(view)
        mean = (clip * counted).sum(1) / counted.sum(1).clamp_min(1)
        frame = numbers(view.span, score.device)
        last = frame < 0 if view.valid is None else (frame < 0) | ~view.valid
        return shared(score, frame.clamp(min=0), shares(mean, self.temperature), view.count, last).sort().values
