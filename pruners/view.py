"""What a method may look at: one image of one sequence at one cut. All lazy, on the model's device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from debias import Debias, Reading, Span
from debias.core import Terms
from debias.padding import sinks
from pruners.cut import Cut, Rows, top
from pruners.engine.attention import all_heads, allowed_columns, attended, attention_rows
from pruners.models.base import Adapter
from pruners.parts.patches import Patches


@dataclass
class Tokens:
    """One image of one row, as far as it is still there: where its tokens stand, and which raster cells they are."""

    row: int
    image: int  # number in the batch, in prompt order
    span: Span
    slots: Tensor  # [V] places in the row
    own: Tensor | None  # [V] False: a recycled or contextual token; None: all are the image's own
    before: int  # visual tokens of the row that stand before this image
    after: int  # text tokens of the row that follow this image
    contiguous: bool  # its tokens stand side by side
    whole: Tensor | None = None  # [span.total] True where there is no padding; None: nobody asked
    on_host: Tensor | None = None  # the same on the CPU
    here: Tensor | None = None  # `raster` on the CPU, where it is known there
    asked: Tensor | None = None  # ids of the text that follows this image, on the CPU
    memo: Any = None

    def __len__(self) -> int:
        return len(self.slots)

    def on(self, device: torch.device) -> Tokens:
        """The same on another device."""
        names = ("slots", "own", "whole", "memo")
        held: dict[str, Any] = {name: value for name in names if isinstance(value := getattr(self, name), Tensor)}
        return replace(self, **{name: value.to(device) for name, value in held.items()})

    @property
    def raster(self) -> Tensor:
        """[V] where each token lies in the grid of its picture, row by row."""
        return self.span.raster(self.slots.device)


@dataclass
class Look:
    """The attention of one layer, until a score asks for it: a few queries before rotation, and the way to the keys."""

    adapter: Adapter
    attn: Any
    kind: Rows
    rows: list[Tensor]  # per row of the batch [R]: the slots of the queries; not needed for "last"
    queries: list[Tensor]  # per row of the batch [R, H, d]
    rotary: tuple[Tensor, Tensor]  # cos, sin [1 or B, n, d]; of every column, or in a decoding step of the newest alone
    columns: int
    valid: Tensor | None  # [B, n]; None: no column is hidden
    cached: Any = None  # the cache's layer
    states: Tensor | None = None  # [B, n, D] the layer's normed input, where no cache holds its keys

    def keys(self, row: int, rotary: bool = True) -> Tensor:
        """[H_kv, n, d]"""
        cos, sin = self.rotary_of(row)
        if self.states is not None:
            fresh = self.adapter.keys(self.attn, self.states[row]).transpose(0, 1)
            return self.adapter.rotate(fresh, cos, sin) if rotary else fresh
        keys: Tensor = self.cached.keys[row, :, : self.columns]
        if rotary:
            return keys
        if len(cos) != self.columns:
            raise ValueError("keys before rotation are not at hand in a decoding step; use mode='gather'")
        return self.adapter.unrotate(keys.float(), cos.float(), sin.float())

    def values(self, row: int) -> Tensor:
        """[H_kv, n, d]"""
        if self.states is not None:
            return self.adapter.values(self.attn, self.states[row]).transpose(0, 1)
        values: Tensor = self.cached.values[row, :, : self.columns]
        return values

    def weights(self, tokens: Tokens, rotary: bool = True) -> Tensor:
        """[H, R, V] softmax weights of this image's query rows on its tokens."""
        weights = attention_rows(*self._asked(tokens, rotary))
        own = weights.index_select(2, tokens.slots.to(weights.device)).to(tokens.slots.device)
        return all_heads(own, self.adapter.model)

    def mean(self, tokens: Tokens, shares: Tensor | None) -> Tensor:
        """[V] the same, the mean of the heads, summed over the rows by their [R] shares."""
        query, keys, scale, allowed = self._asked(tokens, True)
        own = attended(query, keys, scale, tokens.slots.to(keys.device), allowed, shares)
        return all_heads(own[None].to(tokens.slots.device), self.adapter.model).mean(0)

    def _asked(self, tokens: Tokens, rotary: bool) -> tuple[Tensor, Tensor, float, Tensor | None]:
        """Query [H, R, d], keys [H_kv, n, d], scale, and which columns are allowed [R or 1, n]."""
        row = tokens.row
        query, (cos, sin) = self.queries[row], self.rotary_of(row)
        valid = None if self.valid is None else self.valid[row]
        if self.kind == "last":
            cos, sin = cos[-1:], sin[-1:]
            allowed = None if valid is None else valid[None]
        else:
            rows = self.rows[row]
            mine = slice(None)
            if self.kind == "text":  # recorded for the row's first image; a later image is followed by the last of them
                mine = slice(len(rows) - tokens.after, None)
            elif self.kind == "visual":
                mine = slice(tokens.before, tokens.before + len(tokens))
            rows, query = rows[mine], query[mine]
            cos, sin = cos.index_select(0, rows), sin.index_select(0, rows)
            allowed = allowed_columns(rows, self.columns, valid)
        query = query.transpose(0, 1)
        if rotary:
            query = self.adapter.rotate(query, cos, sin)
        return query, self.keys(row, rotary), self.adapter.scale(self.attn), allowed

    def rotary_of(self, row: int) -> tuple[Tensor, Tensor]:
        """[n, d] cosines and sines of one row of the batch."""
        cos, sin = self.rotary
        return cos[row if len(cos) > 1 else 0], sin[row if len(sin) > 1 else 0]


@dataclass
class View:
    """One image at one cut. V: its tokens still there. n: the whole sequence. R: query rows. H: heads."""

    cut: Cut
    stage: int  # number of the cut, from 0; -1 before the first layer
    layers: int  # depth of the decoder
    count: int  # how many tokens the budget allows
    tokens: Tokens
    adapter: Adapter
    debiaser: Debias
    # [n, D] the row's hidden states as they enter the layer, not normed; None in a decoding step
    sequence: Tensor | None
    text_slots: Tensor  # [T of the row]
    looks: Mapping[int, Look]
    patches: Patches | None = None
    turn: int = 0  # which cut this is to a debias: those of the vision tower's attention count below 0
    raw: Tensor | None = None  # the score before ...
    score: Tensor | None = None  # ... and after debiasing, for select and merge

    @property
    def reading(self) -> Reading:
        """How this cut's attention is read."""
        return self.debiaser.reads(self.turn)

    @property
    def sample(self) -> int:
        """The row of the batch that the image stands in."""
        return self.tokens.row

    @property
    def image(self) -> int:
        """The number of the image in prompt order."""
        return self.tokens.image

    @property
    def span(self) -> Span:
        """Where the image stood, with span.index = the raster index of every token still there."""
        return self.tokens.span

    @property
    def memo(self) -> Any:
        """What Pruner.start returned for this image."""
        return self.tokens.memo

    @cached_property
    def attention(self) -> Tensor:
        """[H, R, V] float32: softmax over the whole sequence (causal, padding hidden) of the rows the cut asks for."""
        return self.attend()

    def attend(self, layer: int | None = None, rotary: bool = True) -> Tensor:
        """The same for a layer of `cut.also`; rotary=False takes queries and keys before rotation."""
        weights = self._look(layer).weights(self.tokens, rotary and self.reading.rope)
        return self.reading.chosen(weights)

    def attended(self, shares: Tensor | None = None) -> Tensor:
        """[V] the mean over the heads of `attention`, and the sum over its rows by their [R] shares, for less."""
        if self.reading == Reading():
            return self._look(None).mean(self.tokens, shares)
        weights = self.attention if shares is None else self.attention * shares.to(self.attention)[:, None]
        return weights.sum(1).mean(0)

    @property
    def hidden(self) -> Tensor:
        """[V, D] the image's hidden states as they enter the layer."""
        return self._states(self.tokens.slots)

    @property
    def text(self) -> Tensor:
        """[T, D] hidden states of the text after the image; the order never changes, and rows="text" has R == T."""
        return self._states(self._after)

    @property
    def question(self) -> str:
        """The words after the image, without what the model's template puts behind a question."""
        assert self.tokens.asked is not None
        return self.adapter.question(self.tokens.asked)

    @property
    def keys(self) -> Tensor:
        """[H_kv, V, d] keys of the layer that is looked at, rotated unless the reading leaves that out."""
        return self._own(self._look(None).keys(self.sample, self.reading.rope))

    @property
    def text_keys(self) -> Tensor:
        """[H_kv, T, d] the same of the text after the image."""
        return self._at(self._after, self._look(None).keys(self.sample, self.reading.rope))

    @property
    def values(self) -> Tensor:
        """[H_kv, V, d] values of the layer that is looked at."""
        return self._own(self._look(None).values(self.sample))

    @property
    def text_values(self) -> Tensor:
        """[H_kv, T, d] the same of the text after the image."""
        return self._at(self._after, self._look(None).values(self.sample))

    @property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """[V, d] the cosines and the sines that the rotary embedding turns the image's queries and keys by."""
        slots = self.tokens.slots
        cos, sin = (table.index_select(0, slots.to(table.device)) for table in self._look(None).rotary_of(self.sample))
        return cos.to(slots.device), sin.to(slots.device)

    @property
    def valid(self) -> Tensor | None:
        """[V] False where a token is padding that this stage silences; None: nothing is."""
        debias = self.debiaser
        if self.tokens.whole is None or debias.padding is None or (self.turn > 0 and debias.stages == "first"):
            return None
        if not debias.padding.placed:
            return self._unsunk
        return self.tokens.whole.index_select(0, self.tokens.raster)

    @cached_property
    def _unsunk(self) -> Tensor:
        """[V] False where a token is an attention sink; nowhere where all are."""
        padding = self.debiaser.padding
        assert padding is not None
        sunk = sinks(self.hidden, self._states(self.text_slots[:1])[0], padding.threshold)
        return ~sunk | sunk.all()

    @property
    def valid_on_host(self) -> Tensor | None:
        """The same on the CPU, for sizes that depend on it. Nothing waits for the device while the image is whole."""
        valid = self.valid
        if valid is None:
            return None
        if not self.debiaser.padding.placed:  # type: ignore[union-attr]  # there is padding, where something is silenced
            return valid.cpu()
        known, here = self.tokens.on_host, self.tokens.here
        if known is not None and here is not None:
            return known[here]
        return known if self.span.index is None else valid.cpu()

    def top(self, score: Tensor, count: int) -> Tensor:
        """The `count` highest scores as sorted indices. Ties go to the earlier token; as released, where torch.topk
        puts them."""
        return top(score, count) if self.debiaser.release is None else score.topk(count).indices.sort().values

    def debias(self, score: Tensor, role: str = "select") -> Tensor:
        """This cut's debias of a score of its tokens, or of another order of them, such as one of recycling."""
        return self.debiaser(score, self.span, *self._turn(role))

    def terms(self, score: Tensor) -> Terms:
        """What `debias` does to a score, in numbers."""
        return self.debiaser.terms(score, self.span, *self._turn("select"))

    def _turn(self, role: str) -> tuple[int, str, Tensor | None]:
        """Which debias this is: the cut's number, the role, and [V] what is silenced where sizes cannot say."""
        role = "vision" if role == "select" and self.cut.source == "tower" else role
        sunk = self.debiaser.padding is not None and not self.debiaser.padding.placed
        return self.turn, role, self.valid if sunk else None

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Where each token's patch lies: (x, y) [V, 2] in the picture, and which picture (tile, frame) [V]."""
        xy, picture = (part.to(self.tokens.slots.device, non_blocking=True) for part in self.adapter.places(self.span))
        return xy.index_select(0, self.tokens.raster), picture.index_select(0, self.tokens.raster)

    @property
    def vision(self) -> Patches:
        """The vision tower's attention, features and keys, for methods with `reads = "vision"`."""
        if self.patches is None:
            raise ValueError('the vision tower was not recorded: set `reads = "vision"` on the pruner')
        return self.patches

    def project(self, features: Tensor) -> Tensor:
        """[m, C] features of the vision tower as [m, D] tokens of the language model."""
        return self.adapter.project(features) if len(features) else self.hidden[:0]

    @property
    def _after(self) -> Tensor:
        """[T] the slots of the text after the image."""
        return self.text_slots[len(self.text_slots) - self.tokens.after :]

    def _own(self, states: Tensor) -> Tensor:
        """[H_kv, V, d] the image's of [H_kv, n, d], of all heads."""
        return self._at(self.tokens.slots, states)

    def _at(self, slots: Tensor, states: Tensor) -> Tensor:
        return all_heads(states.index_select(1, slots.to(states.device)).to(slots.device), self.adapter.model)

    def _states(self, slots: Tensor) -> Tensor:
        if self.sequence is None:
            raise ValueError("hidden states of the prompt are not at hand in a decoding step; use mode='gather'")
        return self.sequence.index_select(0, slots)

    def _look(self, layer: int | None) -> Look:
        if layer is None:
            layer = self.cut.layer if self.cut.source == "same" else self.cut.layer - 1
        if layer < 0:
            raise ValueError("there is no attention before layer 0: cut before a later layer, or use source='same'")
        if layer not in self.looks:
            raise ValueError(f"the attention of layer {layer} was not recorded for {self.cut}; name it in Cut.also")
        return self.looks[layer]


@dataclass
class VisionView:
    """One image inside the vision tower, after the attention of one layer and before its MLP. n: its tokens there."""

    layer: int
    stage: int  # number of this layer among those where tokens leave
    stages: int  # how many such layers there are
    total: int  # patches of the whole image
    hidden: Tensor  # [n, C]
    query: Tensor  # [h, n, c] of the layer's attention, not scaled
    keys: Tensor  # [h, n, c]
    scale: float  # of their products
    size: Tensor  # [n] how many patches each token stands for
    cls: int  # 1: the first token is the tower's CLS token; 0: it has none
    index: Tensor  # [n] raster index; -1: the CLS token
    valid: Tensor | None  # [n] False where a token is padding; None: nobody asked

    @property
    def attention(self) -> Tensor:
        """[h, n, n] float32"""
        return (self.query.float() @ self.keys.float().transpose(1, 2) * self.scale).softmax(-1)
