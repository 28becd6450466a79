"""Frames of a clip, chosen as Video-LLaVA chooses them: evenly from the first to the last, decoded once per content."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

FRAMES = 8
log = logging.getLogger("debias")


def places(count: int, frames: int = FRAMES) -> list[int]:
    """Which of `count` frames are looked at; a clip of fewer shows some of them twice."""
    return [int(place) for place in np.linspace(0, count - 1, frames, dtype=int)]


def read_frames(path: Path, frames: int = FRAMES) -> list[Image.Image]:
    """`frames` RGB pictures of a video file; ValueError names the file when it cannot be read."""
    with _reading(path) as av:
        count = _packets(av, path)
        chosen, seen = _chosen(av, path, count, frames)
        if seen != count:  # what the file announces is not always what can be decoded
            count = seen
            chosen, _ = _chosen(av, path, count, frames)
        if count < frames:
            log.warning("%s has %d frames; %d are shown, some twice", path, count, frames)
        return [chosen[i] for i in places(count, frames)]


def playable(path: Path) -> None:
    """ValueError unless it is a clip whose first frame can be decoded: cheap, and not the whole truth."""
    with _reading(path) as av, av.open(str(path)) as container:
        if not container.streams.video or next(container.decode(video=0), None) is None:
            raise ValueError(f"{path}: expected a video, found no frame that can be decoded")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """PyAV, with every error of it as a ValueError that names the file."""
    try:
        import av
    except ImportError:
        raise ValueError("reading videos needs the package av: pip install 'debias[video]'") from None
    try:
        yield av
    except FileNotFoundError:
        raise ValueError(f"{path}: no such video") from None
    except (av.FFmpegError, OSError, KeyError) as error:
        raise ValueError(f"{path}: expected a whole video file ({error})") from None


def _packets(av: Any, path: Path) -> int:
    """How many frames the file holds, without decoding them."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path}: expected a video, found a file without a picture track")
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _chosen(av: Any, path: Path, count: int, frames: int) -> tuple[dict[int, Image.Image], int]:
    """The wanted ones of `count` frames, and how many there really are."""
    wanted, found, seen = set(places(count, frames)), {}, 0
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for seen, frame in enumerate(container.decode(video=0), 1):
            if seen - 1 in wanted:
                found[seen - 1] = frame.to_image().convert("RGB")
    if not seen:
        raise ValueError(f"{path}: expected a video, found no frame that can be decoded")
    return found, seen


class Clips:
    """Decoded clips by content, the least recently used forgotten first; safe to share between threads."""

    def __init__(self, budget: int = 1 << 30) -> None:
        self.budget, self.held = budget, 0
        self._clips: OrderedDict[str, list[Image.Image]] = OrderedDict()
        self._lock = Lock()

    def __call__(self, path: Path, frames: int = FRAMES) -> list[Image.Image]:
        try:
            with open(path, "rb") as file:
                key = f"{hashlib.sha256(file.read()).hexdigest()} {frames}"
        except OSError as error:
            raise ValueError(f"{path}: expected a video ({error.strerror})") from None
        with self._lock:
            if key in self._clips:
                self._clips.move_to_end(key)
                return self._clips[key]
        clip = read_frames(path, frames)
        with self._lock:
            if key not in self._clips:
                self._clips[key] = clip
                self.held += _size(clip)
            while self.held > self.budget and len(self._clips) > 1:
                self.held -= _size(self._clips.popitem(last=False)[1])
        return clip


def _size(clip: list[Image.Image]) -> int:
    return sum(3 * frame.width * frame.height for frame in clip)
