"""LLaVA-OneVision: LLaVA-NeXT's tiles on a SigLIP tower, and clips. https://arxiv.org/abs/2408.03326

A large canvas is shrunk to a limit. Where a question has several pictures, each is a single padded square with a
newline token behind it. The frames of a clip are pooled two by two, with a newline token behind the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from debias import Span
from debias.padding import fraction
from pruners.models import images
from pruners.models.base import Adapter, ready
from pruners.models.finding import split
from pruners.models.llava_next import LlavaNext, PictureTokens, deal
from pruners.models.request import Encoded, Request, Shown, Size
from pruners.parts.canvas import Canvas, grid
from pruners.parts.patches import Patches


class LlavaOnevision(LlavaNext):
    """Nothing of a clip is padded: its frames are squashed to squares."""

    known: ClassVar[tuple[str, ...]] = (
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    )
    media: ClassVar[tuple[str, ...]] = ("image_sizes", "batch_num_images", "pixel_values_videos")
    prepared: ClassVar[Mapping[str, Any]] = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}

    @classmethod
    def canvas(
        cls, config: Mapping[str, Any], prepared: Mapping[str, Any], max_patches: int | None = None
    ) -> Callable[[Size], Canvas]:
        """As it is where a picture stands alone; the tokens of a shrunk canvas are larger."""
        whole, most = super().canvas(config, prepared, max_patches), allowed(config["vision_aspect_ratio"])
        side = int(config["vision_config"]["image_size"]) // int(config["vision_config"]["patch_size"])

        def laid(size: Size) -> Canvas:
            picture = whole(size)
            lies = picture.cells[side**2 :]
            newline = (lies == 0).all(1)
            rows, columns = int(newline.sum()), int(newline.argmax())
            small = limit(rows, columns, side, most)
            if small == (rows, columns):
                return picture
            (left, top), (right, bottom) = lies[~newline, :2].min(0), lies[:, 2:].max(0)
            cells = grid(*small, right - left, bottom - top, left, top).reshape(*small, 4)
            lines = np.pad(cells, ((0, 0), (0, 1), (0, 0))).reshape(-1, 4)
            return replace(picture, cells=np.concatenate([picture.cells[: side**2], lines]))

        return laid

    @property
    def conversations(self) -> tuple[str, ...]:
        return ("qwen2_5_vl",)  # Qwen2's own words, as the authors' evaluation has them

    @property
    def most(self) -> int:
        """How many tiles' worth of tokens a canvas may have: 9 of "anyres_max_9"."""
        return allowed(self.model.config.vision_aspect_ratio)

    @property
    def half(self) -> int:
        """Tokens along one side of a clip's frame."""
        return math.ceil(self.side / 2)

    # -- the vision tower ----------------------------------------------------------------------------------------------
    def views(self, span: Span) -> int:
        if span.size is None:
            return span.frames
        return 1 if self.several(span) else super().views(span)

    def shows(self, span: Span) -> Tensor:
        """Before anything is blended."""
        if span.size is None or self.several(span):
            return torch.cat([torch.arange(self.views(span) * self.side**2), torch.tensor([-1])])
        return self.tiled(span, *super().layout(span.size, span.size)[2:])

    def several(self, span: Span) -> bool:
        """Whether a picture stands among others of the same question."""
        return span.size is not None and span.total == self.side**2 + 1

    def blends(self, span: Span) -> bool:
        """Whether the model makes tokens of several patches' tokens."""
        return span.total != len(self.shows(span))

    def blended(self, patches: Patches, span: Span) -> Patches:
        """The model blends tokens that the projector made of patches; here attention, features and keys are blended in
        the same way before it. A token that is kept as it is is the model's own all the same."""
        if not self.blends(span):
            return patches
        assert span.special is not None
        rows = int(span.special.sum())
        if span.size is None:
            fewer = partial(pooled, frames=span.frames, side=self.side)
        else:
            special = super().layout(span.size, span.size).newline
            base = self.side**2
            whole = int(special.sum()), int(special[base:].nonzero()[0])
            fewer = partial(less, base=base, whole=whole, size=(rows, (span.total - base) // rows - 1))
        return replace(
            patches,
            attention=fewer(patches.attention[..., None])[..., 0],
            features=fewer(patches.features[None])[0],
            keys=fewer(patches.keys),
            glances=tuple(fewer(glance[..., None])[..., 0] for glance in patches.glances),
            view=self.places(span)[1].masked_fill(span.special, -1),
        )

    # -- where pictures stand ------------------------------------------------------------------------------------------
    def layout(self, size: Size, told: Size) -> PictureTokens:
        return limited(super().layout(size, told), self.side, self.most)

    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        """The model is told the sizes of all pictures; `sizes` adds nothing."""
        config, ids, square = self.model.config, inputs["input_ids"], (self.side, self.side)
        given, counts = inputs.get("image_sizes"), inputs.get("batch_num_images")
        told = [(int(width), int(height)) for height, width in given.tolist()] if given is not None else []
        alone = [True] * len(told) if counts is None else [n == 1 for n in counts.tolist() for _ in range(n)]
        laid = [
            self.layout(size, size) if single else squared(size, self.side)
            for size, single in zip(told, alone, strict=True)
        ]
        rows: list[list[Span]] = [[] for _ in ids]
        for number, image, places in deal(ids, int(config.image_token_id), [len(single.newline) for single in laid]):
            single = laid[image]
            rows[number].append(
                Span(int(places[0]), square, size=told[image], fraction=single.fraction, special=single.newline)
            )
        clips = inputs.get("pixel_values_videos")
        if clips is not None:
            frames, side = int(clips.shape[1]), self.half
            end = torch.arange(frames * side**2 + 1) == frames * side**2
            for number, line in enumerate(ids):
                starts = split(line, int(config.video_token_id), len(end))
                rows[number] += [Span(start, (side, side), frames=frames, special=end) for start in starts]
        return [sorted(row, key=lambda span: span.start) for row in rows]

    def places(self, span: Span) -> tuple[Tensor, Tensor]:
        if span.size is None:
            return Adapter.places(self, span)
        if self.several(span):
            return squared(span.size, self.side)[2:]
        return super().places(span)

    # -- prompts and pictures ------------------------------------------------------------------------------------------
    def encode(self, requests: Sequence[Request], device: torch.device | str | None = None) -> Encoded:
        encoded = super().encode(requests, device)
        counts = [len(request.images) for request in requests if request.images]
        if counts:
            encoded.inputs["batch_num_images"] = torch.tensor(counts)
        return encoded

    def pictures(self, given: Sequence[Image.Image | Shown]) -> list[Shown]:
        """A picture among several is not a canvas of tiles."""
        return [ready(image, self.picture if len(given) == 1 else self.square) for image in given]

    def square(self, image: Image.Image) -> Shown:
        """One of several pictures: a padded square."""
        edge = int(self.model.config.vision_config.image_size)
        pixels = self.pixels(images.square_resized(image, images.mean_colour(self.setting("image_mean")), edge))
        inputs = {"pixel_values": pixels[None], "image_sizes": torch.tensor([image.size[::-1]])}
        return Shown([int(self.model.config.image_token_id)] * (self.side**2 + 1), inputs, [image.size])

    def clip(self, frames: Sequence[Image.Image]) -> Shown:
        token = int(self.model.config.video_token_id)
        pixels = torch.stack([self.pixels(frame) for frame in frames])
        return Shown([token] * (len(frames) * self.half**2 + 1), {"pixel_values_videos": pixels[None]})

    def collate(self, name: str, parts: list[Tensor]) -> Tensor:
        if name == "pixel_values_videos" and len({part.shape[1] for part in parts}) > 1:
            lengths = ", ".join(str(part.shape[1]) for part in parts)
            raise ValueError(f"clips of {lengths} frames in one batch; the model takes clips of one length together")
        return super().collate(name, parts)


def shrunk(states: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[m, rows * columns, c] as the model shrinks a grid: bilinear, centres aligned."""
    field = states.float().unflatten(1, grid).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(field, size, mode="bilinear")
    return small.flatten(2).transpose(1, 2).to(states.dtype)


def pooled(states: Tensor, frames: int, side: int) -> Tensor:
    """[m, tokens of a clip, c] of [m, patches of its frames and the newline token, c]."""
    half = math.ceil(side / 2)
    small = shrunk(states[:, :-1].unflatten(1, (frames, -1)).flatten(0, 1), (side, side), (half, half))
    return torch.cat([small.unflatten(0, (len(states), -1)).flatten(1, 2), states[:, -1:]], 1)


def less(states: Tensor, base: int, whole: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[m, tokens of a picture, c], whose canvas has `size` tokens, of a picture whose canvas has the `whole` size."""
    canvas = states[:, base:].unflatten(1, (whole[0], whole[1] + 1))
    small = shrunk(canvas[:, :, :-1].flatten(1, 2), whole, size).unflatten(1, size)
    lines = torch.nn.functional.pad(small, (0, 0, 0, 1))  # newline tokens, of which the tower knows nothing
    return torch.cat([states[:, :base], lines.flatten(1, 2)], 1)


def allowed(ratio: str) -> int:
    """9 of "anyres_max_9"."""
    return int(ratio.rpartition("_")[2])


def limit(rows: int, columns: int, side: int, most: int) -> tuple[int, int]:
    """(rows, columns) that the model leaves of a canvas, where `most` tiles of `side` x `side` tokens are allowed."""
    ratio = math.sqrt(rows * columns / (most * side**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


@lru_cache(maxsize=1024)
def squared(size: Size, side: int) -> PictureTokens:
    """A single padded square, with a newline token behind it. Shared between callers: do not write into it."""
    newline = torch.arange(side**2 + 1) == side**2
    border = torch.cat([fraction(size, (side, side)), torch.zeros(1)])
    frame = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(-1)
    return PictureTokens(
        border, newline, torch.cat([frame, torch.full((1, 2), -2)]), torch.zeros(side**2 + 1, dtype=torch.long)
    )


def limited(whole: PictureTokens, side: int, most: int) -> PictureTokens:
    """A layout whose canvas is shrunk to its limit, as the model shrinks it. A token's share of border is that of the
    patches that it is blended from."""
    base = side**2
    columns = int(whole.newline[base:].nonzero()[0])
    rows = int(whole.newline.sum())
    size = limit(rows, columns, side, most)
    if size == (rows, columns):
        return whole
    border = whole.fraction[base:].view(1, 1, rows, columns + 1)[..., :-1]
    border = torch.nn.functional.interpolate(border, size, mode="bilinear")[0, 0]
    border = torch.nn.functional.pad(border, (0, 1))
    newline = torch.zeros(size[0], size[1] + 1, dtype=torch.bool)
    newline[:, -1] = True
    places = torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1] + 1)).flip(-1)
    places[newline.flatten()] = -2
    special = torch.cat([whole.newline[:base], newline.flatten()])
    return PictureTokens(
        torch.cat([whole.fraction[:base], border.flatten()]),
        special,
        torch.cat([whole.xy[:base], places]),
        (torch.arange(len(special)) >= base).long(),
    )
