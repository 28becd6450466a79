"""A decoding step compiled by torch.compile, as generate() does it with a static cache.

torch.compile does not look again at a module's hooks once it has compiled it. So inside a `with` block the model hands
out a step of its own, which is given what the hooks settle before a step done outside of it. That is all that differs
between blocks, so that a step compiled in one block serves the next one too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pruners.engine.limits import Unsupported
from pruners.engine.state import State

STEPS = 8  # compiled steps that are kept for one model: one for each method, batch size and length of the cache
_made: WeakKeyDictionary[Any, OrderedDict[Any, Any]] = WeakKeyDictionary()


class Lent:
    """What every layer gets instead, while a step is compiled: an input of the step, and nothing of a block's own."""

    given: tuple[dict[str, Any], ...] = ()


LENT = Lent()


class Compiled:
    """Stands in for model.get_compiled_call until it is removed."""

    def __init__(self, state: State, begin: Callable[..., Any], end: Callable[[], None]) -> None:
        model = state.adapter.model
        if hasattr(getattr(model, "forward", None), "_torchdynamo_orig_callable"):
            raise Unsupported(
                "the model's forward was compiled before pruning: leave it alone, and let generate() compile the step "
                "with cache_implementation='static'"
            )
        self.state, self.begin, self.end, self.model = state, begin, end, model
        self.options: dict[str, Any] = {}
        model.get_compiled_call = self.get

    def get(self, config: Any) -> Any:
        """What generate() calls for a step: the compiled step, or the model itself where no step repeats."""
        if self.state.pruner.mode == "mask":
            return self.model  # ranks anew at every step: there is no step that stays the same
        from transformers import CompileConfig

        self.options = (config or CompileConfig()).to_dict()
        return self.step

    def step(self, **inputs: Any) -> Any:
        """One step of decoding, compiled for the shapes that the inputs have."""
        _, inputs = self.begin((), inputs) or ((), inputs)
        out = self.made(inputs)(self.model, tuple(self.state.given), inputs)
        self.end()
        return out

    def made(self, inputs: dict[str, Any]) -> Any:
        """The compiled step for such inputs; the step that has not been asked for longest makes room."""
        lengths = tuple(getattr(layer, "max_cache_len", None) for layer in self.state.cache.layers)
        key = (self.state.pruner, repr(self.options), inputs["input_ids"].shape, lengths)
        steps = _made.setdefault(self.model, OrderedDict())
        if key not in steps:
            steps[key] = torch.compile(alone(), **self.options)
        steps.move_to_end(key)
        while len(steps) > STEPS:
            steps.popitem(last=False)
        return steps[key]

    def remove(self) -> None:
        """Give the model its own compiled call back."""
        del self.model.get_compiled_call


def alone() -> Any:
    """The model's call under code of its own, since what is compiled is kept by code."""

    def step(model: Any, given: tuple[dict[str, Any], ...], inputs: dict[str, Any]) -> Any:
        """One step of decoding, compiled for the shapes that the inputs have."""
        LENT.given = given
        out = model(**inputs)
        LENT.given = ()
        return out

    return FunctionType(step.__code__.replace(), globals(), step.__name__)
