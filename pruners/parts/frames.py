"""Methods that compare the frames of a clip before the LLM, and a clip's tokens frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from debias import Span
from pruners.arms import Reads
from pruners.base import Pruner
from pruners.cut import Cut
from pruners.models.base import Adapter


@dataclass(frozen=True)
class OfClips(Pruner):
    """Base of methods that share a budget among the frames of a clip. A picture is a clip of one frame to them."""

    reads: ClassVar[Reads] = "tokens"
    of_clips: ClassVar[bool] = True

    @classmethod
    def serves(cls, family: type[Adapter]) -> bool:
        return family.takes_clips() and not family.frames_apart

    def check(self, adapter: Adapter) -> None:
        if not self.serves(type(adapter)):
            kind, name = adapter.model.config.model_type, type(self).__name__
            why = "have words between frames" if adapter.takes_clips() else "take pictures, not clips"
            raise ValueError(f"{name} shares a budget among the frames of a clip; models of type {kind} {why}")

    def cuts(self, layers: int) -> list[Cut]:
        return [Cut(0, self.keep)]


def numbers(span: Span, device: torch.device) -> Tensor:
    """[V] the frame of each token of an unpruned span; -1: a token behind the last frame, such as a newline."""
    frame = torch.arange(span.total, device=device) // (span.total // span.frames)
    return frame.masked_fill(frame >= span.frames, -1)


def apart(span: Span, values: Tensor) -> Tensor:
    """[frames, tokens of a frame, ...] of [V, ...] values of an unpruned span; without what follows the last frame."""
    tokens = span.total // span.frames
    laid: Tensor = values[: span.frames * tokens].unflatten(0, (span.frames, tokens))
    return laid
