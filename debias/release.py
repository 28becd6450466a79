"""What the authors' release computes where a Debias computes something else, method by method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import torch
from torch import Tensor

from debias.padding import Padding


@dataclass(frozen=True)
class Release:
    """A method's part of the release: padding is multiplied by zero, so that silenced tokens tie with each other.

    late     how many tokens behind its true start the drivers place the picture
    weights  the dtype that weights are rounded to; None: the score's own
    shrinks  whether the budget shrinks to the number of patches that are not padding
    """

    late: int = 0
    weights: Optional[str] = None
    shrinks: bool = False

    def __call__(self, score: Tensor, valid: Optional[Tensor], weight: Optional[Tensor]) -> Tensor:
        """The score [..., V] times the mask, times the weights, each in the dtype that the release has it in."""
        kind = score.dtype if self.weights is None else getattr(torch, self.weights)
        if valid is not None:
            score = score * valid.to(score.device, score.dtype)
        return score if weight is None else score * weight.to(score.device, kind)

    def budget(self, keep: int, valid: Optional[Tensor]) -> int:
        """How many of `keep` tokens stay."""
        return keep if valid is None or not self.shrinks else min(keep, int(valid.sum()))


RELEASES: Dict[str, Release] = {
    "fastv": Release(late=1, shrinks=True),
    "tokencarve": Release(late=1),
    "himap": Release(weights="float16"),
    "pyramiddrop": Release(),
    "sparsevlm": Release(weights="float32"),
}
# Where the release's masks are not those of debias.padding.RELEASED: by method and arm.
MASKS: Dict[Tuple[str, str], Padding] = {
    ("fastv", "padding"): Padding(0.5, "cropped"),
    ("sparsevlm", "padding"): Padding(0.5, "antialiased"),
    ("sparsevlm", "both"): Padding(0.5, "antialiased"),
}
