"""SmolVLM: Idefics3 on a small tower and a small language model, and clips. https://arxiv.org/abs/2504.05299"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

import torch
from PIL import Image

from pruners.models import images
from pruners.models.idefics3 import Idefics3, lanczos, longest
from pruners.models.request import VIDEO, Request, Shown

SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


class SmolVLM(Idefics3):
    """Each frame of a clip is a tile of its own under its time, so that a clip is several spans."""

    frames_apart: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]] = (
        "HuggingFaceTB/SmolVLM-Instruct",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    )
    prepared: ClassVar[Mapping[str, Any]] = {
        **Idefics3.prepared,
        "size": {"longest_edge": 4 * 384},
        "max_image_size": {"longest_edge": 384},
    }
    fps: float = 1.0  # frames per second of the clips that are passed in

    def prompt(self, request: Request) -> str:
        """A clip stands in front of the question; the space before it is the first of its own words."""
        if request.video is None or VIDEO in request.text:
            return super().prompt(request)
        return super().prompt(replace(request, text=VIDEO + request.text)).replace(f" {VIDEO}", VIDEO)

    def clip(self, frames: Sequence[Image.Image]) -> Shown:
        edge = int(self.setting("max_image_size")["longest_edge"])
        mean, std = self.setting("image_mean"), self.setting("image_std")
        squares = [
            lanczos(lanczos(frame.convert("RGB"), longest(frame.size, edge, edge)), (edge, edge)) for frame in frames
        ]
        pixels = torch.stack([images.normalised(square, mean, std) for square in squares])
        length = timedelta(seconds=int(len(frames) / self.fps))
        count = spelled(len(frames))
        title = f" You are provided the following series of {count} frames from a {length} [H:MM:SS] video.\n"
        ids: list[int] = []
        for number in range(len(frames)):
            minutes, seconds = divmod(int(number / self.fps), 60)
            title += f"\nFrame from {minutes:02d}:{seconds:02d}:"
            ids += [*self.tokenizer(title, add_special_tokens=False).input_ids, *self.ids(0, 0)]
            title = ""
        ids += self.tokenizer("\n\n", add_special_tokens=False).input_ids
        return Shown(ids, {"pixel_values": pixels[None]}, [None] * len(frames))


def spelled(number: int) -> str:
    """A number below 1000 in words."""
    if number < len(SMALL):
        return SMALL[number]
    if number < 100:
        ten, unit = divmod(number, 10)
        return TENS[ten - 2] + (f"-{SMALL[unit]}" if unit else "")
    hundred, rest = divmod(number, 100)
    return f"{SMALL[hundred]} hundred" + (f" and {spelled(rest)}" if rest else "")
