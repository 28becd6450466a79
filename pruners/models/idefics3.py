"""Idefics3: tiles of the stretched picture under their row and column, then all of it; nothing is padded.

https://arxiv.org/abs/2408.12637
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from debias import Span
from pruners.models import images
from pruners.models.base import Adapter, Opens
from pruners.models.finding import in_tiles, runs
from pruners.models.request import IMAGE, Request, Shown, Size
from pruners.parts.patches import Patches
from pruners.parts.tower import Tower

Runs = list[tuple[int, int]]


class Idefics3(Adapter):
    """Each tile of a picture stands between words of its own, so that the tokens of a picture are not side by side.

    Sizes are read only to tell how the tiles lie."""

    opens: ClassVar[Opens] = "views"
    pads: ClassVar[bool] = False
    known: ClassVar[tuple[str, ...]] = ("HuggingFaceM4/Idefics3-8B-Llama3",)
    prepared: ClassVar[Mapping[str, Any]] = {
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "size": {"longest_edge": 4 * 364},
        "max_image_size": {"longest_edge": 364},
    }
    largest: ClassVar[int] = 4096  # pixels along the longer side, whatever `size` says

    # -- the parts of the model ----------------------------------------------------------------------------------------
    @property
    def decoder(self) -> Any:
        return self.inner.text_model

    @property
    def fold(self) -> int:
        """Patches along one side of a token."""
        return int(self.model.config.scale_factor)

    @property
    def side(self) -> int:
        """Tokens along one side of a tile."""
        vision = self.model.config.vision_config
        return int(vision.image_size) // int(vision.patch_size) // self.fold

    @property
    def tower(self) -> Tower:
        module = self.inner.vision_model
        return Tower(module, module.encoder.layers, len(module.encoder.layers) - 1, cls=False)

    def project(self, features: Tensor) -> Tensor:
        projected: Tensor = self.inner.connector.modality_projection(features)
        return projected

    def views(self, span: Span) -> int:
        return span.frames

    def joined(self, patches: Patches) -> Patches:
        """A token shows several patches: their attention and keys are averaged, their features lie side by side."""
        features = self.inner.vision_model.post_layernorm(patches.features)
        return patches.in_squares(
            self.side, self.fold, self.inner.connector.pixel_shuffle(features[None], self.fold)[0]
        )

    # -- where pictures stand ------------------------------------------------------------------------------------------
    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        tile = self.side**2
        rows = [self.pictures_in(ids) for ids in inputs["input_ids"]]
        for _, length in (run for row in rows for picture in row for run in picture):
            if length != tile:
                raise ValueError(f"{length} image tokens side by side, but a tile of a picture has {tile}")
        return in_tiles([[(picture[0][0], len(picture)) for picture in row] for row in rows], sizes, self.side)

    def pictures_in(self, ids: Tensor) -> list[Runs]:
        """The stretches of image tokens of each picture in one row of ids.

        Between tiles of one row stand the sign that opens a tile and its place; before a new row of them, a line break
        too; behind a picture, the opening sign comes at once to close it.
        """
        pictures: list[Runs] = []
        places = runs(ids, int(self.model.config.image_token_id))
        between = [ids[a + n : b].tolist() for (a, n), (b, _) in pairwise(places)]
        for number, run in enumerate(places):
            gap = between[number - 1] if number else []
            if len(gap) == 2 or (len(gap) > 2 and gap[0] != gap[-2]):
                pictures[-1].append(run)
            else:
                pictures.append([run])
        return pictures

    def slots(self, inputs: Mapping[str, Any], spans: list[list[Span]]) -> list[list[Tensor]]:
        return [
            [
                torch.cat([torch.arange(start, start + length) for start, length in picture])
                for picture in self.pictures_in(ids)
            ]
            for ids in inputs["input_ids"]
        ]

    def tile_columns(self, span: Span) -> int | None:
        return None if span.size is None else self.arranged(span.size)[0]

    # -- prompts and pictures ------------------------------------------------------------------------------------------
    def prompt(self, request: Request) -> str:
        question = request.text
        if IMAGE not in question:
            question = IMAGE * len(request.images) + question
        elif question.count(IMAGE) != len(request.images):
            return super().prompt(request)  # which says what is wrong
        return f"User:{'' if question.startswith(IMAGE) else ' '}{question}<end_of_utterance>\nAssistant:"

    def stretched(self, size: Size) -> Size:
        """(width, height) that a picture is stretched to: its longer side as asked for, then whole tiles."""
        tile = int(self.setting("max_image_size")["longest_edge"])
        width, height = longest(size, int(self.setting("size")["longest_edge"]), self.largest)
        ratio = width / height
        if width >= height:
            across = math.ceil(width / tile) * tile
            return across, math.ceil(int(across / ratio) / tile) * tile
        down = math.ceil(height / tile) * tile
        return math.ceil(int(down * ratio) / tile) * tile, down

    def arranged(self, size: Size) -> Size:
        """(columns, rows) of the tiles of a picture."""
        tile = int(self.setting("max_image_size")["longest_edge"])
        width, height = self.stretched(size)
        return width // tile, height // tile

    def picture(self, image: Image.Image) -> Shown:
        edge = int(self.setting("max_image_size")["longest_edge"])
        image = image.convert("RGB")
        first = longest(image.size, int(self.setting("size")["longest_edge"]), self.largest)
        canvas = lanczos(lanczos(image, first), self.stretched(image.size))
        columns, rows = self.arranged(image.size)
        tiles = images.tiles(canvas, edge)
        if len(tiles) > 1:
            tiles.append(lanczos(canvas, (edge, edge)))
        else:
            columns = rows = 0
        mean, std = self.setting("image_mean"), self.setting("image_std")
        pixels = torch.stack([images.normalised(tile, mean, std) for tile in tiles])
        return Shown(self.ids(columns, rows), {"pixel_values": pixels[None]}, [image.size])

    def ids(self, columns: int, rows: int) -> list[int]:
        """What stands for a picture of so many tiles."""
        tokens = [int(self.model.config.image_token_id)] * self.side**2
        sign, whole = self.tokenizer.convert_tokens_to_ids(["<fake_token_around_image>", "<global-img>"])
        line = self.tokenizer("\n", add_special_tokens=False).input_ids
        ids: list[int] = []
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                ids += [sign, int(self.tokenizer.convert_tokens_to_ids(f"<row_{row}_col_{column}>")), *tokens]
            if row < rows:
                ids += line
        if rows:
            ids += self.tokenizer("\n\n", add_special_tokens=False).input_ids
        return [*ids, sign, whole, *tokens, sign]

    def collate(self, name: str, parts: list[Tensor]) -> Tensor:
        """Pictures have different numbers of tiles; the model drops the empty tiles behind them."""
        return torch.nn.utils.rnn.pad_sequence([part[0] for part in parts], batch_first=True)


def lanczos(image: Image.Image, size: Size) -> Image.Image:
    """A picture resized to (width, height), as the family was trained on it."""
    return image.resize(size, Image.Resampling.LANCZOS)


def longest(size: Size, edge: int, largest: int) -> Size:
    """(width, height) with the longer side as asked for, at most the largest; the other in proportion and even."""
    width, height = size
    ratio = width / height
    if width >= height:
        width, height = edge, int(edge / ratio)
        height += height % 2
    else:
        width, height = int(edge * ratio), edge
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > largest:
        width, height = largest, int(largest / ratio)
    elif height > width and height > largest:
        width, height = int(largest * ratio), largest
    return max(width, 1), max(height, 1)
