"""VisionZip: before the LLM, keep the patches [CLS] looks at and gather the rest into a few contextual tokens.

https://arxiv.org/abs/2412.04467
"""

from __future__ import annotations

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
from pruners.view import View


def contextual(features: Tensor, keys: Tensor, rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Gather the `rest` (ascending indices) of [N, C] `features` at `count` of them: (indices, their features).

    Every step-th token is a target; the others join the target whose key is most like theirs. As upstream has it,
    the result is the target's feature plus the mean of those that joined: a sum, not an average.
    """
    if not count:
        return rest[:0], features[rest[:0]]
    place = torch.arange(0, len(rest), max(1, len(rest) // count), device=rest.device)[:count]
    target, source = rest[place], rest[others(len(rest), place)]
    own = unit(keys)
    if not len(source):
        return target, features[target]
    joined = members((own[source] @ own[target].T).argmax(-1), len(target))
    mean = (joined @ features[source].float()) / joined.sum(-1, keepdim=True).clamp_min(1)
    return target, (features[target].float() + mean).to(features.dtype)


@dataclass(frozen=True)
class VisionZip(Pruner):
    """`dominant`: the share of the budget for patches that [CLS] looks at, [CLS] among them; the rest is contextual.

    Where the tower has no [CLS] token, or a token of the prompt shows several patches, there is no token of it to keep,
    and the patches have its place.
    """

    dominant: float = 54 / 64

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "vision"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("dominant", self.dominant)

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]

    def score(self, view: View) -> Tensor:
        return view.vision.attention.sum(0)

    def select(self, score: Tensor, view: View) -> Tensor:
        if view.count == len(score):
            return torch.arange(len(score), device=score.device)
        dominant = int(view.count * self.dominant + 0.5)
        return top(score, dominant if view.vision.cls is None else max(1, dominant) - 1)

    def merge(self, view: View, kept: Tensor) -> Merged | None:
        patches = view.vision
        if len(kept) == len(patches.features) or not view.count:
            return None
        first = 0 if patches.cls is None else 1
        rest, count = others(len(patches.features), kept), view.count - first - len(kept)
        whole = view.valid_on_host
        if whole is not None:  # padding takes no part, unless there is too little else to make the tokens of
            assert view.valid is not None
            valid, shown = view.valid[rest], int(whole.sum())
            enough = max(shown - min(len(kept), shown), count)  # what shows the picture was kept first
            rest = rest[valid.argsort(descending=True, stable=True)[:enough]].sort().values
        targets, gathered = contextual(patches.features, patches.keys.float().mean(0), rest, count)
        place = torch.cat([kept, targets])
        hidden = torch.cat([view.hidden[kept], view.project(gathered).to(view.hidden.dtype)])
        own = torch.ones_like(place, dtype=torch.bool)
        if patches.cls is None:
            return Merged(hidden, place, own)
        whole = view.project(patches.cls[None]).to(hidden.dtype)  # [CLS] stands where the first token stands
        place = torch.cat([torch.cat([kept, rest])[:1], place])
        return Merged(torch.cat([whole, hidden]), place, torch.cat([own.new_zeros(1), own]))
