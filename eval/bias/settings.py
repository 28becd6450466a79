"""What `diagnose` measures, as a value. Loads no torch, so that help pages and flags are quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.answering import early
from eval.answering.checkpoints import folder_of
from eval.core.embedded import BARE, EMBEDDED, SMOL
from eval.core.settings import setting
from eval.reading.read import lines

# Five requests; everything but the stability over prompts is measured with the first.
PROMPTS = (
    "What colour is the circle?\nAnswer the question using a single word or phrase.",
    "How many red shapes are there?\nAnswer the question using a single word or phrase.",
    "What is written on the white sign?\nAnswer the question using a single word or phrase.",
    "Is there a blue square in the image?\nAnswer the question using a single word or phrase.",
    "What is the shape directly below the green ring?\nAnswer the question using a single word or phrase.",
)
FEWEST = 4  # pictures: two of either half


@dataclass(frozen=True)
class DiagnosisSettings:
    """What is measured, and on which pictures."""

    model: str | None = setting(None, "a checkpoint folder or hub id (default: the embedded model)")
    device: str | None = setting(
        None, "cpu, cuda, cuda:1, or auto to spread a large model (default: cuda where there is a GPU)"
    )
    video: bool = setting(False, "clips instead of pictures")
    text_only: bool = setting(False, "random words for visual tokens: the bias of the language model")
    images: Path | None = setting(None, "folder of pictures, or of videos (default: the tiny world's)")
    prompts: Path | None = setting(None, "text file, one request a line; the first is the main request")
    limit: int = setting(256, "how many pictures")
    keep: float = setting(0.11, "tokens that would be kept: a count, or a share < 1")
    layers: str | None = setting(None, "which layers, as in 1,7,15 (default: all)")
    heads: bool = setting(False, "also the rise of every head, before and after RoPE")
    seed: int = setting(0, "another seed draws other pictures", type=int)
    batch_size: int = setting(8, "pictures at once")

    def __post_init__(self) -> None:
        if self.text_only and (self.video or self.images is not None):
            raise ValueError("--text-only looks at no picture; leave out --images and --video")
        if self.limit < FEWEST:
            raise ValueError(
                f"--limit {self.limit}: half of the pictures fit the trend, the others measure; give at least {FEWEST}"
            )
        early.check_keep(int(self.keep) if self.keep >= 1 else self.keep)
        self.requests()
        if self.model not in (SMOL, BARE):  # these two are put together later
            folder = str(folder_of(self.model or str(EMBEDDED["video" if self.video else "image"])))
            if self.layers is not None:
                early.layers_named(self.layers, early.depth_of(folder))

    def requests(self) -> tuple[str, ...]:
        """What is asked about every picture, the main request first."""
        if self.prompts is None:
            return PROMPTS
        found = tuple(line.strip() for _, line in lines(self.prompts))
        if not found:
            raise ValueError(f"--prompts {self.prompts}: the file is empty; expected one request a line")
        return found
