"""The layers before the first cut, run once for a batch and handed to every arm that asks it.

No debias acts before the first cut, so all arms of a method agree there to the last bit. The first `with` block that is
given a Prefix fills it; a later block whose first layer would get the same states takes from it what those layers made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pruners.engine.limits import Unsupported
from pruners.engine.recorder import Detour
from pruners.engine.state import State
from pruners.engine.vision import states_of
from pruners.method import Method


class Prefix:
    """One batch's way to the first cut; another batch, model or method replaces it. `reused` counts the layers saved.

    with FastV(keep=128)(model, debias, sizes, prefix=prefix): model.generate(**inputs)
    """

    def __init__(self) -> None:
        self.reused = 0
        self.rows: Tensor | None = None  # the rows of the batch before that this block asks about; None: all of them
        self.forget()

    def forget(self) -> None:
        """Drop the held layers, so that the next prompt is computed whole."""
        self.wanted: list[Any] = []  # what has to be equal: the model, the layers, and what layer 0 gets
        self.replaying = False
        self.chosen: Tensor | None = None  # `rows`, where only they are replayed
        self.hidden: Any = None  # what the last of the layers made
        self.states: dict[int, Tensor] = {}  # normed inputs of the attentions that a score looks at
        self.held: dict[int, tuple[Tensor, Tensor]] = {}  # their keys and values

    def install(self, state: State, record: Callable[..., None]) -> list[Any]:
        """Hooks on the layers that may be shared; `record` takes down what a score will ask of an attention."""
        check_shared(state.pruner, len(state.layers))
        handles: list[Any] = []
        for number, layer in enumerate(state.layers[: state.cuts[0].layer]):
            if number in state.cuts[0].looks:
                note = partial(self._note, state, number)
                handles.append(layer.self_attn.register_forward_pre_hook(note, with_kwargs=True))
            handles.append(Detour(layer, partial(self._layer, state, record, number, layer.forward)))
        return handles

    def _note(self, state: State, number: int, attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling() and not state.step and state.segments:
            self.states[number] = states_of(args, kwargs)

    def _layer(
        self,
        state: State,
        record: Callable[..., None],
        number: int,
        layer: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if torch.compiler.is_compiling() or state.step or not state.segments:
            return layer(*args, **kwargs)
        if state.cache is None:
            raise Unsupported("arms share a prefix through the cache: leave use_cache on, or give no prefix")
        entering = states_of(args, kwargs)
        if number == 0:
            valid = state.segments[0].valid
            if valid is None:
                valid = entering.new_ones(entering.shape[:2], dtype=torch.bool)
            wanted = [
                state.decoder,
                state.cuts[0].layer,
                state.cuts[0].looks,
                entering,
                *kwargs["position_embeddings"],
                valid,
            ]
            for rows in (None, self.rows):
                self.chosen = rows
                self.replaying = same([self._chosen(part) for part in self.wanted], wanted)
                if self.replaying:
                    break
            else:
                self.forget()
                self.wanted = wanted
        if not self.replaying:
            out = layer(*args, **kwargs)
            held = state.cache.layers[number]
            static = hasattr(held, "max_cache_len")  # its tensors are written to again
            keys, values = (part[:, :, : state.length].clone() if static else part for part in (held.keys, held.values))
            self.held[number] = keys, values
            self.hidden = out
            return out
        state.cache.update(*map(self._chosen, self.held[number]), number)
        if number in self.states:
            seen = {
                "hidden_states": self._chosen(self.states[number]),
                "position_embeddings": kwargs["position_embeddings"],
            }
            record(number, state.layers[number].self_attn, (), seen)
        self.reused += 1
        if number < state.cuts[0].layer - 1:  # the next layer is replayed, too: only the shape of what it gets matters
            return (entering,) if isinstance(self.hidden, tuple) else entering
        if isinstance(self.hidden, tuple):
            return tuple(map(self._chosen, self.hidden))
        return self._chosen(self.hidden)

    def _chosen(self, part: Any) -> Any:
        """The rows that are replayed, of a tensor that has rows."""
        rows = self.chosen
        if rows is None or not isinstance(part, Tensor):
            return part
        return part.index_select(0, rows.to(part.device)) if int(rows.max()) < len(part) else part


def check_shared(pruner: Method, layers: int, tower: int = 24) -> None:
    """A ValueError that names a method whose arms have nothing in common."""
    name = type(pruner).__name__
    if pruner.vision_layers(tower):
        raise Unsupported(f"{name} prunes inside the vision tower, each arm its own tokens, so its arms share no layer")
    if not pruner.cuts(layers) or pruner.cuts(layers)[0].layer == 0:
        raise Unsupported(f"{name} takes tokens out before the first layer, so its arms share no layer")


def same(before: Sequence[Any], now: Sequence[Any]) -> bool:
    """Whether two lists hold equal tensors and equal or identical other things."""
    return len(before) == len(now) and all(map(_alike, before, now))


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and (a is b or bool(a == b))
