"""Hooks on the decoder's layers in the prefill, and what is left of them while decoding: next to nothing.

A module that has hooks takes longer to call, and a mask takes longer to make than to look at, which adds up where the
host cannot keep up with the device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pruners.engine.masks import segment_mask
from pruners.engine.recorder import Detour
from pruners.engine.sequence import Segment
from pruners.engine.state import State

ROOM = 255  # further steps of decoding for which masks and rotary tables are made at once


class Watch:
    """While decoding, a layer behind a cut needs another mask, and where tokens were renumbered other rotary tables. It
    gets them on the way into its own forward; the model's own mask is replaced before the model makes it.
    """

    def __init__(self, state: State, on_layer: Callable[..., Any], on_attention: Callable[..., Any]) -> None:
        self.state, self.on_layer, self.on_attention = state, on_layer, on_attention
        self.handles: list[Any] = []
        self.resting = False
        self.lent: list[tuple[Segment, dict[str, Any]]] = []  # what the layers of a segment get instead
        # By the segment's first layer, for steps to come too:
        self.masks: dict[int, Tensor | None] = {}
        self.tables: dict[int, tuple[int, Tensor, Tensor]] = {}  # their first step, cos, sin

    def begin(self) -> None:
        """Hooks on every layer, for a prefill."""
        if self.handles and not self.resting:
            return
        self.remove()
        state = self.state
        for number in {number for cut in state.cuts for number in cut.looks}:
            attn = state.layers[number].self_attn
            self.handles.append(attn.register_forward_hook(partial(self.on_attention, number), with_kwargs=True))
        for number, layer in enumerate(state.layers):
            self.handles.append(layer.register_forward_pre_hook(partial(self.on_layer, number), with_kwargs=True))

    def rest(self) -> None:
        """None of them, for decoding behind the prompt that the run has just read."""
        self.remove()
        state, self.resting = self.state, True
        if not state.segments:
            return
        # The model makes its own mask from the prompt's, whose padding a cut may have taken out of every cache.
        masked = state.kernel != "sdpa" or state.padded or any(segment.valid is not None for segment in state.segments)
        changed: dict[int, dict[str, Any]] = {}
        for number, layer in enumerate(state.layers):
            segment = state.at(number)
            if not segment.cut or not (masked or state.renumbered):
                continue
            if segment.start not in changed:
                changed[segment.start] = {}
                self.lent.append((segment, changed[segment.start]))
            self.handles.append(Detour(layer, lending(layer.forward, changed[segment.start])))
        if masked and not state.kernel.startswith("flash"):
            self.handles.append(state.decoder.register_forward_pre_hook(self.on_decoder, with_kwargs=True))

    def step(self) -> None:
        """What the layers get in this step of decoding, settled before they run."""
        if not self.resting:
            self.rest()
        for segment, changed in self.lent:
            changed.update(self.state.decoding(segment, self.mask, self.rotary))

    def on_decoder(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The mask of the layers before the first cut, which the model would make anew from the prompt's."""
        return args, {**kwargs, "attention_mask": self.mask(self.state.at(0))}

    def mask(self, segment: Segment) -> Tensor | None:
        """The mask of a segment for this step: a slice of one that is made for many steps at once."""
        state, seen = self.state, segment.length + self.state.step
        made = self.masks.get(segment.start)
        if segment.start not in self.masks or (made is not None and made.shape[-1] < seen):
            valid = None if segment.valid is None else segment.valid.to(state.like.device)
            made = self.masks[segment.start] = segment_mask(state.kernel, state.like, valid, seen + ROOM)
        return None if made is None else made[..., :seen]

    def rotary(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """(cos, sin) of a segment's next position: a slice of tables that are made for many steps at once."""
        state, made = self.state, self.tables.get(segment.start)
        if made is None or not 0 <= state.step - made[0] < made[-1].shape[1]:
            positions = segment.positions(state.step).to(state.like.device)
            if (
                getattr(state.decoder.rotary_emb, "rope_type", None) == "default"
            ):  # other kinds may heed the last position
                positions = positions + torch.arange(ROOM + 1, device=positions.device)
            made = self.tables[segment.start] = (state.step, *state.adapter.rotary(state.like, positions))
        first, cos, sin = made
        return cos[:, state.step - first, None], sin[:, state.step - first, None]

    def remove(self) -> None:
        """Take everything off the layers and the decoder."""
        for handle in reversed(self.handles):
            handle.remove()
        self.handles, self.lent, self.masks, self.tables, self.resting = [], [], {}, {}, False


def lending(forward: Callable[..., Any], changed: dict[str, Any]) -> Callable[..., Any]:
    """`forward` with some arguments replaced by `changed`."""

    def lent(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **{**kwargs, **changed})

    return lent
