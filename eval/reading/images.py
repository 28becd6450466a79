"""Opening pictures from anywhere: inside the folder, within bounds, whole, and always RGB."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from eval.reading.read import Fault
from eval.reading.sample import Sample
from eval.reading.video import Clips, playable, read_frames
from pruners.loading.files import only_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no format that runs another program
BROKEN = (OSError, ValueError, SyntaxError, IndexError, MemoryError, OverflowError, struct.error)  # what Pillow raises
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
MAX_SIDE = 16_384
MAX_PIXELS = 80_000_000


def open_image(sample: Sample, pixels: int = MAX_PIXELS) -> Image.Image:
    """The sample's picture as RGB, as LLaVA converts it: palettes resolved, alpha dropped, EXIF rotation ignored.

    The path must not leave the sample's folder. pixels: how many it may have.
    """
    name, image = _open(sample, pixels)
    with image:
        try:
            image.load()
            return eight_bits(image).convert("RGB")
        except BROKEN as error:
            raise ValueError(f"{name}: expected a whole {image.format} picture ({error})") from None


def of_folder(folder: Path, limit: int, video: bool = False) -> Iterator[Any]:
    """Pictures of a folder, or clips as lists of frames, read as they are asked for; the same ones every time."""
    endings = VIDEOS if video else PICTURES
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings)
    if not paths:
        raise ValueError(f"{folder} holds no {'videos' if video else 'pictures'} ({', '.join(endings)})")
    random.Random(0).shuffle(paths)
    for path in paths[:limit]:
        yield read_frames(path) if video else open_image(Sample(path.name, "", image=path))


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 bits a pixel scaled to 8; Pillow alone would take every value above 255 for white."""
    if not image.mode.startswith("I"):
        return image
    import numpy as np

    values = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def open_clip(sample: Sample, clips: Clips) -> list[Image.Image]:
    """The frames of the sample's clip."""
    assert sample.video is not None
    return clips(inside(sample.video, sample.root))


def check_image(sample: Sample) -> Fault | None:
    """What is wrong with the picture or clip, if anything: JPEGs decoded at an eighth, clips to their first frame."""
    if sample.video:
        try:
            playable(inside(sample.video, sample.root))
        except ValueError as error:
            return Fault(f"question {sample.key!r}", str(error))
        return None
    name = ""
    try:
        name, image = _open(sample)
        with image:
            image.draft("RGB", (1, 1))
            image.load()
    except BROKEN as error:
        return Fault(name or f"question {sample.key!r}", str(error))
    return None


def _open(sample: Sample, pixels: int = MAX_PIXELS) -> tuple[str, Image.Image]:
    if sample.image is None:
        raise ValueError(f"question {sample.key!r} has no picture")
    source: Path | BytesIO
    if isinstance(sample.image, bytes):
        name, source = f"picture of question {sample.key!r}", BytesIO(sample.image)
    else:
        name, source = f"{sample.image} of question {sample.key!r}", inside(sample.image, sample.root)
    try:
        if isinstance(source, Path):
            only_regular(source)
        image = Image.open(source, formats=FORMATS)
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name}: expected at most {pixels:,} pixels") from None
    except BROKEN as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{name}: expected a picture ({', '.join(FORMATS)}): {reason}") from None
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > pixels or not width * height:
        image.close()
        raise ValueError(
            f"{name}: expected sides of 1 to {MAX_SIDE:,} and at most {pixels:,} pixels, found {width} x {height}"
        )
    return name, image


def inside(path: Path, root: Path | None) -> Path:
    """The path, resolved. The folder may itself be a link; a path or a link that leads out of it is refused."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a name that no file can have
        raise ValueError(f"{str(path)!r}: expected the path of a file ({error})") from None
    if root and not real.is_relative_to(root.resolve()):
        raise ValueError(f"{path}: leads out of {root}; expected a path inside that folder")
    return real
