"""Where pictures stand in the ids of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from debias import Span

T = TypeVar("T")


def shared(rows: Sequence[Sequence[Any]], values: Sequence[T | None] | None) -> list[list[T | None]]:
    """What belongs to each row's media, from one value for each medium of the batch in prompt order.

    Beam search repeats rows; the repeated ones share their values. Without values there is None for each.
    """
    total = sum(map(len, rows))
    if values is None or not total:
        return [[None for _ in row] for row in rows]
    beams = max(total // max(len(values), 1), 1)
    repeated = all(row == rows[number // beams * beams] for number, row in enumerate(rows))
    if total != beams * len(values) or len(rows) % beams or not repeated:
        raise ValueError(f"the prompts hold {total} pictures or clips, but sizes or grids of {len(values)} were given")
    waiting = iter(values)
    return [row for first in rows[::beams] for row in [[next(waiting) for _ in first]] * beams]


def in_tiles(
    rows: Sequence[Sequence[tuple[int, int]]], sizes: Sequence[tuple[int, int] | None] | None, side: int
) -> list[list[Span]]:
    """The span of each picture, from where it starts in its row and its number of tiles of side x side tokens.

    Nothing of such a picture is padding; its size tells how its tiles lie.
    """
    return [
        [
            Span(start, (side, side), frames=tiles, size=size, fraction=torch.zeros(tiles * side**2))
            for (start, tiles), size in zip(row, known, strict=True)
        ]
        for row, known in zip(rows, shared(rows, sizes), strict=True)
    ]


def runs(row: Tensor, token: int) -> list[tuple[int, int]]:
    """(start, length) of every stretch of a token in one row of ids."""
    stretches: list[tuple[int, int]] = []
    for at in row.eq(token).nonzero()[:, 0].tolist():
        if stretches and at == sum(stretches[-1]):
            stretches[-1] = (stretches[-1][0], stretches[-1][1] + 1)
        else:
            stretches.append((at, 1))
    return stretches


def split(ids: Tensor, token: int, length: int) -> list[int]:
    """Where each picture of `length` tokens starts in one row of ids; some may stand side by side."""
    starts: list[int] = []
    for start, tokens in runs(ids, token):
        if tokens % length:
            raise ValueError(f"{tokens} image tokens side by side at {start}, but every picture or clip has {length}")
        starts += range(start, start + tokens, length)
    return starts
