"""Qwen3-VL: like Qwen2.5-VL, but features of early vision layers are added behind the first decoder layers (DeepStack).

https://arxiv.org/abs/2511.21631
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from pruners.models.qwen2_5_vl import Qwen25VL, whole_tokens
from pruners.models.request import Shown


class Qwen3VL(Qwen25VL):
    """Each two frames of a clip stand by themselves in the prompt, under their time; so a clip is several spans."""

    frames_apart: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]] = ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-8B-Instruct")
    prepared: ClassVar[Mapping[str, Any]] = {
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        "video_size": {"shortest_edge": 4096, "longest_edge": 25165824},
    }

    @property
    def conversations(self) -> tuple[str, ...]:
        return ("chatml",)

    def clip_grids(self, given: Tensor | None) -> list[tuple[int, int, int]]:
        return [(1, height, width) for time, height, width in self.grids(given) for _ in range(time)]

    def clip(self, frames: Sequence[Image.Image]) -> Shown:
        deep = self.joined_frames
        width, height = frames[0].size
        grow = max(1, self.unit / width, self.unit / height)
        counted = max(1, round(len(frames) / deep)) * deep
        limits = self.setting("size", video=True)
        size = whole_tokens((int(width * grow), int(height * grow)), self.unit, limits, len(frames), counted)
        patches, grid = self.patches(frames, size)
        token, ids = int(self.model.config.video_token_id), []
        for group, (_, height, width) in enumerate(self.clip_grids(grid)):
            first, last = group * deep, min(group * deep + deep, len(frames)) - 1
            title = f"<{(first + last) / 2 / self.fps:.1f} seconds>"
            ids += self.tokenizer(title, add_special_tokens=False).input_ids + self.between([token] * (height * width))
        return Shown(ids, {"pixel_values_videos": patches, "video_grid_thw": grid}, [None] * len(self.clip_grids(grid)))

    # -- DeepStack -----------------------------------------------------------------------------------------------------
    def hooks(self, state: Any) -> list[Any]:
        """Take over the additions, which the model can only make to the whole prompt."""
        stack = DeepStack(state)
        depth = len(self.model.config.vision_config.deepstack_visual_indexes)
        handles = [self.decoder.register_forward_pre_hook(stack.take, with_kwargs=True)]
        handles += [
            layer.register_forward_hook(partial(stack.add, i)) for i, layer in enumerate(self.decoder.layers[:depth])
        ]
        return handles


class DeepStack:
    """The features to add behind the first layers, spread over the prompt's slots."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.features: list[Tensor] = []
        self.where: Tensor | None = None

    def take(self, decoder: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before the decoder: keep the features and their places, and let the model add nothing itself."""
        self.features = list(kwargs.get("deepstack_visual_embeds") or ())
        self.where = kwargs.get("visual_pos_masks")
        return args, {**kwargs, "deepstack_visual_embeds": None}

    def add(self, number: int, layer: Any, args: Any, output: Any) -> Any:
        """After layer `number`: its output with the features added at the picture's tokens that are still there."""
        if self.where is None:  # no picture is shown
            return None
        spread = output.new_zeros(*self.where.shape, output.shape[-1])
        spread.masked_scatter_(  # unlike writing by a mask, this never asks the device how many there are
            self.where[..., None].to(output.device), self.features[number].to(output.device, output.dtype)
        )
        columns = self.state.at(number).columns if self.state.segments else None
        return output + (spread if columns is None else spread.gather(1, columns[..., None].expand_as(output)))
