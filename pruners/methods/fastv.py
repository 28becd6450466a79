"""FastV: after layer K, keep the visual tokens that the last token looks at. https://arxiv.org/abs/2403.06764"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pruners.base import Pruner
from pruners.cut import Cut
from pruners.view import View


@dataclass(frozen=True)
class FastV(Pruner):
    """mode "gather" removes tokens once, at the prefill. "mask" is the authors' published protocol: nothing is removed,
    columns are hidden, and every generated token ranks them anew by its own attention."""

    layer: int = 2
    mode: Literal["gather", "mask"] = "gather"  # type: ignore[misc]

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(self.layer, self.keep)]

    def score(self, view: View) -> Tensor:
        return view.attended()
