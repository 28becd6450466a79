"""What a pruned run did: which tokens stayed, their scores, how many, how long. All stays on the device until read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pruners.engine.sequence import Choice
from pruners.view import Tokens


class Clock:
    """Milliseconds between marks, without waiting for the device before somebody reads them."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []
        self.start: Any = None

    def begin(self, device: torch.device) -> None:
        """Start the clock, without waiting for the device."""
        self.start = self._mark(device)

    def end(self, device: torch.device) -> None:
        """Stop it, and keep the pair."""
        if self.start is not None:
            self.pairs.append((self.start, self._mark(device)))
            self.start = None

    @property
    def ms(self) -> list[float]:
        """Milliseconds of every pair; waits for the device."""
        return [self._between(*pair) for pair in self.pairs]

    @staticmethod
    def _between(begun: Any, ended: Any) -> float:
        if isinstance(begun, float):
            return float(ended - begun) * 1000
        ended.synchronize()
        return float(begun.elapsed_time(ended))

    @staticmethod
    def _mark(device: torch.device) -> Any:
        if device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event


@dataclass
class Image:
    """One image's way through the cuts."""

    tokens: Tokens  # as they entered
    row: int
    layers: Sequence[int]  # the decoder layer of each cut
    budget: float  # the method's own accounting
    choices: list[Choice] = field(default_factory=list)

    def raster(self, stage: int, own: bool = True) -> Tensor:
        """Raster indices behind a cut: of the image's own tokens, or of the places that new ones take."""
        choice = self.choices[stage]
        index = choice.tokens.raster.index_select(0, choice.place)
        if choice.unmerged is None:
            return index if own else index[:0]
        return index[choice.unmerged if own else ~choice.unmerged]

    def counts(self, depth: int) -> dict[str, Any]:
        """Tokens of this image after each cut and on average over `depth` layers, padding among them, as a record."""
        after = [len(choice.place) for choice in self.choices]
        edges = [0, *self.layers[: len(after)], depth]
        held = [len(self.tokens), *after]
        mean = sum(n * (edges[i + 1] - edges[i]) for i, n in enumerate(held)) / depth
        whole = self.tokens.whole
        padding = [
            0 if whole is None else int((~whole[self.raster(stage).to(whole.device)]).sum())
            for stage in range(len(after))
        ]
        return {"after": after, "mean": mean, "own": self.budget, "padding": padding}


class Trace:
    """The latest prefill of a `with pruner(model)` block.

    Stages count the cuts from 0. Images are numbered in prompt order, as `sizes` are.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.restart()

    def restart(self) -> None:
        """Forget everything: another prefill begins."""
        self.images: list[Image] = []
        self.prefill, self.decode = Clock(), Clock()

    def add(self, tokens: Tokens, layers: Sequence[int], budget: float, row: int) -> None:
        """Take in the next image, before anything is cut."""
        self.images.append(Image(tokens, row, layers, budget))

    def record(self, choice: Choice) -> None:
        """Take in what one cut did to one image."""
        self.images[choice.tokens.image].choices.append(choice)

    @property
    def rows(self) -> list[int]:
        """Of each image, its row in the batch."""
        return [image.row for image in self.images]

    @property
    def stages(self) -> int:
        """How many cuts there were."""
        return len(self.images[0].choices) if self.images else 0

    @property
    def kept(self) -> list[list[Tensor]]:
        """By stage and image: the original raster indices of the tokens that stayed."""
        return [[image.raster(stage) for image in self.images] for stage in range(self.stages)]

    @property
    def merged(self) -> list[list[Tensor]]:
        """By stage and image: the raster indices at the centres of recycled tokens; for most methods there are none."""
        return [[image.raster(stage, own=False) for image in self.images] for stage in range(self.stages)]

    @property
    def scores(self) -> list[list[tuple[Tensor, Tensor] | None]]:
        """By stage and image: the scores before and after debiasing of the tokens that were there; None: no score."""
        return [[image.choices[stage].scores for image in self.images] for stage in range(self.stages)]

    @property
    def counts(self) -> list[dict[str, Any]]:
        """How many tokens each image had.

        after: after each cut.
        mean: per layer, on average.
        own: as the authors of the method count them.
        padding: silenced padding among the kept tokens; above 0 only where too few other tokens were left.
        """
        return [image.counts(self.layers) for image in self.images]

    @property
    def ms(self) -> dict[str, float]:
        """Milliseconds of the prefill and of each decoded token ("decode"), and how many tokens ("steps") that were."""
        decode = self.decode.ms
        steps = len(decode)
        return {
            "prefill": sum(self.prefill.ms),
            "decode": sum(decode) / steps if steps else 0.0,
            "steps": float(steps),
        }
