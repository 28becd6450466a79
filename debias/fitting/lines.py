"""Straight lines through log curves, in closed form, many at once: what the fitting of a trend is made of."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from torch import Tensor

STRAIGHT = 1e-9  # a rise or a bend over the whole curve that is rounding alone


def prepare(curve: Tensor, ignore: Optional[Tensor] = None, weights: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
    """The logarithm of a curve and each position's weight; NaN, infinite, zero and negative values weigh nothing."""
    weight = torch.ones_like(curve) if weights is None else weights.to(curve).expand_as(curve)
    good = torch.isfinite(curve) & (curve > 0) & torch.isfinite(weight) & (weight > 0)
    if ignore is not None:
        good = good & ~ignore.to(torch.bool)
    return torch.where(good, curve, torch.ones_like(curve)).log(), torch.where(good, weight, torch.zeros_like(weight))


def regress(y: Tensor, weight: Tensor, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Slope, height at 0 and what is left over of the weighted least-squares line of y on x, along the last axis.

    Never waits for the device. Where fewer than two positions have weight the slope is 0.
    """
    share = shares(weight)
    middle, level = (share * x).sum(-1, keepdim=True), (share * y).sum(-1, keepdim=True)
    dx, dy = x - middle, y - level
    spread = (share * dx * dx).sum(-1, keepdim=True)
    # One position, or none, has no slope: its spread is zero up to rounding.
    flat = spread <= torch.finfo(y.dtype).eps * (share * x * x).sum(-1, keepdim=True)
    slope = torch.where(flat, torch.zeros_like(spread), (share * dx * dy).sum(-1, keepdim=True) / spread)
    return slope.squeeze(-1), (level - slope * middle).squeeze(-1), dy - slope * dx


def shares(weight: Tensor) -> Tensor:
    """Weights that sum to 1, or stay 0 where there are none."""
    return weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


def explained(log: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    """R^2: the share of the variance of log(curve) that a fit has taken out; 1 for a constant curve."""
    share = shares(weight)
    level = (share * log).sum(-1, keepdim=True)
    total, left = (share * (log - level) ** 2).sum(-1), (share * rest**2).sum(-1)
    # A constant curve varies by rounding alone, and rounding needs no explanation.
    rounding = (8 * torch.finfo(log.dtype).eps * (1 + level.squeeze(-1).abs())) ** 2
    r2 = 1 - left / total.clamp(min=torch.finfo(log.dtype).tiny)
    return torch.where(total <= rounding, torch.ones_like(total), r2)


def plane(log: Tensor, weight: Tensor, first: Tensor, second: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two slopes of log = height + s1 * first + s2 * second, the height, and what is left over.

    In closed form: what `first` says about `second` is taken out of `second`, and what remains shows its own slope.
    """
    pure = regress(second.expand_as(log), weight, first)[2]
    second_slope = regress(log, weight, pure)[0]
    first_slope, height, rest = regress(log - second_slope.unsqueeze(-1) * second, weight, first)
    return first_slope, second_slope, height, rest


def cubic(curve: Tensor, weight: Tensor) -> Tuple[float, float, float]:
    """c1, c2, c3 of curve ~ 1 + c1 i + c2 i^2 + c3 i^3 up to a factor, by weighted least squares on one curve."""
    good = weight > 0
    if int(good.sum()) < 4:
        raise ValueError(f"a cubic needs at least 4 usable positions; this curve has {int(good.sum())} of {len(curve)}")
    scale = len(curve)  # positions in 0..1: the powers stay comparable
    x = torch.arange(len(curve), dtype=curve.dtype)[good] / scale
    powers = torch.stack([x**n for n in range(4)], dim=1)
    root = weight[good].sqrt()[:, None]
    a, b, c, d = torch.linalg.lstsq(powers * root, curve[good][:, None] * root).solution.flatten().tolist()
    if a <= 0:
        raise ValueError("the cubic that fits this curve is not positive at position 0, so it cannot be a trend")
    return b / a / scale, c / a / scale**2, d / a / scale**3


def refine(curve: Tensor, weight: Tensor, rate: float, amplitude: float) -> Tuple[float, float, float]:
    """rate, amplitude, offset of curve = amplitude * exp(rate * i) + offset, from a first guess; needs scipy.

    Solved as start + slope * (exp(rate * i) - 1) / rate. At rate 0 that is a straight line, behind which lie the curves
    that bend the other way: the solver walks through to them, and does not rest beside the line with a huge amplitude.
    """
    import numpy
    from scipy.optimize import least_squares

    good = weight > 0
    if int(good.sum()) < 4:
        raise ValueError(f"the refinement needs 4 usable positions; this curve has {int(good.sum())} of {len(curve)}")
    x, y = numpy.arange(len(curve))[good.numpy()], curve[good].numpy()
    root = weight[good].sqrt().numpy()
    # Units of order one for the solver: heights in the curve's mean, positions in its length.
    height, width = float(y.mean()), float(len(curve))

    def rise(bend: float, at: Any) -> Any:
        return numpy.expm1(numpy.clip(bend * at, -50, 50)) / bend if bend else at

    def miss(p: Any) -> Any:
        return root * (p[2] + p[1] * rise(p[0], x / width) - y / height)

    guess = [rate * width, amplitude * rate * width / height, amplitude / height]
    bend, slope, start = least_squares(miss, guess, ftol=1e-12, gtol=1e-12).x.tolist()
    if abs(slope * rise(bend, 1)) < STRAIGHT:
        return 0.0, start * height, 0.0
    if abs(bend) < STRAIGHT or slope / bend < 0:
        raise ValueError(
            "this curve is straight or bends away from amplitude * exp(rate * i) + offset; fit it without refine"
        )
    return bend / width, slope / bend * height, (start - slope / bend) * height


def bridge(curve: Tensor, seen: Tensor) -> Tensor:
    """A positive curve with the positions that were not seen interpolated, in the logarithm, from the others."""
    import numpy

    at = numpy.arange(len(curve))
    known = seen.numpy()
    return torch.from_numpy(numpy.exp(numpy.interp(at, at[known], curve[seen].log().numpy())))
