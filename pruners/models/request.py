"""A question with its pictures, and the left-padded batch that a model is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

Size = tuple[int, int]
IMAGE, VIDEO = "<image>", "<video>"


@dataclass
class Request:
    """One question. `text` may say with <image> and <video> where its media go; without them they go in front.

    Pictures and clips may also be given as an adapter made them ready (Shown).
    conversation: one of LLaVA's templates (vicuna_v1, llava_v1); families that know only their own use that.
    """

    text: str
    images: Sequence[Image.Image | Shown] = ()
    video: Sequence[Image.Image] | Shown | None = None
    conversation: str | None = None

    @property
    def media(self) -> dict[str, int]:
        """How many pictures and clips there are, by their marker."""
        return {IMAGE: len(self.images), VIDEO: int(self.video is not None)}


def asked(parts: Sequence[tuple[str, Any]]) -> Request:
    """A question from its parts in order: ("text", words), ("image", picture), ("video", frames).

    Media in front of all text go where the model's family puts them; others stay between the texts.
    """
    kinds = [kind for kind, _ in parts]
    mixed = "text" in kinds and any(kind != "text" for kind in kinds[kinds.index("text") :])
    marker = {"image": IMAGE, "video": VIDEO} if mixed else {"image": "", "video": ""}
    text = "".join(marker.get(kind, value) for kind, value in parts)
    images = [value for kind, value in parts if kind == "image"]
    return Request(text, images, next((value for kind, value in parts if kind == "video"), None))


@dataclass
class Encoded:
    """A left-padded batch: inputs for model.generate, and (width, height) of the source of every span in prompt order.

    A size is None where it could tell nothing, as for a clip that is never padded. A clip is one span, unless the
    family puts text between its frames.
    """

    inputs: dict[str, Any]
    sizes: list[Size | None] = field(default_factory=list)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Encoded:
        """On another device, the pixels as another dtype."""

        def moved(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            pixels = dtype if name.startswith("pixel_values") else None
            return value.to(device, pixels, non_blocking=value.is_pinned())

        return Encoded({name: moved(name, value) for name, value in self.inputs.items()}, self.sizes)

    def pinned(self) -> Encoded:
        """In page-locked memory, from which a GPU copies by itself."""
        inputs = {
            name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in self.inputs.items()
        }
        return Encoded(inputs, self.sizes)


@dataclass(frozen=True)
class Shown:
    """A picture or clip made ready: the ids that stand for it, what the model gets, the source's size for each span."""

    ids: list[int]
    inputs: dict[str, Tensor]
    sizes: Sequence[Size | None] = (None,)


def place(pieces: Iterable[str | Shown], tokenizer: Any) -> list[int]:
    """Ids of a prompt. Each piece of text is tokenized by itself, as LLaVA does: what a tokenizer does with the spaces
    around a special token differs between its versions, what it does at the start of a text does not."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, Shown):
            ids += piece.ids
        elif piece:
            ids += tokenizer(piece, add_special_tokens=False).input_ids
    return ids


def cut(text: str, media: Mapping[str, Sequence[Shown]]) -> list[str | Shown]:
    """The text in pieces, every marker replaced by its picture or clip."""
    pieces: list[str | Shown] = [text]
    for marker, shown in media.items():
        waiting = iter(shown)
        split: list[str | Shown] = []
        for piece in pieces:
            if isinstance(piece, Shown):
                split.append(piece)
                continue
            first, *rest = piece.split(marker) if shown else [piece]
            split.append(first)
            for part in rest:
                split += [next(waiting), part]
        pieces = split
    return pieces


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """input_ids and attention_mask of prompts of different lengths."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
