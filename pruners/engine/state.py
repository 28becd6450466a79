"""What one `with` block knows of its model, and how far it has come: all that the parts of the engine share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pruners.engine.limits import checked
from pruners.engine.sequence import Segment
from pruners.method import Method
from pruners.models import Adapter
from pruners.view import Look


class State:
    """The model and its method stay; the rest is set back with every new prompt."""

    def __init__(self, pruner: Method, family: Adapter) -> None:
        self.pruner, self.adapter = pruner, family
        self.decoder = family.decoder
        self.layers: Sequence[Any] = list(family.decoder.layers)
        self.kernel: str = family.decoder.config._attn_implementation
        self.cuts = checked(pruner, len(self.layers))
        self.forget()

    def forget(self) -> None:
        """As before the first prompt."""
        self.segments: list[Segment] = []
        self.looks: list[dict[int, Look]] = [{} for _ in self.cuts]
        self.cache: Any = None
        self.ids: Tensor | None = None  # the prompt
        self.length = 0
        self.padded = False  # whether the prompt has padding, and with it a mask that the model makes for every layer
        self.step = 0  # of decoding; 0 is the prefill
        self.given: list[dict[str, Any]] = []  # what each layer gets in this step of decoding instead
        self.like: Any = None  # an empty tensor [1, 1, 0] of the model's kind
        self.beams = 1

    def at(self, number: int) -> Segment:
        """The segment that a layer belongs to."""
        return next(segment for segment in reversed(self.segments) if segment.start <= number)

    @property
    def renumbered(self) -> bool:
        """Whether what is left is numbered anew, without gaps."""
        return self.pruner.positions == "compact" and self.adapter.renumbers

    def decoding(
        self,
        segment: Segment,
        mask: Callable[[Segment], Tensor | None],
        rotary: Callable[[Segment], tuple[Tensor, Tensor]],
    ) -> dict[str, Any]:
        """What the layers of a segment get in a step of decoding, beside or in place of what the model gives them."""
        if not segment.cut:
            return {}
        changed: dict[str, Any] = {"attention_mask": mask(segment), "position_ids": None}
        if segment.columns is not None and self.renumbered:
            changed["position_embeddings"] = rotary(segment)
        return changed
