"""Pictures as the models were trained on them, with PIL and numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pruners.loading.folder import read_object

Colour = tuple[int, ...]
Index = np.ndarray[Any, np.dtype[np.int_]]
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


Fill = Literal["mean", "constant", "random", "mirror"]
CONSTANT: Colour = (0, 0, 0)
BAND = 1 << 24  # pixels of the padded square held at once


def square_resized(image: Image.Image, colour: Colour, edge: int, fill: Fill = "mean") -> Image.Image:
    """resized(square(image, colour, fill), (edge, edge)), to the bit, without the whole square: a picture of 16384 x 1
    would need 800 MB. Resizing goes over the rows first, each on its own, so they may come in bands."""
    side = max(image.size)
    if side * side <= BAND or edge == side:
        return resized(square(image, colour, fill), (edge, edge))
    rows, height = bands(image.convert("RGB"), colour, fill), max(1, BAND // side)
    narrow = Image.new("RGB", (edge, side))
    for first in range(0, side, height):
        band = rows(first, min(height, side - first))
        narrow.paste(resized(band, (edge, band.height)), (0, first))
    return resized(narrow, (edge, edge))


def square(image: Image.Image, colour: Colour, fill: Fill = "mean") -> Image.Image:
    """Padded to a square, the picture in the middle; the odd pixel of border goes right or below.

    fill: what the border shows. mean: `colour`, as the models were trained; constant: black; random: noise, other noise
    for every picture, always the same for each; mirror: the picture mirrored at its edges, as often as needed.
    """
    image = image.convert("RGB")
    return image if image.width == image.height else bands(image, colour, fill)(0, max(image.size))


def bands(image: Image.Image, colour: Colour, fill: Fill) -> Callable[[int, int], Image.Image]:
    """(first, height) -> so many rows of the padded square of an RGB picture."""
    side = max(image.size)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    words = -(-side * 3 // 8)  # of noise in a row
    seed = crc32(image.tobytes()) if fill == "random" else 0

    def plain(first: int, height: int) -> Image.Image:
        return Image.new("RGB", (side, height), CONSTANT if fill == "constant" else colour)

    def noise(first: int, height: int) -> Image.Image:
        drawn = np.random.PCG64(seed).advance(first * words).random_raw(height * words).astype("<u8").view(np.uint8)
        return Image.fromarray(drawn.reshape(height, -1)[:, : side * 3].reshape(height, side, 3).copy())

    def mirrored(first: int, height: int) -> Image.Image:
        rows, columns = np.arange(first, first + height) - top, np.arange(side) - left
        return Image.fromarray(
            np.asarray(image)[there_and_back(rows, image.height)][:, there_and_back(columns, image.width)]
        )

    if fill == "mirror":
        return mirrored
    under = noise if fill == "random" else plain

    def bordered(first: int, height: int) -> Image.Image:
        band = under(first, height)
        band.paste(image, (left, top - first))
        return band

    return bordered


def there_and_back(index: Index, length: int) -> Index:
    """Places of a line that is mirrored at both ends, without end: ... 1 0 0 1 ... n-1 n-1 ..."""
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image` as (width, height) = `size`, bicubic."""
    return image.resize(size, Image.Resampling.BICUBIC)


def tiles(image: Image.Image, edge: int) -> list[Image.Image]:
    """`image` cut into squares of `edge` pixels, row by row."""
    corners = [(x, y) for y in range(0, image.height, edge) for x in range(0, image.width, edge)]
    return [image.crop((x, y, x + edge, y + edge)) for x, y in corners]


def normalised(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[3, height, width] float32: 0..255 -> 0..1, minus mean, over standard deviation."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    pixels = (pixels - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
