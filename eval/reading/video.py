"""Frames of a clip, chosen as Video-LLaVA chooses them: evenly from the first to the last, decoded once per content.

The decoding itself happens in other processes (eval/reading/decoder.py), which a file may crash,
hang or fill without harm.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from queue import LifoQueue
from typing import Any

from PIL import Image

from eval.core.files import sha256
from eval.reading.decoder import FRAMES, MAX_PIXELS, places
from eval.reading.recent import Recent
from pruners.loading.files import only_regular, opened

__all__ = ["FRAMES", "Clips", "places", "playable", "read_frames"]
SECONDS = 300  # for one clip
log = logging.getLogger("debias")


def read_frames(path: Path, frames: int = FRAMES) -> list[Image.Image]:
    """`frames` RGB pictures of a video file; ValueError names the file when it cannot be read."""
    answer, pictures = _ask(path, frames)
    if answer["count"] < frames:
        log.warning("%s has %d frames; %d are shown, some twice", path, answer["count"], frames)
    return pictures


def playable(path: Path) -> None:
    """ValueError unless it is a clip whose first frame can be decoded: cheap, and not the whole truth."""
    _ask(path, 0)


def _ask(path: Path, frames: int) -> tuple[dict[str, Any], list[Image.Image]]:
    try:
        only_regular(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such video") from None
    except OSError as error:
        raise ValueError(f"{path}: expected a video ({error.strerror})") from None
    decoder = _decoders.get()
    try:
        return decoder(path, frames)
    finally:
        _decoders.put(decoder)


class Decoder:
    """One process that decodes; started when first needed, and again after a file that ended it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, path: Path, frames: int) -> tuple[dict[str, Any], list[Image.Image]]:
        seconds = int(os.environ.get("DEBIAS_DECODER_SECONDS") or SECONDS)
        if self.process is None or self.process.poll() is not None:
            self.process = start(seconds)
        try:
            return self._exchange(self.process, path, frames)
        except (EOFError, OSError):
            self.process.kill()
            status, self.process = self.process.wait(), None
            if status == -signal.SIGALRM:
                what = f"needed more than {seconds} seconds"
            else:
                what = f"crashed ({signal.Signals(-status).name if status < 0 else f'exit status {status}'})"
            raise ValueError(f"{path}: the video decoder {what}; expected a whole video file") from None
        except Unreadable:
            raise
        except BaseException:  # half an answer is left in the pipe
            self.process.kill()
            self.process.wait()
            self.process = None
            raise

    def _exchange(
        self, process: subprocess.Popen[bytes], path: Path, frames: int
    ) -> tuple[dict[str, Any], list[Image.Image]]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"path": str(path), "frames": frames}).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline(1 << 20)
        if not line.endswith(b"\n"):
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        pictures = []
        for width, height in answer.get("sizes", ()):
            if not 0 < width * height <= MAX_PIXELS:
                raise EOFError
            pixels = process.stdout.read(3 * width * height)
            if len(pixels) < 3 * width * height:
                raise EOFError
            pictures.append(Image.frombytes("RGB", (width, height), pixels))
        if "error" in answer:
            raise Unreadable(answer["error"])
        return answer, pictures


class Unreadable(ValueError):
    """The decoder's word about a file; it continues with the next file."""


def start(seconds: int) -> subprocess.Popen[bytes]:
    """A process that decodes, with so many seconds for each clip."""
    code = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), code)))
    return subprocess.Popen(
        [sys.executable, "-m", "eval.reading.decoder", str(seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


_decoders: LifoQueue[Decoder] = LifoQueue()
for _ in range(max(1, min(4, (os.cpu_count() or 1)))):
    _decoders.put(Decoder())


class Clips(Recent[list[Image.Image]]):
    """Decoded clips by content."""

    def __init__(self, budget: int = 1 << 30) -> None:
        super().__init__(budget, lambda clip: sum(3 * frame.width * frame.height for frame in clip))

    def __call__(self, path: Path, frames: int = FRAMES) -> list[Image.Image]:
        try:
            with opened(path) as file:
                key = sha256(file), frames
        except OSError as error:
            raise ValueError(f"{path}: expected a video ({error.strerror})") from None
        clip = self.get(key)
        if clip is None:
            clip = read_frames(path, frames)
            self.put(key, clip)
        return clip
