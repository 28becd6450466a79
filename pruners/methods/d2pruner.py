"""D2Pruner: divide the attention by its average over pictures, keep the best, fill up with what repeats none of them.

https://arxiv.org/abs/2512.19443
"""

from __future__ import annotations

from dataclasses import dataclass

from pruners.methods.deeplayer import DeepLayer
from pruners.parts.scores import Kind, Scores


@dataclass(frozen=True)
class D2Pruner(DeepLayer):
    """`prior`: the average attention, measured once for a model (`python -m eval fit --kind prior`); by default the
    file prior.json beside the checkpoint.

    `selection`: MIS(alpha=0.5) is for localisation; the authors answer questions with alpha=1.0, likeness alone.
    """

    layer: int | None = 2
    scores: Scores | Kind = "prior"
