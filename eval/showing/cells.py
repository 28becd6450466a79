"""What each visual token of a checkpoint shows."""

from __future__ import annotations

import math
from collections.abc import Callable

from eval.answering.checkpoints import config_of, folder_of, layout
from pruners.models import family, images
from pruners.parts.canvas import Canvas


def square(tokens: int | None) -> int:
    """The side of a square grid of so many tokens; 0 where they make none."""
    side = math.isqrt(tokens or 0)
    return side if side * side == tokens else 0


def canvas_of(model: str, max_patches: int | None = None) -> Callable[[tuple[int, int]], Canvas]:
    """(width, height) of a picture -> its canvas, for a checkpoint, which may have cut it into fewer tiles."""
    prepared = vars(images.settings(str(folder_of(model))))
    return family(layout(model).kind).canvas(config_of(model), prepared, max_patches)
