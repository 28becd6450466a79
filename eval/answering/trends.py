"""Which trend an arm divides by: the model's own, a published trend, a trend fitted on the way, or none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debias import Padding, Reading, Trend
from debias import trends as files
from debias.names import PICTURES
from eval.core.settings import TRENDS

# What is fitted now.
KINDS = {
    "fitted": "exponential",
    "average": "average",
    "inverse_cubic": "inverse_cubic",
    "rope": "rope",
    "rope-heads": "rope",
}
# Where the attention itself is read otherwise. SparseVLM's second version takes 14 of LLaVA's 32 heads.
READINGS = {"unrotated": Reading(rope=False), "rope-heads": Reading(heads=14 / 32)}
# What is measured on pictures without content, for every layout and length of prompt.
BLANKS = {f"blank-{picture}": Trend.blank(picture) for picture in PICTURES}
BLANKS |= {f"minus-{picture}": Trend.blank(picture, subtract=True) for picture in PICTURES}


def padded(mode: str) -> Padding | None:
    """The padding that --padding names: a rule, or "sink:12" for sinks by another threshold; None: the method's own."""
    rule, colon, number = mode.partition(":")
    if mode == "auto":
        return None
    try:
        return (Padding.sink(float(number)) if colon else Padding.sink()) if rule == "sink" else Padding(rule=rule)
    except ValueError as error:
        raise ValueError(f"--padding {mode}: {error}") from None


def identity(mode: str, stages: str = "first", as_released: bool = False, padding: str = "auto") -> str:
    """What of the choice decides the numbers: the way it is made, or the content of the file; the cuts it acts at; and
    how padding is told, where that is not the method's own rule."""
    said = mode
    if mode not in TRENDS:
        said = f"{Path(mode).name} {hashlib.sha256(Path(mode).read_bytes()).hexdigest()[:12]}"
    said += f", {stages} cuts" if stages != "first" else ""
    said += ", as released" if as_released else ""
    return said + (f", padding by {padding}" if padding != "auto" else "")


def trended(pruner: Any) -> bool:
    """Whether a trend means anything to the method: its score comes from the decoder's attention."""
    return "trend" in pruner.arms()


@dataclass(frozen=True)
class Known:
    """What decides which trend a method divides by on one benchmark of one model."""

    method: str
    benchmark: str | None
    media: str
    tokens: int | None  # of a picture of this model; None: it depends on the picture
    own: Path | None  # the trends that came with the model

    def choose(self, mode: str) -> Trend | str | None:
        """The trend that there is, or the kind of trend that has to be fitted; None: nothing is divided."""
        if mode == "unrotated" or mode in BLANKS:
            return BLANKS.get(mode)
        if mode == "online":
            return Trend.online()
        if mode == "published":
            return Trend.published(self.method, self._published_on())
        if mode not in TRENDS:
            return files.find(self.method, self.benchmark, mode)
        if mode == "auto":
            if self.own is not None and any(record["method"] == self.method for record in files.load(self.own)):
                return files.find(self.method, self.benchmark, self.own)
            if self.media == "image" and is_published(self.method, self.tokens):
                return Trend.published(self.method, self._published_on())
        return KINDS.get(mode, "exponential")

    def _published_on(self) -> str | None:
        """The benchmark's own curve where it has any; otherwise the mean of the method's rates."""
        known = {record["benchmark"] for record in files.load() if record["method"] == self.method}
        return self.benchmark if self.benchmark in known or files.EVERY in known else None


def is_published(method: str, tokens: int | None) -> bool:
    """Whether the method has released curves over so many visual tokens."""
    return any((record["method"], record["length"]) == (method, tokens) for record in files.load())
