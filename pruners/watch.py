"""Hooks on the decoder's layers, which are gone while the layers do right without them: most of decoding."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruners.hooks import Run


class Watch:
    """A module that has hooks takes longer to call, which adds up where the host cannot keep up with the device."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.handles: list[Any] = []

    def begin(self) -> None:
        if self.handles:
            return
        run = self.run
        for number in {number for cut in run.cuts for number in cut.looks}:
            attn = run.layers[number].self_attn
            self.handles.append(attn.register_forward_hook(partial(run.on_attention, number), with_kwargs=True))
        for number, layer in enumerate(run.layers):
            self.handles.append(layer.register_forward_pre_hook(partial(run.on_layer, number), with_kwargs=True))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []
