"""PyramidDrop: drop tokens in stages, each by the attention of the layer that comes next.

https://arxiv.org/abs/2410.17247
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruners.base import Pruner
from pruners.cut import Cut
from pruners.parts.schedule import depths
from pruners.view import View


@dataclass(frozen=True)
class PyramidDrop(Pruner):
    """Every stage leaves half of what the stage before left; the first as many as make `keep` the mean of all layers.

    layers: before which layers tokens leave (2, 10 and 20 of 32, scaled to the model).
    ratios: shares of the original tokens that each stage leaves, instead of `keep`; for 576 tokens (0.32, 0.16, 0.08)
    is what `keep=128` comes to.
    """

    layers: tuple[int, ...] | None = None
    ratios: tuple[float, ...] | None = None

    positions: ClassVar[str] = "compact"

    def cuts(self, layers: int) -> list[Cut]:
        at = depths((2, 10, 20), layers) if self.layers is None else self.layers
        if self.ratios is None:
            return [Cut(layer, 1.0, source="same") for layer in at]  # counts() knows how many
        if len(self.ratios) != len(at):
            raise ValueError(f"PyramidDrop cuts before layers {at}, which needs {len(at)} ratios; got {self.ratios}")
        return [Cut(layer, ratio, source="same") for layer, ratio in zip(at, self.ratios, strict=True)]

    def counts(self, layers: int, tokens: int) -> list[int]:
        if self.ratios is not None:
            return super().counts(layers, tokens)
        mean = self.keep * tokens if isinstance(self.keep, float) else self.keep
        if mean >= tokens:
            return [tokens for _ in self.cuts(layers)]
        edges = [*(cut.layer for cut in self.cuts(layers)), layers]
        halves = sum((edges[i + 1] - edges[i]) / 2**i for i in range(len(edges) - 1))
        first = (mean * layers - tokens * edges[0]) / halves
        if first < 0:
            raise ValueError(
                f"PyramidDrop cannot keep {mean:g} of {tokens} tokens on average: the layers before the first cut "
                f"alone make it {tokens * edges[0] / layers:g}; raise keep, or cut earlier"
            )
        return [int(min(first, tokens) / 2**i + 1e-6) for i in range(len(edges) - 1)]

    def score(self, view: View) -> Tensor:
        return view.attended()

    def own_count(self, layers: int, tokens: int) -> float:
        return self.mean_count(layers, tokens)
