"""What the vision tower saw in one run, read by the adapter's rules.

Every attention kernel will do: the few weights that are wanted are computed again from the layer's own projections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from debias import Span
from pruners.models import Adapter
from pruners.parts.patches import Patches, joined

ROOM = 1 << 25  # attention weights held at once


@dataclass
class Seen:
    """One run of the tower over pictures or frames."""

    states: Tensor  # [rows, N, C] normed input of the attention that is read; packed [n, C] where a family has no rows
    tables: tuple[Tensor, Tensor] | None  # cos and sin [n, c], where the tower turns its queries and keys
    glanced: list[tuple[int, Tensor]]  # (layer, states) of further layers whose attention is read
    features: Tensor | None = None  # what the tower handed on, of the same shape as `states`

    @property
    def held(self) -> int:
        """Rows of the tower's batch, or patches where they are packed."""
        return len(self.states)


def held(adapter: Adapter, span: Span) -> int:
    """How much of a run belongs to a span, counted as `Seen.held` counts."""
    return adapter.views(span) * (adapter.packed(span) or 1)


def patches(adapter: Adapter, attn: Callable[[int], Any], seen: Seen, start: int, span: Span) -> Patches:
    """What the tower knows of the span whose rows (or packed patches) begin at `start`, token by token.

    attn: the attention of a layer of the tower.
    """
    parts = [_view(adapter, attn, *part) for part in _rows(adapter, seen, start, span)]
    shown = adapter.shows(span)
    if len(parts) == 1 and torch.equal(shown, torch.arange(len(shown))):
        return parts[0]
    return adapter.blended(joined(parts, shown), span)


Row = tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None, list[tuple[int, Tensor]]]


def _rows(adapter: Adapter, seen: Seen, start: int, span: Span) -> Sequence[Row]:
    """(states, features, tables, glanced) of every view of a span, in raster order."""
    assert seen.features is not None
    length = adapter.packed(span)
    if length is None:
        return [
            (seen.states[row], seen.features[row], None, [(number, states[row]) for number, states in seen.glanced])
            for row in range(start, start + adapter.views(span))
        ]
    rows: list[Row] = []
    for first in range(start, start + held(adapter, span), length):

        def mine(states: Tensor, first: int = first) -> Tensor:
            return adapter.ordered(span, states[first : first + length])

        tables = None if seen.tables is None else (mine(seen.tables[0]), mine(seen.tables[1]))
        glanced = [(number, mine(states)) for number, states in seen.glanced]
        rows.append((mine(seen.states), mine(seen.features), tables, glanced))
    return rows


def _view(
    adapter: Adapter,
    attn: Callable[[int], Any],
    states: Tensor,
    features: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    glanced: list[tuple[int, Tensor]],
) -> Patches:
    """One view by itself."""
    cls = int(adapter.tower.cls)

    def weights(number: int, states: Tensor) -> tuple[Tensor, Tensor]:
        query, key, plain = adapter.looking(attn(number), states[:1] if cls else states, states, tables)
        return received(query, key, adapter.looking_scale(attn(number)))[:, cls:], plain[:, cls:]

    attention, keys = weights(adapter.tower.looked_at, states)
    patches = Patches(attention, features[cls:], keys, features[0] if cls else None)
    others = (replace(patches, attention=weights(number, states)[0]) for number, states in glanced)
    return replace(adapter.joined(patches), glances=tuple(adapter.joined(other).attention for other in others))


def received(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """[h, n] the mean weight that the queries [h, q, c] put on each key [h, n, c]; not all weights at once."""
    at_once = max(1, ROOM // (key.shape[0] * key.shape[1]))
    turned = key.float().transpose(1, 2)
    total = turned.new_zeros(key.shape[:2])  # float32, as what is added
    for part in query.split(at_once, 1):
        total = total + (part.float() @ turned * scale).softmax(-1).sum(1)
    return total / query.shape[1]
