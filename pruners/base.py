"""A pruner: a frozen value that says what a method is, and a context manager over a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from debias import Debias, Trend
from pruners.engine.hooks import prune
from pruners.engine.prefix import Prefix
from pruners.engine.trace import Trace
from pruners.method import Method


@dataclass(frozen=True)
class Pruner(Method):
    """Base of all methods. Use: `with pruner(model, debias, sizes=...) as trace: model.generate(...)`."""

    def __call__(
        self,
        model: Any,
        debias: Debias | None = None,
        sizes: Sequence[tuple[int, int] | None] | None = None,
        prefix: Prefix | None = None,
        trends: Sequence[Trend] | None = None,
    ) -> AbstractContextManager[Trace]:
        """Prune `model` inside the block.

        Leave generate's use_cache on: without a cache every new token is a prompt of its own and ranks anew, which a
        warning says.

        model: a Hugging Face model, or its adapter.
        debias: what is done to the score; None: nothing.
        sizes: (width, height) before padding of every image of the batch, in prompt order; read only when `debias`
        silences padding.
        trends: one for every image of the batch, in place of the debias's (see pruners.blank).
        prefix: shared by blocks that ask the same batch in several arms; the layers before the first cut run once.

        The block's value is the Trace of its latest prefill.
        """
        return prune(self, model, debias if debias is not None else Debias(), sizes, prefix, trends)
