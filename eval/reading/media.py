"""The pictures and clips of questions, read and made ready once however many questions and arms ask about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.reading.images import open_clip, open_image
from eval.reading.recent import Recent
from eval.reading.sample import Sample
from eval.reading.video import Clips
from pruners.models.request import Request


@dataclass
class Media:
    """What one question shows, as the model's family prepares it."""

    images: list[Any]
    video: Any | None
    size: tuple[int, int]
    key: str  # by content: equal pictures, equal keys

    @property
    def bytes(self) -> int:
        """How much memory the prepared tensors take."""
        shown = [*self.images, *([] if self.video is None else [self.video])]
        return sum(tensor.nbytes for item in shown for tensor in item.inputs.values())


NOTHING = Media([], None, (0, 0), "")


def request(sample: Sample, conversation: str | None, clips: Clips | None = None) -> Request:
    """A question with its picture, or with the frames of its clip, as they are."""
    images = [] if sample.video is not None or sample.image is None else [open_image(sample)]
    frames = None if sample.video is None else open_clip(sample, Clips() if clips is None else clips)
    return Request(sample.text, images, frames, conversation)


class Shelf(Recent[Media]):
    """Media by the file as it is now."""

    def __init__(self, adapter: Any, budget: int = 512 << 20) -> None:
        super().__init__(budget, lambda media: media.bytes)
        self.adapter, self.clips, self.read = adapter, Clips(), 0

    def __call__(self, sample: Sample) -> Media:
        if sample.image is None and sample.video is None:
            return NOTHING
        key = name_of(sample)
        media = self.get(key)
        if media is None:
            media = self._ready(sample)
            if key is not None:
                self.put(key, media)
        return media

    def _ready(self, sample: Sample) -> Media:
        self.read += 1
        if sample.video is not None:
            frames = open_clip(sample, self.clips)
            return Media([], self.adapter.clip(frames), frames[0].size, content(frames))
        image = open_image(sample)
        return Media([self.adapter.picture(image)], None, image.size, content([image]))


def name_of(sample: Sample) -> Any:
    """What tells a sample's picture from others without reading it; None when the file cannot be looked at."""
    source = sample.video or sample.image
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    try:
        facts = source.stat()  # type: ignore[union-attr]
    except OSError:
        return None  # reading it will say what is wrong
    return source, sample.root, facts.st_mtime_ns, facts.st_size


def content(images: Sequence[Any]) -> str:
    """A digest of the pixels of pictures or frames."""
    seen = hashlib.sha256()
    for image in images:
        seen.update(f"{image.size}".encode())
        seen.update(image.tobytes())
    return seen.hexdigest()
