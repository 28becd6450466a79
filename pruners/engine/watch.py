"""Hooks on the decoder's layers in the prefill, and what is left of them while decoding: next to nothing.

A module that has hooks takes longer to call, and a mask takes longer to make than to look at, which adds up where the
host cannot keep up with the device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruners.engine.masks import segment_mask
from pruners.engine.recorder import Detour
from pruners.engine.sequence import Segment

if TYPE_CHECKING:
    from pruners.engine.hooks import Run

ROOM = 255  # further steps of decoding for which masks and rotary tables are made at once


class Watch:
    """While decoding, a layer behind a cut needs another mask, and where tokens were renumbered other rotary tables. It
    gets them on the way into its own forward; the model's own mask is replaced before the model makes it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
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
        run = self.run
        for number in {number for cut in run.cuts for number in cut.looks}:
            attn = run.layers[number].self_attn
            self.handles.append(attn.register_forward_hook(partial(run.on_attention, number), with_kwargs=True))
        for number, layer in enumerate(run.layers):
            self.handles.append(layer.register_forward_pre_hook(partial(run.on_layer, number), with_kwargs=True))

    def rest(self) -> None:
        """None of them, for decoding behind the prompt that the run has just read."""
        self.remove()
        run, self.resting = self.run, True
        if not run.segments:
            return
        # The model makes its own mask from the prompt's, whose padding a cut may have taken out of every cache.
        masked = run.kernel != "sdpa" or run.padded or any(segment.valid is not None for segment in run.segments)
        changed: dict[int, dict[str, Any]] = {}
        for number, layer in enumerate(run.layers):
            segment = run.at(number)
            if not segment.cut or not (masked or run.renumbered):
                continue
            if segment.start not in changed:
                changed[segment.start] = {"position_ids": None}
                self.lent.append((segment, changed[segment.start]))
            self.handles.append(Detour(layer, lending(layer.forward, changed[segment.start])))
        if masked and not run.kernel.startswith("flash"):
            self.handles.append(run.decoder.register_forward_pre_hook(self.on_decoder, with_kwargs=True))

    def step(self) -> None:
        """What the layers get in this step of decoding, settled before they run."""
        if not self.resting:
            self.rest()
        for segment, changed in self.lent:
            changed["attention_mask"] = self.mask(segment)
            if segment.columns is not None and self.run.renumbered:
                changed["position_embeddings"] = self.rotary(segment)

    def on_decoder(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The mask of the layers before the first cut, which the model would make anew from the prompt's."""
        return args, {**kwargs, "attention_mask": self.mask(self.run.at(0))}

    def mask(self, segment: Segment) -> Tensor | None:
        run, seen = self.run, segment.length + self.run.step
        made = self.masks.get(segment.start)
        if segment.start not in self.masks or (made is not None and made.shape[-1] < seen):
            valid = None if segment.valid is None else segment.valid.to(run.like.device)
            made = self.masks[segment.start] = segment_mask(run.kernel, run.like, valid, seen + ROOM)
        return None if made is None else made[..., :seen]

    def rotary(self, segment: Segment) -> tuple[Tensor, Tensor]:
        run, made = self.run, self.tables.get(segment.start)
        if made is None or not 0 <= run.step - made[0] < made[1].shape[1]:
            positions = segment.positions(run.step).to(run.like.device)
            if (
                getattr(run.decoder.rotary_emb, "rope_type", None) == "default"
            ):  # other kinds may heed the last position
                positions = positions + torch.arange(ROOM + 1, device=positions.device)
            made = self.tables[segment.start] = (run.step, *run.adapter.rotary(run.like, positions))
        first, cos, sin = made
        return cos[:, run.step - first, None], sin[:, run.step - first, None]

    def remove(self) -> None:
        for handle in reversed(self.handles):
            handle.remove()
        self.handles, self.lent, self.masks, self.tables, self.resting = [], [], {}, {}, False


def lending(forward: Callable[..., Any], changed: dict[str, Any]) -> Callable[..., Any]:
    def lent(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **{**kwargs, **changed})

    return lent
