"""VisPruner: before the LLM, keep the patches [CLS] looks at and the most distinct of the rest.

https://arxiv.org/abs/2412.01818
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.parts.budget import check_share
from pruners.parts.greedy import likeness
from pruners.view import View

STEP = 8  # near-duplicates that leave in one round


def distinct(features: Tensor, order: Tensor, keep: int, step: int = STEP) -> Tensor:
    """Thin out `order` [I, R], rows of `features` [I, N, C], to `keep` of each image by dropping near-duplicates.

    Round by round the list is dealt into two hands; the `step` tokens of the first hand most like one of the second
    leave, and what remains of the first hand, most alike first, goes before the second into the next round.
    """
    alike = likeness(features)
    image = torch.arange(len(order), device=order.device)[:, None, None]
    while keep and order.shape[1] > keep:
        first, second = order[:, 0::2], order[:, 1::2]
        leave = min(step, order.shape[1] - keep, first.shape[1])
        best = alike[image, first[:, :, None], second[:, None, :]].amax(-1)
        stay = best.argsort(descending=True, stable=True)[:, leave:]
        order = torch.cat([first.gather(1, stay), second], dim=1)
    return order[:, :keep]


def important_and_distinct(
    features: Tensor, attention: Tensor, keep: int, important_ratio: float = 0.5, valid: Tensor | None = None
) -> Tensor:
    """Ascending [I, keep] indices for `features` [I, N, C] and the [CLS] row of `attention` [I, N].

    Patches that are not `valid` take part in neither half; they fill up, in raster order, what valid ones cannot.
    Their number decides sizes, so `valid` may lie on the CPU, where nobody has to wait for it.
    """
    images, n = attention.shape
    keep = min(keep, n)
    order = attention.argsort(descending=True, stable=True)
    if valid is None:
        return _choose(features, order, keep, important_ratio).sort(-1).values
    kept = torch.empty(images, keep, dtype=torch.long, device=attention.device)
    counts = valid.sum(-1)
    valid = valid.to(attention.device, non_blocking=True)
    order = order.gather(1, (~valid).gather(1, order).to(torch.uint8).argsort(stable=True))
    border = valid.to(torch.uint8).argsort(stable=True)
    for count in set(counts.tolist()):
        rows = (counts == count).nonzero()[:, 0].to(attention.device, non_blocking=True)
        chosen = _choose(features[rows], order[rows, :count], min(keep, count), important_ratio)
        kept[rows] = torch.cat([chosen, border[rows, : keep - chosen.shape[1]]], dim=1)
    return kept.sort(-1).values


def _choose(features: Tensor, order: Tensor, keep: int, ratio: float) -> Tensor:
    important = int(keep * ratio)
    return torch.cat([order[:, :important], distinct(features, order[:, important:], keep - important)], dim=1)


@dataclass(frozen=True)
class VisPruner(Pruner):
    """`important_ratio` of the budget goes to attention, the rest to diversity.

    `silence_pool`: padding leaves the diversity half too. Off, only its attention is silenced, and its patches,
    which resemble nothing in the picture, may be kept for being different.
    """

    important_ratio: float = 0.5
    silence_pool: bool = True

    positions: ClassVar[str] = "compact"
    reads: ClassVar[Reads] = "vision"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("important_ratio", self.important_ratio)

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]

    def score(self, view: View) -> Tensor:
        return view.vision.attention.mean(0)

    def select(self, score: Tensor, view: View) -> Tensor:
        valid = view.valid_on_host if self.silence_pool else None
        known = None if valid is None else valid[None]
        features = view.vision.features[None]
        return important_and_distinct(features, score[None], view.count, self.important_ratio, known)[0]
