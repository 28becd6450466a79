"""Decodes clips, in a process of its own, so that a broken or hostile file harms nothing but the decoder.

`python -m eval.reading.decoder` answers requests that come as lines of JSON on standard input: a line of JSON,
then the frames as raw RGB. Files that crash it, hang it or want too much memory end this process;
eval/reading/video.py says which file it was.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FRAMES = 8
MAX_PIXELS = 80_000_000  # of one frame
MEMORY = 8 << 30  # bytes of address space
THREADS = 4


def places(count: int, frames: int = FRAMES) -> list[int]:
    """Which of `count` frames are looked at; a clip of fewer shows some of them twice."""
    return [int(place) for place in np.linspace(0, count - 1, frames, dtype=int)]


def decoded(path: Path, frames: int = FRAMES) -> tuple[list[Image.Image], int]:
    """`frames` RGB pictures of a video file, and how many it has; ValueError names the file if it cannot be read."""
    with _reading(path) as av:
        count = _packets(av, path)
        chosen, seen = _chosen(av, path, count, frames)
        if seen != count:  # what the file announces is not always what can be decoded
            count = seen
            chosen, _ = _chosen(av, path, count, frames)
        return [chosen[i] for i in places(count, frames)], count


def starts(path: Path) -> None:
    """ValueError unless it is a clip whose first frame can be decoded: cheap, and not the whole truth."""
    with _reading(path) as av, av.open(str(path)) as container:
        if not container.streams.video or next(_pictures(container, path), None) is None:
            raise ValueError(f"{path}: expected a video, found no frame that can be decoded")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """PyAV, with every error of it as a ValueError that names the file."""
    try:
        import av
    except ImportError:
        raise ValueError("reading videos needs the package av: pip install av") from None
    try:
        yield av
    except FileNotFoundError:
        raise ValueError(f"{path}: no such video") from None
    except MemoryError:
        raise ValueError(f"{path}: expected a video that can be decoded in {MEMORY >> 30} GiB") from None
    except (av.FFmpegError, OSError, KeyError, OverflowError) as error:
        raise ValueError(f"{path}: expected a whole video file ({error})") from None


def _packets(av: Any, path: Path) -> int:
    """How many frames the file holds, without decoding them."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path}: expected a video, found a file without a picture track")
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _chosen(av: Any, path: Path, count: int, frames: int) -> tuple[dict[int, Image.Image], int]:
    """The wanted frames of `count`, and how many there really are."""
    wanted, images, seen = set(places(count, frames)), {}, 0
    with av.open(str(path)) as container:
        for seen, frame in enumerate(_pictures(container, path), 1):
            if seen - 1 in wanted:
                images[seen - 1] = frame.to_image().convert("RGB")
    if not seen:
        raise ValueError(f"{path}: expected a video, found no frame that can be decoded")
    return images, seen


def _pictures(container: Any, path: Path) -> Iterator[Any]:
    stream = container.streams.video[0]
    stream.thread_type, stream.codec_context.thread_count = "AUTO", THREADS
    for frame in container.decode(video=0):
        if frame.width * frame.height > MAX_PIXELS:
            raise ValueError(
                f"{path}: expected frames of at most {MAX_PIXELS:,} pixels, found {frame.width} x {frame.height}"
            )
        yield frame


def main() -> None:
    """Answer requests until standard input ends."""
    seconds = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    logging.basicConfig(format="%(message)s")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the libraries print is not an answer
    for line in sys.stdin.buffer:
        signal.alarm(seconds)  # ends this process, also inside the decoder, also when no process waits any more
        request = json.loads(line)
        path, frames = Path(request["path"]), request["frames"]
        pictures: list[Image.Image] = []
        try:
            if frames:
                pictures, count = decoded(path, frames)
                answer: dict[str, Any] = {"count": count, "sizes": [picture.size for picture in pictures]}
            else:
                starts(path)
                answer = {}
        except ValueError as error:
            answer = {"error": str(error)}
        signal.alarm(0)
        out.write(json.dumps(answer).encode() + b"\n")
        for picture in pictures:
            out.write(picture.tobytes())
        out.flush()


if __name__ == "__main__":
    main()
