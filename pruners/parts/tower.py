"""The vision tower of a family, as far as methods may see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Tower:
    """The vision tower: its encoder layers, the layer whose output is used, and whether token 0 is a CLS token.

    looks: the layer whose attention methods read; None: that whose output is used. It must be a layer in which every
    patch of a view sees every other.
    whole: all the layers in which it does; None: it always does.
    """

    module: Any
    layers: Sequence[Any]
    feature_layer: int
    cls: bool = True
    attention: str = "self_attn"  # the name of a layer's attention
    looks: int | None = None
    whole: Sequence[int] | None = None

    def seeing(self, layer: int) -> int:
        """The first layer from `layer` on in which every patch of a view sees every other."""
        return layer if self.whole is None else min([n for n in self.whole if n >= layer], default=self.looked_at)

    @property
    def looked_at(self) -> int:
        """The layer whose attention methods read."""
        return self.feature_layer if self.looks is None else self.looks


def layer_of(entry: int, layers: Sequence[Any]) -> int:
    """The number of the layer whose output is an entry of the hidden states; entry 0 is the embeddings."""
    return entry % (len(layers) + 1) - 1


def heads(attn: Any, which: str, states: Tensor) -> Tensor:
    """[h, n, c] queries ("q") or keys ("k") of normed [n, C]."""
    norm = getattr(attn, f"{which}_norm", None)
    projected: Tensor = getattr(attn, f"{which}_proj")(states)
    projected = projected if norm is None else norm(projected)
    return projected.view(len(states), -1, attn.head_dim).transpose(0, 1)
