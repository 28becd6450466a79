"""What a pruning method says: its cuts, its score, its selection, its merge, and what it is.

A method is written for ONE image (or clip) of ONE sequence; `pruners.engine.hooks` loops over rows and images, debiases
the score, gathers the hidden states and keeps positions, masks and caches right. A method never sees a batch dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor

from debias.names import one_of
from pruners.arms import Reads, arms_of
from pruners.cut import Cut, Merged
from pruners.models.base import Adapter
from pruners.parts.budget import REFERENCE_TOKENS, Budget, check_budget, tokens_kept
from pruners.view import View, VisionView

M = TypeVar("M", bound="Method")
Views = Literal["each", "together"]


@dataclass(frozen=True)
class Method:
    """What every method says, or leaves as it is here. What a model is pruned with is a Pruner (pruners/base.py)."""

    keep: Budget = 128

    positions: ClassVar[str] = "original"  # or "compact": what stays is renumbered 0..n-1, and so is what is generated
    mode: ClassVar[str] = "gather"  # or "mask": columns are hidden, and ranked anew at every decoding step
    shrink_cache: ClassVar[bool] = False  # the cached keys and values of the layers below the cut are cut too
    reads: ClassVar[Reads] = "decoder"  # what makes the score: attention there, or "vision": in the tower; see arms.py
    title: ClassVar[str | None] = None  # the method's name in tables and figures, where its class cannot have it
    of_clips: ClassVar[bool] = False  # the budget is shared among the frames of a clip
    views: ClassVar[Views] = "each"  # how View.vision comes where a picture has several views: each by itself, with its
    # share of the budget, or "together"

    def __post_init__(self) -> None:
        check_budget(self.keep)
        one_of("mode", self.mode, ("gather", "mask"))

    # -- what a method is --------------------------------------------------------------------------------------------
    @classmethod
    def arms(cls) -> tuple[str, ...]:
        """The arms that mean something to the method."""
        return arms_of(cls.reads)

    @classmethod
    def merges(cls) -> bool:
        """Whether tokens may go on that are made of others."""
        return cls.merge is not Method.merge or cls.prunes_tower()

    @classmethod
    def prunes_tower(cls) -> bool:
        """Whether the method can take tokens out inside the vision tower."""
        return cls.vision_layers is not Method.vision_layers

    @classmethod
    def reads_tower(cls) -> bool:
        """Whether View.vision is there for the method."""
        return "vision" in cls.reads

    @classmethod
    def serves(cls, family: type[Adapter]) -> bool:
        """Whether the method can run on a family: all can that leave the vision tower alone."""
        if not cls.reads_tower() and not cls.prunes_tower():
            return True
        return family.opens == "tokens" or (family.opens == "views" and not cls.prunes_tower())

    def watches_tower(self) -> bool:
        """Whether View.vision has to be there for the method as it is set."""
        return self.reads_tower()

    def needs_tower(self, layers: int = 24) -> bool:
        """Whether a vision tower of so many layers has to run under the method's eyes: it reads it, or prunes in it."""
        return self.watches_tower() or bool(self.vision_layers(layers))

    # -- what a method says ----------------------------------------------------------------------------------------
    def cuts(self, layers: int) -> list[Cut]:
        """Where tokens leave in a decoder of `layers` layers, in ascending order."""
        raise TypeError(f"{type(self).__name__} does not say where it cuts; define cuts(layers)")

    def check(self, adapter: Adapter) -> None:
        """Raise a ValueError for what the method lacks on this model; called before anything runs."""

    def start(self, view: View) -> Any:
        """Called before layer 0, where view.hidden and view.text are the input embeddings; view.memo at every cut."""
        return None

    def score(self, view: View) -> Tensor:
        """One number per visual token [V], higher is kept; the mechanism debiases it afterwards."""
        raise TypeError(f"{type(self).__name__} does not score tokens; define score(view)")

    def select(self, score: Tensor, view: View) -> Tensor:
        """Sorted local indices of the tokens that stay, `view.count` of them."""
        return view.top(score, view.count)

    def merge(self, view: View, kept: Tensor) -> Merged | None:
        """Tokens that change or are added at this cut; None when the kept tokens continue unchanged."""
        return None

    def glances(self, layers: int) -> Sequence[int]:
        """Further layers of a vision tower's first `layers` whose attention the score reads: Patches.glances."""
        return ()

    def vision_layers(self, layers: int) -> Sequence[int]:
        """At which of a vision tower's first `layers` layers tokens leave (after attention, before the MLP)."""
        return ()

    def vision_merge(self, view: VisionView) -> Merged:
        """The tokens of one image that go on after such a layer; the same number for every image."""
        raise TypeError(f"{type(self).__name__} names vision layers; define vision_merge(view) too")

    # -- budgets -----------------------------------------------------------------------------------------------------
    def counts(self, layers: int, tokens: int) -> list[int]:
        """Tokens that stay after each cut, for an image of `tokens` tokens."""
        return [tokens_kept(cut.keep, tokens) for cut in self.cuts(layers)]

    def mean_count(self, layers: int, tokens: int) -> float:
        """Mean number of this image's tokens that enter a layer."""
        edges = [0, *(cut.layer for cut in self.cuts(layers)), layers]
        held = [tokens, *self.counts(layers, tokens)]
        return sum(n * (edges[i + 1] - edges[i]) for i, n in enumerate(held)) / layers

    def own_count(self, layers: int, tokens: int) -> float:
        """What the method's authors call its budget; by default the tokens after the last cut."""
        return float(self.counts(layers, tokens)[-1])

    @classmethod
    def matched(cls: type[M], mean: float, tokens: int = REFERENCE_TOKENS, layers: int = 32, **fields: Any) -> M:
        """The method with the `keep` whose mean tokens per layer comes closest to `mean`; makes budgets comparable."""
        candidates = []
        for keep in range(tokens + 1):
            try:
                candidates.append((abs(cls(keep=keep, **fields).mean_count(layers, tokens) - mean), keep))
            except ValueError:  # a schedule that cannot be that small
                continue
        if not candidates:
            raise ValueError(f"{cls.__name__} has no budget for {tokens} tokens in {layers} layers")
        return cls(keep=min(candidates)[1], **fields)
