"""LLaVA-NeXT (1.6): the picture squashed to a square, then tiles of a canvas on which it lies between black borders.

The model cuts the borders off the canvas in whole patches and ends each of its rows with a newline token.
https://llava-vl.github.io/blog/2024-01-30-llava-next
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from debias import Span
from debias.padding import canvas_fraction
from pruners.models import images
from pruners.models.base import Features, Opens
from pruners.models.finding import shared
from pruners.models.llava import Llava
from pruners.models.request import Shown, Size
from pruners.parts.canvas import Canvas, grid

Canvases = tuple[tuple[int, int], ...]  # (height, width) each, as in image_grid_pinpoints


class Placement(NamedTuple):
    """A picture on its canvas, in pixels."""

    canvas: Size
    shown: Size
    left: int
    top: int


class PictureTokens(NamedTuple):
    """The tokens of one picture: base view first, then the canvas without its border."""

    fraction: Tensor  # [length] share of the patch that is border
    newline: Tensor  # [length]
    xy: Tensor  # [length, 2] (column, row) in its view
    view: Tensor  # [length] 0: base view, 1: canvas


class LlavaNext(Llava):
    """With a single canvas in the config's image_grid_pinpoints, as VisPruner runs it ([[672, 672]]), the border stays:
    the model is told that the picture fills the canvas."""

    opens: ClassVar[Opens] = "views"
    features: ClassVar[Features] = "together"
    one_square: ClassVar[bool] = False  # the canvas, and what of it is border, follow the picture's shape
    fills: ClassVar[bool] = False
    known: ClassVar[tuple[str, ...]] = ("llava-hf/llava-v1.6-vicuna-7b-hf", "llava-hf/llava-v1.6-vicuna-13b-hf")
    media: ClassVar[tuple[str, ...]] = ("image_sizes",)

    @classmethod
    def canvas(
        cls, config: Mapping[str, Any], prepared: Mapping[str, Any], max_patches: int | None = None
    ) -> Callable[[Size], Canvas]:
        """The tokens of the base view lie over the picture, each over more of it; newlines lie nowhere."""
        vision = config["vision_config"]
        edge, patch = int(vision["image_size"]), int(vision["patch_size"])
        canvases = tuple((int(height), int(width)) for height, width in config["image_grid_pinpoints"])

        def laid(size: Size) -> Canvas:
            fit = fitted(size, canvases)
            told = fit.canvas if len(canvases) == 1 else size
            picture, (width, height) = layout(size, told, canvases, edge, patch), fit.shown
            corners = picture.xy.numpy() * patch
            cells = np.concatenate([corners, corners + patch], 1).astype(float)
            cells[picture.newline.numpy()] = 0
            cells[: (edge // patch) ** 2] = grid(edge // patch, edge // patch, width, height, fit.left, fit.top)
            return Canvas(fit.canvas, cells, (width / size[0], height / size[1]), (fit.left, fit.top))

        return laid

    @property
    def conversations(self) -> tuple[str, ...]:
        if self.model.config.text_config.model_type == "mistral":
            return ("mistral_instruct",)
        return super().conversations

    @property
    def canvases(self) -> Canvases:
        """(height, width) of every canvas that the model may lay a picture on."""
        return tuple((int(height), int(width)) for height, width in self.model.config.image_grid_pinpoints)

    def views(self, span: Span) -> int:
        assert span.size is not None  # spans() always sets it
        across, down = fitted(span.size, self.canvases).canvas
        edge = int(self.model.config.vision_config.image_size)
        return 1 + (across // edge) * (down // edge)

    def shows(self, span: Span) -> Tensor:
        return self.tiled(span, *self.places(span))

    def tiled(self, span: Span, xy: Tensor, view: Tensor) -> Tensor:
        """Which patch lies at each place: they are laid end to end tile by tile, tokens row by row of the canvas."""
        assert span.size is not None
        side, (x, y) = self.side, xy.unbind(-1)
        across, _ = fitted(span.size, self.canvases).canvas
        tiles = across // int(self.model.config.vision_config.image_size)
        tile = torch.where(view == 0, 0, 1 + y // side * tiles + x // side)
        patch = tile * side**2 + y % side * side + x % side
        return patch.masked_fill(x < 0, -1)

    def layout(self, size: Size, told: Size) -> PictureTokens:
        """Of a picture of `size`; `told` is the size that the model was given."""
        vision = self.model.config.vision_config
        return layout(size, told, self.canvases, int(vision.image_size), int(vision.patch_size))

    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        ids, token = inputs["input_ids"], int(self.model.config.image_token_id)
        given = inputs.get("image_sizes")
        told = [(int(width), int(height)) for height, width in given.tolist()] if given is not None else []
        real = [known or size for size, (known,) in zip(told, shared([[size] for size in told], sizes), strict=True)]
        laid = [*map(self.layout, real, told)]
        rows: list[list[Span]] = [[] for _ in ids]
        for row, image, places in deal(ids, token, [len(picture.newline) for picture in laid]):
            picture = laid[image]
            grid = (self.side, self.side)
            rows[row].append(
                Span(
                    int(places[0]),
                    grid,
                    size=real[image],
                    fraction=picture.fraction,
                    special=picture.newline,
                )
            )
        return rows

    def places(self, span: Span) -> tuple[Tensor, Tensor]:
        assert span.size is not None  # spans() always sets it
        return self.layout(span.size, self.size_for_model(span.size))[2:]

    def size_for_model(self, size: Size) -> Size:
        """The size that the model is told of a picture of `size`."""
        return self.canvases[0][::-1] if len(self.canvases) == 1 else size

    def picture(self, image: Image.Image) -> Shown:
        image, edge = image.convert("RGB"), int(self.model.config.vision_config.image_size)
        fit = fitted(image.size, self.canvases)
        told = self.size_for_model(image.size)
        canvas = Image.new("RGB", fit.canvas)
        canvas.paste(images.resized(image, fit.shown), (fit.left, fit.top))
        views = [image, *images.tiles(canvas, edge)]
        token = int(self.model.config.image_token_id)
        length = len(self.layout(image.size, told).newline)
        inputs = {
            "pixel_values": torch.stack([self.pixels(view) for view in views]),
            "image_sizes": torch.tensor([told[::-1]]),
        }
        return Shown([token] * length, inputs, [image.size])

    def collate(self, name: str, parts: list[Tensor]) -> Tensor:
        """Pictures have different numbers of views; the model drops the empty views behind them."""
        if name == "pixel_values":
            return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return super().collate(name, parts)


def fitted(size: Size, canvases: Canvases) -> Placement:
    """The canvas on which most of the picture survives, and where it lies there: as large as fits, in the middle."""
    from transformers.image_processing_utils import select_best_resolution

    width, height = size
    down, across = select_best_resolution((height, width), [list(canvas) for canvas in canvases])
    wider, taller = across / width, down / height
    if wider < taller:
        shown = (across, min(math.ceil(height * wider), down))
    else:
        shown = (min(math.ceil(width * taller), across), down)
    return Placement((across, down), shown, (across - shown[0]) // 2, (down - shown[1]) // 2)


def deal(ids: Tensor, token: int, lengths: Sequence[int]) -> Iterator[tuple[int, int, Tensor]]:
    """Give the image tokens of each row to the images, in prompt order: (row, image, places in the row).

    lengths: tokens of every image of the batch. Beam search repeats each row; so do its images then.
    """
    places = [row.eq(token).nonzero()[:, 0] for row in ids]
    total, expected = sum(map(len, places)), sum(lengths)
    beams = max(total // max(expected, 1), 1)
    if total != beams * expected or len(places) % beams:
        raise ValueError(f"the prompts hold {total} image tokens, but the images given make {expected}")
    image = 0
    for row in range(0, len(places), beams):
        first, taken = image, 0
        while taken < len(places[row]):
            if image == len(lengths) or taken + lengths[image] > len(places[row]):
                raise ValueError(
                    f"row {row} of the batch holds {len(places[row])} image tokens, not a whole number of images"
                )
            taken += lengths[image]
            image += 1
        for beam in range(row, row + beams):
            offset = 0
            for number in range(first, image):
                yield beam, number, places[beam][offset : offset + lengths[number]]
                offset += lengths[number]


@lru_cache(maxsize=1024)
def layout(size: Size, told: Size, canvases: Canvases, edge: int, patch: int) -> PictureTokens:
    """Token by token, as the model packs its features. Shared between callers: do not write into it."""
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    fit, side = fitted(size, canvases), edge // patch
    columns, rows = (length // patch for length in fitted(told, canvases).canvas)
    border = canvas_fraction(fit.shown, fit.canvas, (rows, columns))
    left: Tensor = unpad_image(torch.arange(rows * columns).view(1, rows, columns), told[::-1])[0]
    cells = torch.nn.functional.pad(left, (0, 1), value=-1)  # the newline
    newline = torch.cat([torch.zeros(side * side, dtype=torch.bool), cells.flatten() < 0])
    fraction = torch.zeros(len(newline))
    fraction[side * side :][~newline[side * side :]] = border[left.flatten()]
    frame = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(-1)
    patches = torch.stack([cells % columns, cells // columns], -1).view(-1, 2)
    patches[cells.flatten() < 0] = -2
    view = (torch.arange(len(newline)) >= side * side).long()
    return PictureTokens(fraction, newline, torch.cat([frame, patches]), view)
