"""Content-free pictures: what a method's score is where there is nothing to see, as a trend to divide by or take off.

The score of a blank picture in a prompt of the same shape is position and nothing else. It is measured once for every
layout of a picture and length of a prompt, and costs nothing for the questions that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from debias import Debias, Reading, Span, Trend
from pruners.models import Adapter, Request
from pruners.models.request import Encoded, Size

FILLER = "Please describe the provided image. "  # its words, again and again, are the text of a prompt without content
SIDES = (28, 14, 32, 448)  # pixels of a token, in families whose pictures become as many tokens as they need
SQUARE = 336


class Blanks:
    """The trends of a method on a model for any batch: blanks(debias, batch) gives one a picture, in prompt order.

    Use: `with method(adapter, debias, sizes=batch.sizes, trends=blanks(debias, batch)) as trace: ...`, where
    `debias.trend` is a Trend.blank(...). What was measured is kept; `measured` counts it.
    """

    def __init__(self, adapter: Adapter, pruner: Any) -> None:
        if "trend" not in type(pruner).arms():
            raise ValueError(f"{type(pruner).__name__} has no trend to divide by, so a blank picture tells nothing")
        self.adapter, self.pruner = adapter, pruner
        self.measured = 0
        self._known: dict[Any, Tensor] = {}

    def __call__(self, debias: Debias, batch: Encoded, conversation: str | None = None) -> list[Trend]:
        """conversation: the template that the batch was encoded with, as in its requests."""
        if debias.trend is None or debias.trend.kind != "blank":
            raise ValueError(f"expected a debias with a Trend.blank(...); got {debias!r}")
        reading = debias.reads()
        return [
            debias.trend.measured_as(self.score(debias.trend.picture, span, behind, conversation, reading))
            for span, behind in shapes(self.adapter, batch)
        ]

    def score(
        self, picture: str, span: Span, behind: int, conversation: str | None = None, reading: Reading | None = None
    ) -> Tensor:
        """[V] the raw score at the first cut of a blank picture that lies as `span` does, `behind` tokens of text after
        it. Rounded to four digits, so that another process, whose sums differ in the last bit, finds the same."""
        reading = reading or Reading()
        key = picture, reading, span.grid, span.frames, span.total, behind, conversation
        if key not in self._known:
            self._known[key] = rounded(self._measure(picture, span, behind, conversation, reading))
            self.measured += 1
        return self._known[key]

    def _measure(self, picture: str, span: Span, behind: int, conversation: str | None, reading: Reading) -> Tensor:
        adapter = self.adapter
        inputs = prompt(adapter, picture, span, behind, conversation)
        with self.pruner(adapter, Debias(reading=reading)) as trace, torch.inference_mode():
            adapter.model(**inputs)
        scores = trace.scores[0][0]
        assert scores is not None
        raw: Tensor
        raw, _ = scores
        return raw.float().cpu()


def shapes(adapter: Adapter, batch: Encoded) -> list[tuple[Span, int]]:
    """(span, number of text tokens behind it) of every picture of a batch; a prompt may hold one."""
    ids: Tensor = batch.inputs["input_ids"]
    given = {name: value for name, value in batch.inputs.items() if name in adapter.media}
    places = []
    for row, spans in enumerate(adapter.spans({"input_ids": ids.cpu(), **given}, batch.sizes)):
        if len(spans) > 1:
            raise ValueError(f"prompt {row} holds {len(spans)} pictures; a blank trend needs prompts of one picture")
        places += [(span, ids.shape[1] - span.start - span.total) for span in spans]
    return places


def prompt(adapter: Adapter, picture: str, span: Span, behind: int, conversation: str | None) -> dict[str, Any]:
    """Inputs of a prompt without content: a blank picture that lies as `span` does, and `behind` tokens of text."""
    for size in dict.fromkeys([(SQUARE, SQUARE), *((span.grid[1] * side, span.grid[0] * side) for side in SIDES)]):
        shown = media(adapter, picture, size, span.frames)
        empty, word = (adapter.encode([Request(text, conversation=conversation, **shown)]) for text in ("", "a"))
        ((own, least),) = shapes(adapter, empty)
        if (own.grid, own.frames, own.total) == (span.grid, span.frames, span.total):
            break
    else:
        raise ValueError(
            f"no blank picture lies as this one does ({span.total} tokens, grid {span.grid}): models of type "
            f"{adapter.model.config.model_type} lay pictures out by their size; use --trend fitted or average"
        )
    ids = empty.inputs["input_ids"][0]
    at = first_difference(ids.tolist(), word.inputs["input_ids"][0].tolist())
    lacking = behind - least
    if at < own.start + own.total or lacking < 0:
        raise ValueError(f"a prompt of {behind} tokens behind its picture is not one of this model's prompts")
    words = adapter.tokenizer(FILLER, add_special_tokens=False).input_ids
    filler = torch.tensor([words[number % len(words)] for number in range(-lacking, 0)])
    ids = torch.cat([ids[:at], filler.to(ids), ids[at:]])[None]
    same = tuple(empty.inputs["input_ids"].shape)

    def longer(value: Any) -> Any:  # what says of each token which kind it is has one entry a token
        if not isinstance(value, Tensor) or value.is_floating_point() or tuple(value.shape) != same:
            return value
        text = value[:, -1:].expand(-1, lacking)
        return torch.cat([value[:, :at], text, value[:, at:]], 1)

    rest = {name: longer(value) for name, value in empty.inputs.items()}
    return {**rest, "input_ids": ids}


def media(adapter: Adapter, picture: str, size: Size, frames: int) -> dict[str, Any]:
    """What a request shows: a picture, or a clip that becomes as many frames of tokens."""
    image = blank(picture, size, adapter.setting("image_mean"))
    return {"images": [image]} if frames == 1 else {"video": [image] * (frames * adapter.joined_frames)}


def blank(picture: str, size: Size, mean: Sequence[float] = (0.5, 0.5, 0.5)) -> Image.Image:
    """A picture that shows nothing: black, of the mean colour that padding has, or noise (always the same)."""
    if picture == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        return Image.fromarray(pixels)
    return Image.new("RGB", size, (0, 0, 0) if picture == "black" else tuple(int(part * 255) for part in mean))


def first_difference(first: Sequence[int], other: Sequence[int]) -> int:
    """How far two lists agree."""
    return next(
        (at for at, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), min(len(first), len(other))
    )


def rounded(score: Tensor) -> Tensor:
    """Four significant digits."""
    return torch.tensor([float(f"{value:.4g}") for value in score.tolist()])
