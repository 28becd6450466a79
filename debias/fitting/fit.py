"""From mean attention curves to the shapes of trends.

What the ways of fitting return: shapes without amplitude, the height of the log curves, and what is left over of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, TypeVar, Union

import torch
from torch import Tensor

from debias.fitting import lines
from debias.names import FITTED
from debias.shape import Shape

S = TypeVar("S", bound=Shape)


def fit_shapes(
    made_of: Type[S],
    curves: Union[Tensor, Sequence[Sequence[float]]],
    kind: str = "exponential",
    ignore: Optional[Tensor] = None,
    weights: Optional[Tensor] = None,
    scope: str = "sequence",
    frames: int = 1,
    refine: bool = False,
    **options: Any,
) -> List[S]:
    """Fits a shape of the class to each of the curves [B, N]; Trend.fit explains the other arguments."""
    data = torch.as_tensor(curves).detach().cpu().double()
    if data.dim() != 2 or not data.shape[1]:
        raise ValueError(f"a curve needs at least one position; got curves of shape {tuple(data.shape)}")
    length = data.shape[1]
    if frames < 1 or length % frames:
        raise ValueError(f"a trend per frame needs equal frames; got {length} positions in {frames} frames")
    log, weight = lines.prepare(data, *(None if t is None else t.detach().cpu() for t in (ignore, weights)))
    used = (weight > 0).sum(1).tolist()
    if used and min(used) < 2:
        raise ValueError(
            f"a trend needs at least 2 positions that are positive, finite and not to be ignored; "
            f"curve {used.index(min(used))} has {min(used)} of {length}"
        )
    if refine and (kind, scope) != ("exponential", "sequence"):
        raise ValueError(f"only an exponential over the sequence can be refined; got {kind} over {scope}")
    if scope == "factorised":
        made, height, rest = _both_ways(made_of, log, weight, kind, frames)
    elif kind in ("exponential", "rope"):
        made, height, rest = _straight(made_of, log, weight, kind, 1 if scope == "sequence" else frames, options)
    elif kind in ("inverse_cubic", "average"):
        made, height, rest = _shaped(made_of, log, weight, kind, 1 if scope == "sequence" else frames, options)
    else:
        raise ValueError(f"cannot fit a trend of kind {kind!r}; kinds that can be fitted: {', '.join(FITTED)}")
    if refine:
        made, height, rest = _refined(log, weight, made, height)
    if scope == "frame":
        made = [trend.per_frame() for trend in made]
    r2, amplitude = lines.explained(log, weight, rest).tolist(), height.exp().tolist()
    residual = rest.where(weight > 0, torch.full_like(rest, float("nan")))
    return [
        replace(trend, amplitude=amplitude[n], r2=r2[n], residual=residual[n].float()) for n, trend in enumerate(made)
    ]


def _straight(
    made_of: Type[S], log: Tensor, weight: Tensor, kind: str, frames: int, options: Dict[str, Any]
) -> Tuple[List[S], Tensor, Tensor]:
    """Kinds whose logarithm is one number times something known: that number is the slope of a line."""
    base, count = made_of.rope(**options) if kind == "rope" else made_of("exponential"), log.shape[1] // frames
    slope, height, rest = lines.regress(log, weight, base.regressor(count).repeat(frames))
    return [replace(base, rate=rate, length=count) for rate in slope.tolist()], height, rest


def _both_ways(made_of: Type[S], log: Tensor, weight: Tensor, kind: str, frames: int) -> Tuple[List[S], Tensor, Tensor]:
    """An exponential within the frames times one over them."""
    if kind != "exponential":
        raise ValueError(f"a factorised trend is fitted with exponentials; got kind {kind!r}")
    count, i = log.shape[1] // frames, torch.arange(log.shape[1])
    within, between, height, rest = lines.plane(log, weight, (i % count).to(log), (i // count).to(log))
    made = [
        made_of.factorised(
            replace(made_of.exponential(inner), length=count), replace(made_of.exponential(outer), length=frames)
        )
        for inner, outer in zip(within.tolist(), between.tolist())
    ]
    return made, height, rest


def _shaped(
    made_of: Type[S], log: Tensor, weight: Tensor, kind: str, frames: int, options: Dict[str, Any]
) -> Tuple[List[S], Tensor, Tensor]:
    """Kinds that follow the curve's own shape, averaged over the frames."""
    count = log.shape[1] // frames
    seen = weight.reshape(len(log), frames, count)
    total = seen.sum(1)
    curves = (log.exp().reshape(seen.shape) * seen).sum(1) / total.clamp(min=torch.finfo(log.dtype).tiny)
    if kind == "average":
        made = [made_of.average(lines.bridge(row, there), **options) for row, there in zip(curves, total > 0)]
    else:
        cubics = [lines.cubic(row, share) for row, share in zip(curves, total)]
        made = [replace(made_of.inverse_cubic(*cubic), length=count) for cubic in cubics]
    shape = torch.stack([-trend.curve(count).log() for trend in made]).repeat(1, frames)
    _, height, rest = lines.regress(log - shape, weight, torch.zeros_like(log))
    return made, height, rest


def _refined(log: Tensor, weight: Tensor, made: List[S], height: Tensor) -> Tuple[List[S], Tensor, Tensor]:
    """The closed form as a first guess of amplitude * exp(rate * i) + offset."""
    i = torch.arange(log.shape[1], dtype=log.dtype)
    better, heights, rests = [], [], []
    for curve, share, trend, start in zip(log.exp(), weight, made, height.exp().tolist()):
        rate, amplitude, offset = lines.refine(curve, share, trend.rate, start)
        better.append(replace(trend, rate=rate, floor=offset / amplitude))
        heights.append(math.log(amplitude))
        rests.append(curve.log() - (amplitude * (rate * i).exp() + offset).log())
    return better, torch.tensor(heights, dtype=log.dtype), torch.stack(rests)
