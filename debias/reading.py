"""How attention is read before anything is divided: with or without the rotary embedding, and of which heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """Another reading of the attention that a score is made of.

    rope   False: queries and keys before the rotary embedding, so that no position enters their product
    heads  how many heads count, as a number (at least 1) or a share (above 0): those that give the picture the most
           attention, chosen for each picture and cut; None: all
    """

    rope: bool = True
    heads: Optional[Union[int, float]] = None

    def __post_init__(self) -> None:
        heads = self.heads
        if heads is None:
            return
        number = isinstance(heads, (int, float)) and not isinstance(heads, bool)
        if not number or heads <= 0 or (isinstance(heads, float) and heads > 1):
            raise ValueError(f"heads={heads!r}: give a number of heads (an int >= 1) or a share (a float in 0..1)")

    def count(self, heads: int) -> int:
        """How many of so many heads count."""
        if self.heads is None:
            return heads
        wanted = self.heads if isinstance(self.heads, int) else int(heads * self.heads + 1e-6)
        return max(1, min(heads, wanted))

    def chosen(self, weights: Tensor) -> Tensor:
        """[h, R, V] of [H, R, V] attention: the heads that give the picture the most, in their own order.

        Ties go to the earlier head. Nobody waits for the device.
        """
        count = self.count(len(weights))
        if count == len(weights):
            return weights
        best = weights.sum((1, 2)).sort(descending=True, stable=True).indices[:count]
        return weights.index_select(0, best.sort().values)
