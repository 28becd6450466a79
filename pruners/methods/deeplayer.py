"""Deep-layer pruning: look from the middle of the decoder, where attention finds objects, and keep distinct tokens.

The score arithmetic, the selection and the debias are three independent choices, so that an ablation grid is a loop.
https://analemma.ai/papers/424d9225-e893-4a73-b97e-5c9c85c010e2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pruners.base import Pruner
from pruners.cut import Cut, top
from pruners.parts.greedy import chosen
from pruners.parts.mis import MIS
from pruners.parts.schedule import at_depth
from pruners.parts.scores import Kind, Scores
from pruners.parts.suppression import Suppression
from pruners.prior import Prior
from pruners.view import View

if TYPE_CHECKING:
    from pruners.models.base import Adapter


@dataclass(frozen=True)
class DeepLayer(Pruner):
    """Cut before `layer` (default: 12 of 32) by `scores`, select by `selection`. Names stand for their default values:
    scores="ratio" is Scores("ratio"), selection="mis" is MIS() and "suppression" Suppression(), prior="FILE" is
    Prior.load("FILE"). Scores("prior") without a prior looks for prior.json beside the checkpoint.
    """

    layer: int | None = None
    scores: Scores | Kind = "raw"
    selection: MIS | Suppression | Literal["mis", "topk", "suppression"] = "mis"
    prior: Prior | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.scores, str):
            object.__setattr__(self, "scores", Scores(self.scores))
        if self.selection == "mis":
            object.__setattr__(self, "selection", MIS())
        if self.selection == "suppression":
            object.__setattr__(self, "selection", Suppression())
        if isinstance(self.prior, str):
            object.__setattr__(self, "prior", Prior.load(self.prior))
        if not isinstance(self.selection, (MIS, Suppression)) and self.selection != "topk":
            known = "'mis', 'suppression', 'topk', an MIS(...) or a Suppression(...)"
            raise ValueError(f"selection is {known}; got {self.selection!r}")

    @property
    def arithmetic(self) -> Scores:
        """`scores` as a value, also where it was given by its name."""
        assert isinstance(self.scores, Scores)
        return self.scores

    def cut_layer(self, layers: int) -> int:
        """Where the cut is in a decoder of `layers`."""
        return at_depth(12, layers) if self.layer is None else self.layer

    def cuts(self, layers: int) -> list[Cut]:
        also = (at_depth(self.arithmetic.shallow, layers) - 1,) if self.arithmetic.looks_back else ()
        return [Cut(self.cut_layer(layers), self.keep, also=also)]

    def check(self, adapter: Adapter) -> None:
        if self.arithmetic.kind == "prior":
            self.measured(adapter).reads(self.cut_layer(len(adapter.decoder.layers)) - 1)

    def measured(self, adapter: Adapter) -> Prior:
        """The prior that was given, or the prior beside the model's checkpoint."""
        return self.prior if isinstance(self.prior, Prior) else Prior.beside(adapter.model)

    def score(self, view: View) -> Tensor:
        return view.attend(rotary=self.arithmetic.rope)[:, 0].mean(0)

    def select(self, score: Tensor, view: View) -> Tensor:
        # The trend belongs to attention and is gone from `score`; arithmetic comes after it, and sees no padding.
        score, how = self.combined(score, view), self.selection
        if isinstance(how, str) or view.count == len(score):
            return top(score, view.count)
        if isinstance(how, Suppression):
            pull = how.pull(view.hidden, *view.places)
            return chosen(view, lambda count, among: how(score, pull, count, among))
        graph, parts = how.graph, (view.hidden, *view.places)
        return how(
            score,
            lambda some: graph(*(part[some] for part in parts)),
            view.count,
            None if view.valid is None else ~view.valid,
        )

    def combined(self, score: Tensor, view: View) -> Tensor:
        """The score arithmetic over the valid tokens; silenced tokens stay below them in their own order."""
        if self.arithmetic.kind == "raw":
            return score
        shallow = prior = None
        if self.arithmetic.looks_back:
            shallow = view.attend(view.cut.also[0], rotary=self.arithmetic.rope)[:, 0].mean(0)
        else:
            prior = self.measured(view.adapter).at(view.span, view.cut.layer - 1, score.device)
        if view.valid is None:
            return self.arithmetic(score, shallow, prior)
        whole = view.valid_on_host
        assert whole is not None
        valid = whole.nonzero()[:, 0].to(score.device, non_blocking=True)
        shallow, prior = (None if part is None else part[valid] for part in (shallow, prior))
        seen = self.arithmetic(score[valid], shallow, prior)
        order = (~view.valid).cumsum(0)  # padding falls with its position, below everything seen
        return (seen.min() - order).index_copy(0, valid, seen)
