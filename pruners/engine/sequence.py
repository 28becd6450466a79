"""The sequence as a stretch of decoder layers sees it, and how the next stretch's is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from debias import Debias, Padding, Span
from pruners.cut import Cut, Merged
from pruners.engine.limits import Unsupported
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

    def on(self, device: torch.device) -> Segment:
        """The same on another device, for a model that is spread over several."""
        if not self.text or self.text[0].device == device:
            return self

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        images = [[tokens.on(device) for tokens in row] for row in self.images]
        text, valid, columns = [moved(slots) for slots in self.text], moved(self.valid), moved(self.columns)
        return replace(self, images=images, text=text, valid=valid, columns=columns, rotary=None, mask=None)

    def positions(self, step: int) -> Tensor:
        """[B, q] the tokens numbered without gaps: all of them in the prefill (step 0), later the newest."""
        if step:
            return torch.tensor(self.real).to(self.text[0].device, non_blocking=True)[:, None] + (step - 1)
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
        """[m] which tokens of the cut the kept ones stand in for, and whose positions they have."""
        return self.kept if self.merged is None else self.merged.place

    @property
    def unmerged(self) -> Tensor | None:
        """[m] which of them are the image's own tokens; None: all."""
        mine = None if self.merged is None else self.merged.own
        before = None if self.tokens.own is None else self.tokens.own.index_select(0, self.place)
        return before if mine is None else (mine if before is None else mine & before)

    @property
    def order(self) -> Tensor:
        """[m] sort keys that put the tokens where the image stood; merged tokens keep the method's order."""
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
        return replace(self.tokens, span=self.tokens.span.at(raster), slots=slots, own=self.unmerged, before=before)


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
    first = torch.tensor([length - size for size in sizes]).to(device, non_blocking=True)
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


def first_segment(
    spans: list[list[Span]],
    places: list[list[Tensor]],
    real: Tensor | None,
    ids: Tensor,
    beams: int,
    debias: Debias,
    read: Tensor | None = None,
) -> Segment:
    """The prompt as the model got it. read: `ids` on the CPU."""
    device, late = ids.device, 0 if debias.release is None else debias.release.late
    places = [[at + late for at in row] for row in places]  # as released, the first text token counts as a patch
    images: list[list[Tokens]] = []
    text = []
    for row, (here, slots) in enumerate(zip(spans, places, strict=True)):
        if slots and int(slots[-1][-1]) >= ids.shape[1] - 1:
            raise Unsupported(
                f"row {row} ends with a picture or clip; the answer is read at its last token, which a cut might take "
                "out: put text behind it, as the model's chat template does"
            )
        free = torch.ones(ids.shape[1], dtype=torch.bool) if real is None else real[row % len(real)].clone()
        free[torch.cat(slots) if slots else []] = False
        words, counted = free.nonzero()[:, 0], 0
        number = sum(len(spans[other]) for other in range(0, row // beams * beams, beams))
        images.append([])
        for image, (span, at) in enumerate(zip(here, slots, strict=True), number):
            whole = None if debias.padding is None else unpadded(debias.padding, span)
            images[row].append(
                Tokens(
                    row=row,
                    image=image,
                    span=span,
                    slots=at.to(device, non_blocking=True),
                    own=None,
                    before=counted,
                    after=int((words > at[-1]).sum()),
                    asked=None if read is None else read[row, words[words > at[-1]]],
                    contiguous=int(at[-1] - at[0]) == len(at) - 1,
                    whole=None if whole is None else whole.to(device, non_blocking=True),
                    on_host=whole,
                )
            )
            counted += len(at)
        text.append(words.to(device, non_blocking=True))
    valid = None if real is None else real.to(device, non_blocking=True).expand(len(ids), -1)
    return Segment(0, ids.shape[1], images, text, valid, cut=False)


def unpadded(padding: Padding, span: Span) -> Tensor:
    """[total] True where a token is not padding. Where all would be, the debias silences none, and neither is this."""
    whole = padding.whole(span)
    return whole if bool(whole.any()) else ~whole


def real_columns(mask: Any, length: int) -> Tensor | None:
    """[B, length] on the CPU: which tokens of the prompt are not padding; None when all are."""
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    if mask.dim() == 4:  # built for a static cache: what the last token sees, True or a 0 that is added to its score
        seen = mask[:, 0, -1, :length]
        mask = seen == 0 if seen.is_floating_point() else seen
    real: Tensor = mask.bool().cpu()
    if bool(real.all()):
        return None
    if not bool((real[:, -1]).all()) or bool((real[:, :-1] & ~real[:, 1:]).any()):
        raise Unsupported("padding must be on the left: set tokenizer.padding_side = 'left'")
    return real


def query_rows(cut: Cut, segment: Segment) -> list[Tensor]:
    """Per row of the batch, the slots of the queries that a cut asks for."""
    rows = []
    for text, images in zip(segment.text, segment.images, strict=True):
        if cut.rows == "all":
            rows.append(torch.arange(segment.length, device=text.device))
        elif cut.rows == "text":
            rows.append(text[len(text) - images[0].after :] if images else text[:0])
        else:
            rows.append(torch.cat([tokens.slots for tokens in images]) if images else text[:0])
    return rows


def shrink(cache: Any, number: int, columns: Tensor) -> None:
    """Leave only some columns in the cache of a layer."""
    if cache is None:
        return
    held = cache.layers[number]
    for name in ("keys", "values"):
        states = getattr(held, name)
        columns = columns.to(states.device)
        kept = states.gather(2, columns[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))
        if hasattr(held, "max_cache_len"):
            states[:, :, : columns.shape[1]] = kept
        else:
            setattr(held, name, kept)
    if hasattr(held, "max_cache_len"):
        held.cumulative_length.fill_(columns.shape[1])
