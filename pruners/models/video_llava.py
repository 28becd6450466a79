"""Video-LLaVA: clips of 8 frames, each with its CLS token in front, and pictures. https://arxiv.org/abs/2311.10122"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from debias import Span
from pruners.models import images
from pruners.models.base import Features, Opens
from pruners.models.finding import shared, split
from pruners.models.llava import Llava
from pruners.models.request import Shown, Size
from pruners.parts.tower import Tower


class VideoLlava(Llava):
    """Pictures are padded to a square; frames are scaled and cropped to a square, so that a clip has no padding.

    Which frames stand for a clip is the caller's choice (the authors take linspace(0, n - 1, 8)).
    """

    opens: ClassVar[Opens] = "nothing"
    features: ClassVar[Features] = "stacked"
    trend_media: ClassVar[str] = "video"
    authors_key: ClassVar[str] = "mm_video_tower"
    known: ClassVar[tuple[str, ...]] = ("LanguageBind/Video-LLaVA-7B-hf",)
    media: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)

    @property
    def conversations(self) -> tuple[str, ...]:
        return ("llava_v1", "vicuna_v1")

    @property
    def tower(self) -> Tower:
        raise ValueError(
            "Video-LLaVA has one vision tower for pictures and one for clips; methods that prune there cannot run on it"
        )

    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        config, grid, clips = self.model.config, (self.side, self.side), inputs.get("pixel_values_videos")
        patches = self.side**2
        frames = int(clips.shape[1]) if clips is not None else int(config.video_seq_length) // (1 + patches)
        special = torch.arange(frames * (1 + patches)) % (1 + patches) == 0
        rows: list[list[Span]] = []
        for ids in inputs["input_ids"]:
            pictures = split(ids, int(config.image_token_id), patches)
            films = split(ids, int(config.video_token_id), len(special))
            spans = [Span(start, grid) for start in pictures]
            spans += [Span(start, grid, frames=frames, special=special) for start in films]
            rows.append(sorted(spans, key=lambda span: span.start))
        known = shared([[span.start for span in row] for row in rows], sizes)
        return [
            [
                span if span.special is not None else Span(span.start, grid, size=size)
                for span, size in zip(*pair, strict=True)
            ]
            for pair in zip(rows, known, strict=True)
        ]

    def picture(self, image: Image.Image) -> Shown:
        from transformers import VideoLlavaForConditionalGeneration as Known

        shown = super().picture(image)
        if "pixel_values" in inspect.signature(Known.forward).parameters:  # asked of the class: templates have no model
            return shown
        # Before transformers 5.21 this family alone had another name for it.
        return replace(shown, inputs={"pixel_values_images": shown.inputs["pixel_values"]})

    def clip(self, frames: Sequence[Image.Image]) -> Shown:
        token = int(self.model.config.video_token_id)
        pixels = torch.stack([self.frame(frame) for frame in frames])
        return Shown([token] * len(frames) * (1 + self.side**2), {"pixel_values_videos": pixels[None]})

    def window(self, frame: Image.Image) -> Image.Image:
        width, height = frame.size
        edge = min(frame.size)
        left, top = (width - edge) // 2, (height - edge) // 2
        return frame.crop((left, top, left + edge, top + edge))

    def frame(self, frame: Image.Image) -> Tensor:
        """[3, s, s]: the shorter side scaled to s, bilinear without antialiasing as in the authors' transform, and the
        middle cut out. Their random mirroring, which their evaluation leaves on, is left out."""
        edge = int(self.model.config.vision_config.image_size)
        pixels = images.normalised(frame, self.setting("image_mean"), self.setting("image_std"))
        width, height = frame.size
        short = min(width, height)
        size = (height * edge // short, width * edge // short)
        scaled = torch.nn.functional.interpolate(pixels[None], size=size, mode="bilinear")[0]
        top, left = round((size[0] - edge) / 2), round((size[1] - edge) / 2)
        return scaled[:, top : top + edge, left : left + edge]
