"""The sequence as a stretch of decoder layers sees it, and how the next stretch's is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruners.base import Merged
from pruners.view import Tokens


@dataclass
class Segment:
    """Layers from `start` up to the next cut. Rows are left-padded to one length; `valid` hides the padding."""

    start: int
    length: int  # slots in every row
    images: list[list[Tokens]]  # per row
    text: list[Tensor]  # per row: slots of everything else that is real
    valid: Tensor | None = None  # [B, length]; None: every slot of every row is real
    columns: Tensor | None = None  # [B, length] the slot of the unpruned prompt; None: the same
    cut: bool = True  # False: the prompt as the model built it, whose own mask and tables are right
    rotary: tuple[Tensor, Tensor] | None = None  # tables of this forward pass, shared by the layers
    mask: tuple[Any] | None = None  # mask of this forward pass, shared by the layers

    @property
    def real(self) -> list[int]:
        """How many tokens each row has."""
        return [len(text) + sum(map(len, images)) for text, images in zip(self.text, self.images, strict=True)]

    def positions(self, step: int) -> Tensor:
        """[B, q] the tokens numbered without gaps: all of them in the prefill (step 0), later the newest."""
        if step:
            return torch.tensor(self.real, device=self.text[0].device)[:, None] + (step - 1)
        if self.valid is None:
            return torch.arange(self.length, device=self.text[0].device)[None]
        return (self.valid.cumsum(1) - 1).clamp(min=0)


@dataclass
class Choice:
    """What goes on of one image: the local indices of its tokens, or merged ones."""

    tokens: Tokens
    kept: Tensor
    merged: Merged | None = None
    scores: tuple[Tensor, Tensor] | None = None  # before and after debiasing

    @property
    def place(self) -> Tensor:
        return self.kept if self.merged is None else self.merged.place

    @property
    def own(self) -> Tensor | None:
        """[m] which of them are the image's own tokens; None: all."""
        mine = None if self.merged is None else self.merged.own
        before = None if self.tokens.own is None else self.tokens.own.index_select(0, self.place)
        return before if mine is None else (mine if before is None else mine & before)

    @property
    def order(self) -> Tensor:
        """[m] sort keys that put the tokens where the image stood; merged ones keep the order the method gave them."""
        if self.merged is not None and self.tokens.contiguous:
            if len(self.place) > len(self.tokens):
                raise ValueError(
                    f"a merge made {len(self.place)} tokens of {len(self.tokens)}; it may not add more than it drops"
                )
            return self.tokens.slots[: len(self.place)]
        return self.tokens.slots.index_select(0, self.place)

    def after(self, slots: Tensor, before: int) -> Tokens:
        """The image's tokens behind the cut."""
        raster = self.tokens.raster.index_select(0, self.place)
        return replace(self.tokens, span=self.tokens.span.at(raster), slots=slots, own=self.own, before=before)


def gather(segment: Segment, choices: Sequence[Sequence[Choice]], start: int) -> tuple[Segment, Tensor]:
    """The segment behind a cut, and the slots [B, n] it is made of. No size depends on data that is on the device."""
    sizes = [len(t) + sum(len(c.place) for c in row) for t, row in zip(segment.text, choices, strict=True)]
    length, columns, text, images = max(sizes), [], [], []
    for row, size, slots in zip(choices, sizes, segment.text, strict=True):
        fill = length - size
        source = torch.cat([slots, *(choice.tokens.slots.index_select(0, choice.place) for choice in row)])
        order = torch.cat([slots, *(choice.order for choice in row)]).argsort()
        where = torch.empty_like(order)
        where[order] = torch.arange(fill, length, device=order.device)
        columns.append(torch.nn.functional.pad(source[order], (fill, 0)))
        parts = torch.split(where, [len(slots), *(len(choice.place) for choice in row)])
        text.append(parts[0])
        counted, behind = 0, []
        for choice, part in zip(row, parts[1:], strict=True):
            behind.append(choice.after(part, counted))
            counted += len(part)
        images.append(behind)
    stacked = torch.stack(columns)
    return Segment(
        start, length, images, text, real_slots(sizes, length, stacked.device), compose(segment, stacked)
    ), stacked


def real_slots(sizes: Sequence[int], length: int, device: torch.device) -> Tensor | None:
    """[B, length] True where a left-padded row of so many tokens is real; None when no row is shorter."""
    if min(sizes) == length:
        return None
    first = torch.tensor([length - size for size in sizes], device=device)
    return torch.arange(length, device=device) >= first[:, None]


def compose(segment: Segment, columns: Tensor) -> Tensor:
    """Slots of this segment as slots of the unpruned prompt."""
    return columns if segment.columns is None else segment.columns.gather(1, columns)


def hide(segment: Segment, choices: Sequence[Sequence[Choice]], start: int) -> Segment:
    """The segment behind a cut that hides columns instead of removing tokens."""
    device = segment.text[0].device
    valid = (
        torch.ones(len(choices), segment.length, dtype=torch.bool, device=device)
        if segment.valid is None
        else segment.valid
    )
    valid, images = valid.clone(), []
    for number, row in enumerate(choices):
        counted, behind = 0, []
        for choice in row:
            if choice.merged is not None:
                raise ValueError("a method that merges tokens cannot run with mode='mask'")
            slots = choice.tokens.slots.index_select(0, choice.kept)
            valid[number, choice.tokens.slots] = False
            valid[number, slots] = True
            behind.append(choice.after(slots, counted))
            counted += len(slots)
        images.append(behind)
    return Segment(start, segment.length, images, segment.text, valid, segment.columns)


def take(states: Tensor, columns: Tensor) -> Tensor:
    """[B, n, D]: row b of `states` at columns[b]; `states` may have one row for all."""
    if len(columns) == 1:
        return states.index_select(1, columns[0])
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return states[rows if len(states) > 1 else rows * 0, columns]
