"""A decoding step compiled by torch.compile, as generate() does it with a static cache.

torch.compile does not look again at a module's hooks once it has compiled it. So inside a `with` block the model hands
out a step of its own: compiled for this block alone, with what the hooks settle before a step done outside of it.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch

from pruners.limits import Unsupported

if TYPE_CHECKING:
    from pruners.hooks import Run


class Compiled:
    """Stands in for model.get_compiled_call until it is removed."""

    def __init__(self, run: Run, model: Any) -> None:
        if hasattr(getattr(model, "forward", None), "_torchdynamo_orig_callable"):
            raise Unsupported(
                "the model's forward was compiled before pruning: leave it alone, and let generate() compile the step "
                "with cache_implementation='static'"
            )
        self.run, self.model = run, model
        self.made: Any = None
        model.get_compiled_call = self.get

    def get(self, config: Any) -> Any:
        if self.run.pruner.mode == "mask":
            return self.model  # ranks anew at every step: there is no step that stays the same
        if self.made is None:
            from transformers import CompileConfig

            self.made = torch.compile(alone(self.model), **(config or CompileConfig()).to_dict())
        return self.step

    def step(self, **inputs: Any) -> Any:
        _, inputs = self.run.begin((), inputs) or ((), inputs)
        out = self.made(**inputs)
        self.run.end()
        return out

    def remove(self) -> None:
        del self.model.get_compiled_call


def alone(model: Any) -> Any:
    """The model's call under code of its own, since what is compiled is kept by code."""

    def step(**inputs: Any) -> Any:
        return model(**inputs)

    return FunctionType(step.__code__.replace(), globals(), step.__name__, None, step.__closure__)
