"""Qwen2-VL: like Qwen2.5-VL with a tower that sees the whole picture in every layer. https://arxiv.org/abs/2409.12191"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from PIL import Image

from pruners.models.qwen2_5_vl import Qwen25VL
from pruners.models.request import Shown


class Qwen2VL(Qwen25VL):
    """Its positions count the frames of a clip and not the seconds."""

    known: ClassVar[tuple[str, ...]] = ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct")

    def clip(self, frames: Sequence[Image.Image]) -> Shown:
        shown = super().clip(frames)
        inputs = {name: part for name, part in shown.inputs.items() if name != "second_per_grid_ts"}
        return replace(shown, inputs=inputs)
