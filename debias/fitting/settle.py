"""Whether there is a trend to divide by, told from the pictures it was fitted to: a shrinkage with a stated rule.

Every fit finds some slope, in noise as well, and dividing by it then adds a bias where none was. So a fitted
exponential is kept only when both hold, and otherwise its weights are 1 ("no trend here"):

  1. the 95 % interval of its rate, over pictures drawn with repetition, leaves out 0;
  2. it explains at least 5 % of the variance of the logarithm of the mean curve (R^2).

Released trends are what their authors released, and never pass through here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, List, Optional, Sequence, Tuple, TypeVar

import torch
from torch import Tensor

from debias.shape import Shape
from debias.trend import Trend, fit_all

DRAWS = 1000
LEAST_R2 = 0.05
NONE = "no trend here"
S = TypeVar("S", bound=Shape)


@dataclass(frozen=True)
class Settled:
    """What pictures say about a trend.

    trend   what to divide by: the fitted trend, or weights of 1
    fitted  the fit itself
    rise    log of last over first of the fit, and its 95 % interval over pictures
    rates   [1 + draws] the rate of all pictures, then of every resample
    """

    trend: Trend
    fitted: Trend
    rise: Tuple[float, float, float]
    rates: Tensor

    @property
    def agreed(self) -> bool:
        """Whether there is a trend to divide by."""
        return self.trend is self.fitted


def settle(
    pictures: Tensor,
    ignore: Optional[Tensor] = None,
    groups: Optional[Sequence[Any]] = None,
    draws: int = DRAWS,
    seed: int = 0,
    **how: Any,
) -> Settled:
    """The exponential that fits the mean of curves [pictures, N], where their own spread leaves no doubt about it.

    NaN in a curve: a position without a score (padding). `groups` names the picture of each curve where several ask
    about one, because whole pictures are drawn. `ignore`, and what else there is to say, as for Trend.fit.
    """
    curves = resampled(pictures, groups, draws, seed)
    trends = fit_all(curves, "exponential", ignore, **how)
    fitted, slopes = trends[0], _slopes(trends)
    low, high = torch.quantile(slopes[1:], torch.tensor([0.025, 0.975], dtype=slopes.dtype), dim=0)
    assert fitted.r2 is not None
    assert fitted.length is not None
    sure = bool(((low > 0) | (high < 0)).any()) and fitted.r2 >= LEAST_R2
    reach = fitted.length - 1
    rise = (float(slopes[0, 0]) * reach, float(low[0]) * reach, float(high[0]) * reach)
    return Settled(fitted if sure else none(fitted), fitted, rise, slopes[:, 0])


def none(trend: S) -> S:
    """The same trend with weights of 1; how well it fitted stays with it."""
    between = None if trend.between is None else none(trend.between)
    return replace(trend, rate=0.0, floor=0.0, between=between)


def _slopes(trends: List[Trend]) -> Tensor:
    """[fits, 1 or 2] rates; the second is that over frames."""
    rows = [[trend.rate] + ([trend.between.rate] if trend.between is not None else []) for trend in trends]
    return torch.tensor(rows, dtype=torch.float64)


def resampled(
    pictures: Tensor,
    groups: Optional[Sequence[Any]] = None,
    draws: int = DRAWS,
    seed: int = 0,
    size: Optional[int] = None,
) -> Tensor:
    """[1 + draws, N] the mean curve of all pictures, then of pictures drawn with repetition; NaN where nothing is.

    size: how many pictures each draw has; as many as there are, unless it says otherwise.
    """
    data = torch.as_tensor(pictures).detach().cpu().double()
    names = list(range(len(data))) if groups is None else list(groups)
    if len(names) != len(data):
        raise ValueError(f"expected a group for each of the {len(data)} curves, found {len(names)}")
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    place = torch.tensor([known[name] for name in names])
    seen = torch.isfinite(data)
    sums, counts = (
        torch.zeros(len(known), data.shape[1], dtype=torch.float64).index_add_(0, place, part)
        for part in (torch.where(seen, data, torch.zeros_like(data)), seen.double())
    )
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(known), (draws, size or len(known)), generator=generator)
    times = torch.zeros(1 + draws, len(known), dtype=torch.float64)
    times[0] = 1
    times[1:].scatter_add_(1, picked, torch.ones_like(picked, dtype=torch.float64))
    return times @ sums / (times @ counts)  # 0 / 0 is NaN
