"""What each visual token shows: its rectangle on the canvas that a model cuts a picture into."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.answering.checkpoints import config_of, folder_of, layout
from eval.scoring.box import Box
from pruners.models import images

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Canvas:
    """size: (width, height). cells [tokens, 4]: x1 y1 x2 y2. A picture's point p lies at p * scale + offset."""

    size: tuple[int, int]
    cells: Array
    scale: tuple[float, float]
    offset: tuple[float, float]

    def box(self, box: Box) -> Box:
        (a, b), (x, y) = self.scale, self.offset
        return box[0] * a + x, box[1] * b + y, box[2] * a + x, box[3] * b + y


def canvas_of(model: str, max_patches: int | None = None) -> Callable[[tuple[int, int]], Canvas]:
    """(width, height) of a picture -> its canvas, for a checkpoint; InternVL may have cut it into fewer tiles."""
    kind, config = layout(model), config_of(model)
    if kind.kind == "internvl":
        edge = config["vision_config"]["image_size"]
        edge = edge[0] if isinstance(edge, list) else edge
        side = math.isqrt(int(config["image_seq_length"]))
        said = images.config(str(folder_of(model)), "preprocessor_config.json")
        least, most = int(said.get("min_patches", 1)), max_patches or int(said.get("max_patches", 12))
        return lambda size: tiled(size, int(edge), side, least, most)
    if kind.tokens is None:
        raise ValueError(
            f"where {kind.kind}'s tokens lie in a picture is not worked out; expected LLaVA-1.5 or InternVL"
        )
    side = math.isqrt(kind.tokens)
    return lambda size: padded(size, side)


def grid(rows: int, columns: int, width: float, height: float, left: float = 0, top: float = 0) -> Array:
    """[rows * columns, 4] cells of a rectangle, in raster order."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    a, b = width / columns, height / rows
    return np.stack([left + x * a, top + y * b, left + (x + 1) * a, top + (y + 1) * b], 1)


def padded(size: tuple[int, int], side: int) -> Canvas:
    """A picture in the middle of its square, as LLaVA-1.5 pads it."""
    edge = max(size)
    offset = ((edge - size[0]) // 2, (edge - size[1]) // 2)
    return Canvas((edge, edge), grid(side, side, edge, edge), (1.0, 1.0), offset)


def tiled(size: tuple[int, int], edge: int, side: int, least: int = 1, most: int = 12) -> Canvas:
    """A picture stretched over tiles, row by row, with a thumbnail of all of it behind them."""
    from pruners.models.internvl import arranged

    columns, rows = arranged(size, edge, least, most)
    width, height = columns * edge, rows * edge
    corners = [(x * edge, y * edge) for y in range(rows) for x in range(columns)]
    cells = [grid(side, side, edge, edge, left, top) for left, top in corners]
    if len(corners) > 1:
        cells.append(grid(side, side, width, height))
    return Canvas((width, height), np.concatenate(cells), (width / size[0], height / size[1]), (0.0, 0.0))
