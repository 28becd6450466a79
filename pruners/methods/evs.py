"""EVS: before the LLM, keep the first frame of a clip, and of the others what differs most from the frame before.

https://arxiv.org/abs/2510.14624
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pruners.cut import top
from pruners.methods.grid import spread
from pruners.parts.frames import OfClips, apart, numbers
from pruners.parts.greedy import unit
from pruners.view import View

FARTHEST = 2.0  # the largest distance by cosine


@dataclass(frozen=True)
class EVS(OfClips):
    """Efficient Video Sampling among embeddings: the score is the cosine distance to the token at the same place one
    frame earlier. A budget below one frame is spread evenly over the first one; a picture is a clip of one frame."""

    def score(self, view: View) -> Tensor:
        own = apart(view.span, unit(view.hidden))
        changed = 1 - (own[1:] * own[:-1]).sum(-1)
        score = torch.cat([changed.new_full((1, own.shape[1]), FARTHEST), changed]).flatten()
        return torch.nn.functional.pad(score, (0, len(view.tokens) - len(score)), value=-1.0)  # below any distance

    def select(self, score: Tensor, view: View) -> Tensor:
        first = numbers(view.span, score.device) == 0
        first = first if view.valid is None else first & view.valid
        if view.count <= view.span.total // view.span.frames:
            return spread(view.count, first)
        return top(score, view.count, first)
