"""Pictures as the models were trained on them, with PIL and numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pruners.models.folder import read_object

Colour = tuple[int, ...]
CLIP: Mapping[str, Any] = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


def settings(path: str) -> SimpleNamespace:
    """What a checkpoint says about preparing pictures, and under .video_processor about clips; it may say nothing.

    Read from its files and not through AutoProcessor, which needs torchvision for half of the families.
    """
    whole = config(path, "processor_config.json")
    still = whole.get("image_processor") or config(path, "preprocessor_config.json")
    moving = whole.get("video_processor") or config(path, "video_preprocessor_config.json")
    return SimpleNamespace(**still, video_processor=SimpleNamespace(**moving))


def config(path: str, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint folder; {} when there is none."""
    file = Path(path) / name
    return read_object(file) if file.exists() else {}


def mean_colour(mean: Sequence[float]) -> Colour:
    """The processor's mean as 8-bit colour, truncated: (122, 116, 104) for CLIP."""
    return tuple(int(value * 255) for value in mean)


BAND = 1 << 24  # pixels of the padded square held at once


def square_resized(image: Image.Image, colour: Colour, edge: int) -> Image.Image:
    """resized(square(image, colour), (edge, edge)), to the bit, without the whole square: a picture of 16384 x 1 would
    need 800 MB. Resizing goes over the rows first, each on its own, so they may come in bands."""
    side = max(image.size)
    if side * side <= BAND or edge == side:
        return resized(square(image, colour), (edge, edge))
    image = image.convert("RGB")
    left, top, height = (side - image.width) // 2, (side - image.height) // 2, max(1, BAND // side)
    narrow = Image.new("RGB", (edge, side))
    for first in range(0, side, height):
        band = Image.new("RGB", (side, min(height, side - first)), colour)
        band.paste(image, (left, top - first))
        narrow.paste(resized(band, (edge, band.height)), (0, first))
    return resized(narrow, (edge, edge))


def square(image: Image.Image, colour: Colour) -> Image.Image:
    """Padded to a square with `colour`, the picture in the middle; the odd pixel of border goes right or below."""
    image = image.convert("RGB")
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image` as (width, height) = `size`, bicubic."""
    return image.resize(size, Image.Resampling.BICUBIC)


def normalised(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[3, height, width] float32: 0..255 -> 0..1, minus mean, over standard deviation."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    pixels = (pixels - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
