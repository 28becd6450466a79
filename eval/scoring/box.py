"""Boxes: finding a box in an answer, bringing it into the picture's pixels, and comparing two."""

from __future__ import annotations

import re
from collections.abc import Sequence

Box = tuple[float, float, float, float]  # x1, y1, x2, y2

_NUMBER = r"\s*([-+]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18}))\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")

FRAMES = ("original", "square")


def find_box(answer: str) -> Box | None:
    """The first four numbers in brackets."""
    match = _BOX.search(answer)
    return (float(match[1]), float(match[2]), float(match[3]), float(match[4])) if match else None


def to_pixels(box: Box, size: tuple[int, int], frame: str) -> Box:
    """An answer's box in pixels of the picture.

    Answers are in 0..1, or in 0..1000 (told by a sum of at least 4, as InternVL's script tells them). `frame` says what
    they are relative to: the `original` picture, or the `square` that LLaVA-1.5 pads it to.
    """
    if frame not in FRAMES:
        raise ValueError(f"expected the frame {' or '.join(FRAMES)}, found {frame!r}")
    width, height = size
    scale = 1000.0 if sum(box) >= 4 else 1.0
    x1, y1, x2, y2 = (value / scale for value in box)
    if frame == "original":
        return tidy((x1 * width, y1 * height, x2 * width, y2 * height), width, height)
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return tidy((x1 * side - left, y1 * side - top, x2 * side - left, y2 * side - top), width, height)


def from_pixels(box: Sequence[float], size: tuple[int, int], frame: str) -> Box:
    """A box in pixels of the picture as an answer says it, in 0..1 of `frame`."""
    width, height = size
    side = max(size)
    left, top, across, down = (0, 0, width, height)
    if frame == "square":
        left, top, across, down = (side - width) // 2, (side - height) // 2, side, side
    x1, y1, x2, y2 = box
    return (x1 + left) / across, (y1 + top) / down, (x2 + left) / across, (y2 + top) / down


def tidy(box: Sequence[float], width: float, height: float) -> Box:
    """Corners in order, and inside the picture."""
    x1, x2 = sorted(min(max(float(value), 0.0), width) for value in (box[0], box[2]))
    y1, y2 = sorted(min(max(float(value), 0.0), height) for value in (box[1], box[3]))
    return x1, y1, x2, y2


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes with corners in order; 0 where neither has an area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0
