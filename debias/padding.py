"""Which visual tokens show the border that made an image square."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Dict, Optional, Tuple

import torch
from torch import Tensor

from debias.names import RULES
from debias.span import Span, pair

SINK = 20.0  # times its root mean square that a hidden state of a sink reaches


def covered(total: int, before: float, content: int, cells: int) -> Tensor:
    """[cells] share of each of `cells` equal pieces of 0..total that lies in before..before+content, in float64.

    Lengths are counted in units of 1/cells, so that for a whole `before` every number below is a whole number.
    """
    edges = torch.arange(cells + 1, dtype=torch.float64, device="cpu") * total
    edges = edges.clamp_(before * cells, (before + content) * cells)
    return (edges[1:] - edges[:-1]) / total


def canvas_fraction(size: Tuple[int, int], canvas: Tuple[int, int], grid: Tuple[int, int]) -> Tensor:
    """[rows*columns] share of each patch that is border where an image of `size` lies in the middle of a canvas.

    `size` and `canvas` are (width, height) in pixels, `grid` is (rows, columns) of the patches that tile the canvas. An
    odd border pixel goes right and below.
    """
    width, height = pair(size, "size (width, height)")
    across, down = pair(canvas, "canvas (width, height)")
    rows, columns = pair(grid, "grid (rows, columns)")
    if width > across or height > down:
        raise ValueError(f"an image of {width}x{height} does not fit on a canvas of {across}x{down}")
    vertical = covered(down, (down - height) // 2, height, rows)
    horizontal = covered(across, (across - width) // 2, width, columns)
    return (1 - vertical[:, None] * horizontal).flatten().float()


def fraction(size: Tuple[int, int], grid: Tuple[int, int], even: bool = False) -> Tensor:
    """[rows*columns] share of each patch that is border after padding an image to a square, centred, and resizing it.

    The image starts at pixel (long - short) // 2, as LLaVA pastes it; `even` splits an odd border into two halves.
    """

    def border(side: int, content: int, cells: int) -> Tensor:
        gap = side - content
        return 1 - covered(side, gap / 2 if even else gap // 2, content, cells)

    return _lines(border, size, grid)


def sampled(size: Tuple[int, int], grid: Tuple[int, int]) -> Tensor:
    """[rows*columns] the 0/1 content mask of the padded square, resized bilinearly to the grid (centres aligned)."""

    def content_at(side: int, content: int, cells: int) -> Tensor:
        first = (side - content) // 2
        at = ((torch.arange(cells, dtype=torch.float64, device="cpu") + 0.5) * (side / cells) - 0.5).clamp_(0, side - 1)
        # Interpolated, a 0/1 step rises over the one pixel before the content and falls over the one after it.
        return torch.minimum(at - (first - 1), (first + content) - at).clamp_(0, 1)

    return _lines(content_at, size, grid)


def shrunk(side: int, content: int, cells: int) -> Tensor:
    """[cells] 1 where content stays when Pillow resizes a 0/1 picture bilinearly: a triangle as wide as two cells, its
    weights in whole numbers of 2**-22, the sum rounded to 0 or 1.
    """
    scale, first = side / cells, (side - content) // 2
    at, middle = (torch.arange(count, device="cpu").double() + 0.5 for count in (side, cells))
    weight = (1 - ((at - middle[:, None] * scale) / max(scale, 1.0)).abs()).clamp(min=0)
    whole = (weight / weight.sum(1, keepdim=True) * 2**22 + 0.5).floor()
    return (whole[:, first : first + content].sum(1) >= 2**21).float()


def cropped(side: int, content: int, cells: int) -> Tensor:
    """[cells] 1 between equal margins of whole lines, as many as the content leaves free."""
    margin = (cells - int(content * (cells / side))) // 2
    line = torch.arange(cells, device="cpu")
    return ((line >= margin) & (line < cells - margin)).float()


def _lines(share: Callable[[int, int, int], Tensor], size: Tuple[int, int], grid: Tuple[int, int]) -> Tensor:
    """`share(side, content, cells)` along the shorter side of an image, the same on every line across it, flat."""
    width, height = pair(size, "size (width, height)")
    rows, columns = pair(grid, "grid (rows, columns)")
    if height < width:
        lines = share(width, height, rows)[:, None]
    else:
        lines = share(height, width, columns)
    return lines.float().expand(rows, columns).reshape(-1)


@dataclass(frozen=True)
class Padding:
    """Says which tokens are padding.

    threshold  the share of a patch that may be border
    rule       how that share is computed:

    area         a patch is padding when more than `threshold` of it is border
    even         the same with the border split evenly, to half a pixel, as the authors' release computes it
    bilinear     a patch is valid when the content mask, resized bilinearly, is at least `threshold` there
    antialiased  the same, resized by Pillow as a picture of whole numbers: the threshold is always 1/2
    cropped      valid is what is left when whole lines of border are cut from both sides; there is no threshold
    sink         no place decides but the hidden state: what is silenced are attention sinks (see `sinks`, which takes
                 the threshold), as empty patches tend to be; only where hidden states are at hand
    """

    threshold: float = 0.5
    rule: str = "area"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"unknown padding rule {self.rule!r}; known: {', '.join(RULES)}")
        if self.rule == "sink":
            if not self.threshold > 1:
                raise ValueError(f"a sink's threshold is above 1, as in Padding.sink({SINK}); got {self.threshold!r}")
        elif not (0 <= self.threshold <= 1):
            raise ValueError(f"padding threshold must lie in 0..1; got {self.threshold!r}")

    @classmethod
    def sink(cls, threshold: float = SINK) -> Padding:
        """Silences the tokens that are attention sinks, wherever they lie."""
        return cls(float(threshold), "sink")

    @property
    def placed(self) -> bool:
        """Whether the place of a token decides, which the size of the source tells; else its hidden state does."""
        return self.rule != "sink"

    def valid(self, what: Any, grid: Optional[Tuple[int, int]] = None) -> Tensor:
        """True where a token shows the picture: valid(span) is [V], valid((width, height), (rows, columns)) is flat."""
        if isinstance(what, Span):
            whole = self.whole(what)
            if what.index is None:
                return whole
            # The slot behind the last belongs to index -1, a token that is not a patch.
            return torch.cat([whole, whole.new_ones(1)]).to(what.index.device)[what.index]
        size, grid = (what, grid) if grid is not None else what
        size, grid = pair(size, "size (width, height)"), pair(grid, "grid (rows, columns)")
        return square(size, grid, self.rule, self.threshold).clone()

    def whole(self, span: Span) -> Tensor:
        """[length] True where a token of the unpruned span shows the picture, or is not a patch at all. On the CPU."""
        if not self.placed:  # that nobody knows from the span
            return torch.ones(span.total, dtype=torch.bool, device="cpu")
        special = None if span.special is None else span.special.cpu()
        if span.fraction is not None:
            content = 1 - span.fraction.cpu()
            mask = content >= self.threshold if self.rule == "bilinear" else span.fraction.cpu() <= self.threshold
            return mask if special is None else mask | special
        if span.size is None:
            return torch.ones(span.total, dtype=torch.bool, device="cpu")
        frame = square(span.size, span.grid, self.rule, self.threshold)
        patches = span.total if special is None else span.total - int(special.sum())
        if patches != span.frames * len(frame):
            rows, columns = span.grid
            raise ValueError(
                f"a span of {span.total} tokens, {patches} of them patches, is not {span.frames} frame(s) of "
                f"{rows}x{columns}; give Span its `fraction` for other layouts"
            )
        mask = frame.repeat(span.frames)
        if special is None:
            return mask
        whole = torch.ones(span.total, dtype=torch.bool, device="cpu")
        whole[~special] = mask
        return whole


def sinks(states: Tensor, first: Tensor, threshold: float = SINK) -> Tensor:
    """[V] True where a hidden state [V, D] is that of an attention sink, told by that of the `first` token [D].

    A sink has a few numbers that are huge beside its others, always in the same places, and the first token is always
    one (https://arxiv.org/abs/2402.17762, https://arxiv.org/abs/2503.03321). So: some place at which both states are
    at least `threshold` times their own root mean square. No state of D numbers exceeds sqrt(D) times that.
    """
    huge = [
        part.abs() >= threshold * part.square().mean(-1, keepdim=True).sqrt()
        for part in (states.float(), first.float())
    ]
    return (huge[0] & huge[1]).any(-1)


@lru_cache(maxsize=1024)
def square(size: Tuple[int, int], grid: Tuple[int, int], rule: str, threshold: float) -> Tensor:
    """[rows*columns] the valid patches of one padded square. Shared between callers: do not write into it."""
    if rule == "bilinear":
        return sampled(size, grid) >= threshold
    if rule in ("antialiased", "cropped"):
        return _lines(shrunk if rule == "antialiased" else cropped, size, grid) > 0
    return fraction(size, grid, even=rule == "even") <= threshold


# What the authors' release calls with, method by method. The other methods have no released padding step.
RELEASED: Dict[str, Padding] = {
    "fastv": Padding(0.5, "even"),
    "himap": Padding(0.5, "even"),
    "tokencarve": Padding(0.5, "even"),
    "pyramiddrop": Padding(0.01, "even"),
    "sparsevlm": Padding(0.5, "bilinear"),
}
