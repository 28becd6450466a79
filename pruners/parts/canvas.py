"""What each visual token shows: its rectangle on the canvas that a model cuts a picture into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pruners.models.request import Size

Array = np.ndarray[Any, np.dtype[Any]]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2


@dataclass(frozen=True)
class Canvas:
    """size: (width, height). cells [tokens, 4]: x1 y1 x2 y2, without area for a token that shows no part of a picture.
    A picture's point p lies at p * scale + offset."""

    size: Size
    cells: Array
    scale: tuple[float, float]
    offset: tuple[float, float]

    def box(self, box: Box) -> Box:
        """A box of the picture, on the canvas."""
        (a, b), (x, y) = self.scale, self.offset
        return box[0] * a + x, box[1] * b + y, box[2] * a + x, box[3] * b + y


def grid(rows: int, columns: int, width: float, height: float, left: float = 0, top: float = 0) -> Array:
    """[rows * columns, 4] cells of a rectangle, in raster order."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    a, b = width / columns, height / rows
    return np.stack([left + x * a, top + y * b, left + (x + 1) * a, top + (y + 1) * b], 1)


def padded(size: Size, side: int) -> Canvas:
    """A picture in the middle of its square, of `side` tokens a row."""
    edge = max(size)
    offset = ((edge - size[0]) // 2, (edge - size[1]) // 2)
    return Canvas((edge, edge), grid(side, side, edge, edge), (1.0, 1.0), offset)


def tiled(size: Size, tiles: Size, edge: int, side: int) -> Canvas:
    """A picture stretched over (columns, rows) of tiles, row by row, with a thumbnail of all of it behind them."""
    columns, rows = tiles
    width, height = columns * edge, rows * edge
    corners = [(x * edge, y * edge) for y in range(rows) for x in range(columns)]
    cells = [grid(side, side, edge, edge, left, top) for left, top in corners]
    if len(corners) > 1:
        cells.append(grid(side, side, width, height))
    return Canvas((width, height), np.concatenate(cells), (width / size[0], height / size[1]), (0.0, 0.0))
