"""Where tokens leave, and what goes on behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruners.parts.budget import Budget, check_budget

Rows = Literal["last", "text", "visual", "all"]


@dataclass(frozen=True)
class Cut:
    """Tokens leave before decoder layer `layer` (0: before the language model).

    keep: an int keeps that many tokens of each image, a float that share of its original tokens (1: one, 1.0: all).
    source: whose attention the score reads, that of the layer before or that of this layer itself. "tower": the vision
        tower's, in a method that reads the decoder at a later cut; no trend is divided out there, and that later cut is
        the first to a debias.
    rows: the query rows; "last" is the prompt's last token, "text" all text after the image, "visual" the image itself.
    also: earlier layers whose attention the score reads too (see View.attend).
    """

    layer: int
    keep: Budget
    source: Literal["previous", "same", "tower"] = "previous"
    rows: Rows = "last"
    also: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_budget(self.keep)

    @property
    def looks(self) -> tuple[int, ...]:
        """The layers whose attention is recorded on the way to this cut."""
        before = (self.layer - 1,) if self.source == "previous" and self.layer > 0 else ()
        return tuple(dict.fromkeys((*self.also, *before)))


@dataclass(frozen=True)
class Merged:
    """The tokens of one image that go on after a cut, when they are not simply the kept ones.

    hidden [m, D]: in the order they go on.
    place [m]: the token (0..V-1) whose position and raster index each takes; a recycled token takes its centre's.
    own [m]: True where it is that token itself, False for a new token.
    fresh: indices of the rows of `hidden` that differ from the input (None: all). In the vision tower only those pass
    the MLP again.
    size [m]: in the vision tower, how many patches each token stands for from now on, in attention too; None: one.
    """

    hidden: Tensor
    place: Tensor
    own: Tensor
    fresh: Tensor | None = None
    size: Tensor | None = None


def top(score: Tensor, count: int, first: Tensor | None = None) -> Tensor:
    """The `count` highest scores as sorted indices; ties go to the earlier token.

    first: [V] True where a token goes before all others, whatever its score.
    """
    order = score.sort(descending=True, stable=True).indices
    if first is not None:
        ahead = first.index_select(0, order).to(torch.uint8).argsort(descending=True, stable=True)
        order = order.index_select(0, ahead)
    return order[:count].sort().values


def others(total: int, kept: Tensor) -> Tensor:
    """What of 0..total-1 is not in `kept`, ascending. How many there are is known without asking the device."""
    free = torch.ones(total, dtype=torch.uint8, device=kept.device).index_fill_(0, kept, 0)
    return free.argsort(descending=True, stable=True)[: total - len(kept)]
