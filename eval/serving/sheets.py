"""What is drawn of a question's picture or clip: one picture, and where every visual token lies on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from debias import Span
from pruners.models import Request
from pruners.parts.canvas import Canvas

COLUMNS = 4  # of the frames of a clip
FRAME, GAP = 168, 4  # pixels along the longer side of a frame, and between two


class Sheet(NamedTuple):
    """A picture, and the cells of the tokens of all spans that show it, span after span."""

    picture: Image.Image
    canvas: Canvas


def sheet(adapter: Any, request: Request, spans: Sequence[Span]) -> Sheet:
    """The sheet of a question about one picture, or about one clip. spans: those of its tokens in the prompt."""
    video: Any = request.video
    if video is not None:
        return _clip(adapter, video, spans)
    picture: Any = request.images[0]
    config, prepared = adapter.model.config.to_dict(), vars(adapter.processor)
    return Sheet(picture, type(adapter).canvas(config, prepared)(picture.size))


def _clip(adapter: Any, frames: Sequence[Image.Image], spans: Sequence[Span]) -> Sheet:
    """The frames side by side, as the model sees them. Where several frames make one token, the first is shown."""
    groups = sum(span.frames for span in spans)
    deep = math.ceil(len(frames) / groups)
    shown = [adapter.window(frames[min(number * deep, len(frames) - 1)]) for number in range(groups)]
    zoom = FRAME / max(shown[0].size)
    width, height = (max(1, round(edge * zoom)) for edge in shown[0].size)
    across = min(COLUMNS, groups)
    down, right, below = math.ceil(groups / across), width + GAP, height + GAP
    size = across * right - GAP, down * below - GAP
    whole = Image.new("RGB", size, "white")
    for number, picture in enumerate(shown):
        whole.paste(picture.resize((width, height)), (number % across * right, number // across * below))
    cells, first = [], 0
    for span in spans:
        places, view = (axis.numpy() for axis in adapter.places(span))
        frame = view + first
        corner = np.stack([frame % across * right, frame // across * below], 1)
        rows, columns = span.grid
        step = np.array([width / columns, height / rows])
        patch = places[:, :1] >= 0
        low, high = corner + places * step, corner + (places + 1) * step
        cells.append(np.where(patch, np.concatenate([low, high], 1), 0.0))
        first += span.frames
    return Sheet(whole, Canvas(size, np.concatenate(cells), (1.0, 1.0), (0.0, 0.0)))
