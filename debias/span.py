"""Where the visual tokens of one image, or one clip, stand in one sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Tuple

import torch
from torch import Tensor


def pair(value: Tuple[int, int], what: str) -> Tuple[int, int]:
    """Two positive whole numbers, or a ValueError that names what was given."""
    try:
        first, second = (int(value[0]), int(value[1]))
        whole = len(value) == 2 and first == value[0] and second == value[1]
    except (TypeError, ValueError, IndexError, KeyError):
        whole = False
    if not whole or first < 1 or second < 1:
        raise ValueError(f"{what} must be two whole numbers of at least 1; got {value!r}")
    return first, second


@dataclass(frozen=True, eq=False)
class Span:
    """The visual tokens of one image or clip: first position, grid, and which raster cells are still there.

    start     position of the first visual token in the sequence
    grid      (rows, columns) of one image or frame
    index     [V] original raster index of each token still there; None: all, in order; -1: no patch (a merged token)
    frames    frames of a clip
    size      (width, height) of the source before it was padded to a square; None: never padded
    fraction  [length] share of each token's patch that is padding, for layouts that are not one padded square (tiles)
    special   [length] True where a token is not a patch (a frame's CLS, a newline)
    length    tokens of the unpruned span; frames * rows * columns unless there are special tokens or tiles
    """

    start: int
    grid: Tuple[int, int]
    index: Optional[Tensor] = None
    frames: int = 1
    size: Optional[Tuple[int, int]] = None
    fraction: Optional[Tensor] = None
    special: Optional[Tensor] = None
    length: Optional[int] = None

    def __post_init__(self) -> None:
        rows, columns = pair(self.grid, "grid (rows, columns)")
        object.__setattr__(self, "grid", (rows, columns))
        if self.size is not None:
            object.__setattr__(self, "size", pair(self.size, "size (width, height)"))
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1; got {self.frames}")
        if self.start < 0:
            raise ValueError(f"start must not be negative; got {self.start}")
        if self.length is None:
            length = next(
                (len(t) for t in (self.special, self.fraction) if t is not None), self.frames * rows * columns
            )
            object.__setattr__(self, "length", length)
        for name, flags in (("fraction", self.fraction), ("special", self.special)):
            if flags is not None and tuple(flags.shape) != (self.length,):
                raise ValueError(
                    f"{name} must have shape ({self.length},), one entry per token; got {tuple(flags.shape)}"
                )
        if self.index is not None:
            object.__setattr__(self, "index", self._checked(self.index))

    def _checked(self, index: Tensor) -> Tensor:
        if index.dim() != 1 or index.dtype.is_floating_point or index.dtype == torch.bool:
            raise ValueError(f"index must be a 1-D tensor of whole numbers; got {tuple(index.shape)} {index.dtype}")
        # Values are checked where that costs nothing: reading a device tensor would stall the device.
        if index.device.type == "cpu" and len(index):
            low, high = int(index.min()), int(index.max())
            if low < -1 or high >= self.total:
                raise ValueError(f"index must lie in -1..{self.total - 1}; got values from {low} to {high}")
        return index.long()

    @property
    def total(self) -> int:
        """Tokens of the span before any of them was pruned (`length`, once it is filled in)."""
        assert self.length is not None
        return self.length

    def __len__(self) -> int:
        return self.total if self.index is None else len(self.index)

    def at(self, index: Optional[Tensor]) -> Span:
        """The same span with other tokens left."""
        return replace(self, index=index)

    def raster(self, device: Optional[torch.device] = None) -> Tensor:
        """[V] the original raster index of every token that is there."""
        if self.index is None:
            return torch.arange(self.total, device=device)
        return self.index if device is None else self.index.to(device, non_blocking=True)
