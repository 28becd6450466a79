"""InternVL 2.5, 3 and 3.5: tiles of the stretched picture, then a thumbnail; nothing is padded. https://arxiv.org/abs/2412.05271"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from debias import Span
from pruners.models import images
from pruners.models.base import Adapter, Opens
from pruners.models.finding import in_tiles, runs
from pruners.models.request import IMAGE, Request, Shown, Size
from pruners.parts.canvas import Canvas, tiled
from pruners.parts.patches import Patches
from pruners.parts.tower import Tower, layer_of


class InternVL(Adapter):
    """A picture is 1 to 12 tiles (`adapter.processor.max_patches`; the authors' grounding evaluation takes 6).

    Nothing is padded: sizes are read only to tell how the tiles lie, and silencing padding changes nothing.
    """

    opens: ClassVar[Opens] = "views"
    cuts_tiles: ClassVar[bool] = True
    frames_apart: ClassVar[bool] = True
    grounding: ClassVar[str] = "internvl"
    known: ClassVar[tuple[str, ...]] = (
        "OpenGVLab/InternVL2_5-8B-MPO-hf",
        "OpenGVLab/InternVL3-8B-hf",
        "OpenGVLab/InternVL3_5-8B-HF",
    )
    pads: ClassVar[bool] = False
    prepared: ClassVar[Mapping[str, Any]] = {
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
        "min_patches": 1,
        "max_patches": 12,
    }

    @classmethod
    def canvas(
        cls, config: Mapping[str, Any], prepared: Mapping[str, Any], max_patches: int | None = None
    ) -> Callable[[Size], Canvas]:
        edge = config["vision_config"]["image_size"]
        edge = int(edge[0] if isinstance(edge, list) else edge)
        side = math.isqrt(int(config["image_seq_length"]))
        said = {**cls.prepared, **prepared}
        least, most = int(said["min_patches"]), max_patches or int(said["max_patches"])
        return lambda size: tiled(size, arranged(size, edge, least, most), edge, side)

    @property
    def conversations(self) -> tuple[str, ...]:
        return ("internvl2_5",)

    @property
    def side(self) -> int:
        """Tokens along one side of a tile."""
        return math.isqrt(int(self.model.config.image_seq_length))

    @property
    def edge(self) -> int:
        """Pixels along one side of a tile."""
        return int(self.model.config.vision_config.image_size[0])

    @property
    def tower(self) -> Tower:
        module, chosen = self.inner.vision_tower, int(self.model.config.vision_feature_layer)
        layers = module.encoder.layer
        return Tower(module, layers, layer_of(chosen, layers), attention="attention")

    def views(self, span: Span) -> int:
        return span.frames

    def joined(self, patches: Patches) -> Patches:
        """A token shows 2 x 2 patches: their attention and keys are averaged, their features lie side by side. [CLS] is
        a single patch, of which the projector can make no token."""
        ratio = float(self.model.config.downsample_ratio)
        fold, side = round(1 / ratio), self.side
        features = patches.features
        if int(self.model.config.vision_feature_layer) == -1:
            features = self.inner.vision_tower.layernorm(features)
        square = features.view(1, side * fold, side * fold, -1)
        return patches.in_squares(side, fold, self.inner.pixel_shuffle(square, scale_factor=ratio).flatten(0, 2))

    def begin(self) -> list[int]:
        return list(self.tokenizer("").input_ids)  # InternLM2's tokenizer starts a text with a token, Qwen2's does not

    def tiles(self, size: Size) -> tuple[int, int]:
        """(columns, rows) of the tiles of a picture."""
        return arranged(size, self.edge, int(self.setting("min_patches")), int(self.setting("max_patches")))

    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        tile = int(self.model.config.image_seq_length)
        stretches = [runs(ids, int(self.model.config.image_token_id)) for ids in inputs["input_ids"]]
        for start, length in (run for row in stretches for run in row):
            if length % tile:
                raise ValueError(f"{length} image tokens at {start} are not a whole number of tiles of {tile}")
        return in_tiles([[(start, length // tile) for start, length in row] for row in stretches], sizes, self.side)

    def tile_columns(self, span: Span) -> int | None:
        if span.size is None:
            warnings.warn("how InternVL's tiles lie is told by the pictures' sizes; pass sizes=[...]", stacklevel=3)
            return None
        tiles = span.frames - 1
        return closest(span.size, [(n, tiles // n) for n in range(1, span.frames) if tiles % n == 0])[0]

    def prompt(self, request: Request) -> str:
        """Several pictures in front of a question are numbered, as in the authors' evaluations."""
        count = len(request.images)
        if count < 2 or IMAGE in request.text:
            return super().prompt(request)
        numbered = "".join(f"Image-{number}: {IMAGE}\n" for number in range(1, count + 1))
        return super().prompt(replace(request, text=numbered + request.text))

    def picture(self, image: Image.Image) -> Shown:
        image, edge = image.convert("RGB"), self.edge
        columns, rows = self.tiles(image.size)
        canvas = images.resized(image, (columns * edge, rows * edge))
        tiles = images.tiles(canvas, edge)
        if len(tiles) > 1:
            tiles.append(images.resized(image, (edge, edge)))
        return Shown(self.ids(len(tiles)), {"pixel_values": self.pixels(tiles)}, [image.size])

    def clip(self, frames: Sequence[Image.Image]) -> Shown:
        """One tile per frame, each under its number."""
        ids: list[int] = []
        for number in range(1, len(frames) + 1):
            title = f"Frame{number}: " if number == 1 else f"\nFrame{number}: "
            ids += [*self.tokenizer(title, add_special_tokens=False).input_ids, *self.ids(1)]
        squares = [images.resized(frame, (self.edge, self.edge)) for frame in frames]
        return Shown(ids, {"pixel_values": self.pixels(squares)}, [None] * len(frames))

    def ids(self, tiles: int) -> list[int]:
        """What stands for so many tiles: their tokens between the signs that open and close a picture."""
        opened, closed = self.tokenizer.convert_tokens_to_ids(["<img>", "</img>"])
        config = self.model.config
        return [opened, *[int(config.image_token_id)] * (tiles * int(config.image_seq_length)), closed]

    def pixels(self, tiles: Sequence[Image.Image]) -> Tensor:
        """[tiles, 3, height, width] as the tower takes them."""
        mean, std = self.setting("image_mean"), self.setting("image_std")
        return torch.stack([images.normalised(tile, mean, std) for tile in tiles])


def arranged(size: Size, edge: int, least: int, most: int) -> Size:
    """(columns, rows) of tiles whose shape is closest to the picture's. Of grids of one shape it is the largest that
    the picture fills by half, counted in pixels."""
    sides = range(1, most + 1)
    grids = sorted(((c, r) for c in sides for r in sides if least <= c * r <= most), key=lambda grid: grid[0] * grid[1])
    best = closest(size, grids)
    same = [grid for grid in grids if grid[0] * best[1] == grid[1] * best[0]]
    return [same[0], *(grid for grid in same[1:] if size[0] * size[1] > 0.5 * edge * edge * grid[0] * grid[1])][-1]


def closest(size: Size, grids: Sequence[Size]) -> Size:
    """The first grid whose shape is closest to the picture's."""
    return min(grids, key=lambda grid: abs(size[0] / size[1] - grid[0] / grid[1]))
