"""Qwen2.5-VL: pictures keep their shape, rounded to whole tokens; nothing is padded. https://arxiv.org/abs/2502.13923"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from debias import Span
from pruners.models import images
from pruners.models.base import Adapter, Opens
from pruners.models.finding import runs, shared
from pruners.models.request import Encoded, Request, Shown, Size
from pruners.parts.canvas import Canvas, grid
from pruners.parts.patches import Patches
from pruners.parts.tower import Tower


class Qwen25VL(Adapter):
    """Positions have three axes (time, row, column), which the model mixes into one rotary table for all layers.

    They are places and not counts. Numbering the tokens that are left without gaps would move every one of them in the
    picture, also when none has left; so here all tokens keep their positions, whatever a method does elsewhere.

    The tower has no CLS token, and most of its layers see a window each; methods read the last layer that sees a whole
    frame. The frames of a clip (two by two) are its views.
    """

    opens: ClassVar[Opens] = "views"
    pads: ClassVar[bool] = False
    renumbers: ClassVar[bool] = False
    media: ClassVar[tuple[str, ...]] = ("image_grid_thw", "video_grid_thw")
    known: ClassVar[tuple[str, ...]] = ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")
    gap: ClassVar[str] = ""
    fps: float = 2.0  # frames per second of the clips that are passed in
    prepared: ClassVar[Mapping[str, Any]] = {
        **images.CLIP,
        "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
        "video_size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
    }

    @classmethod
    def canvas(
        cls, config: Mapping[str, Any], prepared: Mapping[str, Any], max_patches: int | None = None
    ) -> Callable[[Size], Canvas]:
        vision, limits = config["vision_config"], {**cls.prepared, **prepared}["size"]
        unit = int(vision["patch_size"]) * int(vision["spatial_merge_size"])

        def laid(size: Size) -> Canvas:
            columns, rows = (edge // unit for edge in whole_tokens(size, unit, limits))
            return Canvas(size, grid(rows, columns, *size), (1.0, 1.0), (0.0, 0.0))

        return laid

    @property
    def conversations(self) -> tuple[str, ...]:
        return ("qwen2_5_vl",)

    @property
    def merge(self) -> int:
        """Patches along one side of a token."""
        return int(self.model.config.vision_config.spatial_merge_size)

    # -- the vision tower ----------------------------------------------------------------------------------------------
    @property
    def tower(self) -> Tower:
        module = self.inner.visual
        whole = getattr(module, "fullatt_block_indexes", None)
        last, looks = len(module.blocks) - 1, None if whole is None else max(whole)
        return Tower(module, module.blocks, last, cls=False, attention="attn", looks=looks, whole=whole)

    def project(self, features: Tensor) -> Tensor:
        projected: Tensor = self.inner.visual.merger(features.reshape(len(features) * self.merge**2, -1))
        return projected

    def views(self, span: Span) -> int:
        return span.frames

    def packed(self, span: Span) -> int | None:
        return math.prod(span.grid) * self.merge**2

    def ordered(self, span: Span, states: Tensor) -> Tensor:
        """Window by window in the tower; row by row of tokens here."""
        window = getattr(self.model.config.vision_config, "window_size", None)
        if window is None:
            return states
        place = unwindowed(span.grid, int(window) // self.unit).to(states.device, non_blocking=True)
        tokens = states.view(-1, self.merge**2, states.shape[1])
        return tokens.index_select(0, place).flatten(0, 1)

    def looking(
        self, attn: Any, asking: Tensor, states: Tensor, tables: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert asking is states  # without a CLS token all patches ask
        assert tables is not None
        query, key, _ = attn.qkv(states).unflatten(-1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
        cos, sin = (table.float() for table in tables)
        return self.rotate(query.float(), cos, sin), self.rotate(key.float(), cos, sin), key

    def looking_scale(self, attn: Any) -> float:
        return float(attn.scaling)

    def joined(self, patches: Patches) -> Patches:
        """The patches of a token stand together: attention and keys are averaged, features lie side by side."""
        apart = (-1, self.merge**2)
        return replace(
            patches,
            attention=patches.attention.unflatten(1, apart).mean(2),
            features=patches.features.unflatten(0, apart).flatten(1),
            keys=patches.keys.unflatten(1, apart).mean(2),
        )

    # -- where pictures stand ------------------------------------------------------------------------------------------
    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        config = self.model.config
        rows: list[list[Span]] = [[] for _ in inputs["input_ids"]]
        media = (
            (int(config.image_token_id), self.grids(inputs.get("image_grid_thw"))),
            (int(config.video_token_id), self.clip_grids(inputs.get("video_grid_thw"))),
        )
        for token, grids in media:
            by_row = [runs(ids, token) for ids in inputs["input_ids"]]
            for row, stretches, known in zip(rows, by_row, shared(by_row, grids), strict=True):
                for (start, length), shape in zip(stretches, known, strict=True):
                    assert shape is not None
                    frames, height, width = shape
                    if frames * height * width != length:
                        raise ValueError(
                            f"{length} image tokens at {start}, but their grid is {frames} x {height} x {width}"
                        )
                    row.append(Span(start, (height, width), frames=frames))
        return [sorted(row, key=lambda span: span.start) for row in rows]

    def grids(self, given: Tensor | None) -> list[tuple[int, int, int]]:
        """(frames, rows, columns) of tokens."""
        rows = [] if given is None else given.tolist()
        return [(time, height // self.merge, width // self.merge) for time, height, width in rows]

    def clip_grids(self, given: Tensor | None) -> list[tuple[int, int, int]]:
        """The same of each stretch of clip tokens."""
        return self.grids(given)

    # -- prompts and pictures ------------------------------------------------------------------------------------------
    def encode(self, requests: Sequence[Request], device: torch.device | str | None = None) -> Encoded:
        encoded, config = super().encode(requests, device), self.model.config
        ids = encoded.inputs["input_ids"]
        encoded.inputs["mm_token_type_ids"] = (ids == config.image_token_id).int() + 2 * (
            ids == config.video_token_id
        ).int()
        return encoded

    def picture(self, image: Image.Image) -> Shown:
        patches, grid = self.patches([image], whole_tokens(image.size, self.unit, self.setting("size")))
        ids = self.between([int(self.model.config.image_token_id)] * math.prod(self.grids(grid)[0]))
        return Shown(ids, {"pixel_values": patches, "image_grid_thw": grid})

    def clip(self, frames: Sequence[Image.Image]) -> Shown:
        size = whole_tokens(frames[0].size, self.unit, self.setting("size", video=True))
        patches, grid = self.patches(frames, size)
        ids = self.between([int(self.model.config.video_token_id)] * math.prod(self.grids(grid)[0]))
        seconds = torch.tensor([self.joined_frames / self.fps])
        return Shown(ids, {"pixel_values_videos": patches, "video_grid_thw": grid, "second_per_grid_ts": seconds})

    @property
    def joined_frames(self) -> int:
        return int(self.model.config.vision_config.temporal_patch_size)

    @property
    def unit(self) -> int:
        """Pixels along one side of a token."""
        return int(self.model.config.vision_config.patch_size) * self.merge

    def between(self, ids: list[int]) -> list[int]:
        """The ids of a picture or clip between the signs that open and close it."""
        config = self.model.config
        return [int(config.vision_start_token_id), *ids, int(config.vision_end_token_id)]

    def patches(self, frames: Sequence[Image.Image], size: Size) -> tuple[Tensor, Tensor]:
        """[patches, values] as the vision tower takes them, and [1, 3] how many there are in time, down and across.

        Patches of one token stand together. A frame is repeated where time does not come out even.
        """
        vision = self.model.config.vision_config
        patch, deep, merge = int(vision.patch_size), self.joined_frames, self.merge
        mean, std = self.setting("image_mean"), self.setting("image_std")
        pixels = [images.normalised(images.resized(frame.convert("RGB"), size), mean, std) for frame in frames]
        pixels += pixels[-1:] * (-len(pixels) % deep)
        time, across, down = len(pixels) // deep, size[0] // patch, size[1] // patch
        cells = torch.stack(pixels).view(time, deep, 3, down // merge, merge, patch, across // merge, merge, patch)
        cells = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return cells.reshape(time * down * across, -1), torch.tensor([[time, down, across]])


@lru_cache(maxsize=256)
def unwindowed(grid: tuple[int, int], side: int) -> Tensor:
    """[rows * columns] where each token of a frame stands when windows of `side` x `side` tokens follow each other.
    Shared between callers: do not write into it."""
    row, column = torch.arange(grid[0])[:, None], torch.arange(grid[1])[None]
    window = row // side * grid[1] + column // side
    return window.flatten().argsort(stable=True).argsort()


def whole_tokens(size: Size, unit: int, limits: Mapping[str, int], frames: int = 1, counted: int = 1) -> Size:
    """(width, height) in multiples of `unit`, in nearly the same shape, that keep within the limits on pixels.

    The limits are for a whole clip where `frames` are given; `counted` is their number, rounded.
    """
    width, height = size
    least, most, area = limits["shortest_edge"], limits["longest_edge"], frames * width * height
    if max(size) > 200 * min(size):
        raise ValueError(f"a picture of {width} x {height} is too narrow: its sides may differ by a factor of 200")
    near = round(width / unit) * unit, round(height / unit) * unit
    if counted * math.prod(near) > most:
        scale = math.sqrt(area / most)
        return max(unit, math.floor(width / scale / unit) * unit), max(unit, math.floor(height / scale / unit) * unit)
    if counted * math.prod(near) < least:
        scale = math.sqrt(least / area)
        return math.ceil(width * scale / unit) * unit, math.ceil(height * scale / unit) * unit
    return near
